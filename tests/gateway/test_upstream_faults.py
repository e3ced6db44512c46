"""Everything that upstream can do wrong, before the headers and after them, and how the client hears of it."""

import json
import re

import pytest
from fake_vllm import FakeVLLM, Script
from gateway.rig import Gateway, events, wait
from suffice.server.gateway import service
from suffice.server.ledger.amounts import Resource

QUESTION = [{"role": "user", "content": "what is it?"}]
BODIES = {
    "/v1/chat/completions": {"model": "fake", "messages": QUESTION},
    "/v1/completions": {"model": "fake", "prompt": "what is it?"},
    "/v1/responses": {"model": "fake", "input": "what is it?"},
    "/v1/messages": {"model": "fake", "messages": QUESTION, "max_tokens": 2048},
}
apis = pytest.mark.parametrize("path", BODIES)
streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
QUICK = {"upstream": {"silence_timeout_s": 1.0}}
PRIVATE = re.compile(r"127\.0\.0\.1|localhost|://|/(tmp|home|root|usr|srv|models)")


def error_of(answer, path):
    body = answer.json()
    if path == "/v1/messages":
        assert body["type"] == "error"
    assert not PRIVATE.search(answer.text)
    return body["error"]


def ending(answer, path):
    """The error that ends a broken stream, which must be in its API's own form."""
    assert answer.status_code == 200
    assert not PRIVATE.search(answer.text)
    found = events(answer.text)
    match path:
        case "/v1/messages":
            assert found[-1].name == found[-1].data["type"] == "error"
            return found[-1].data["error"]
        case "/v1/responses":
            assert found[-1].name == found[-1].data["type"] == "error"
            numbers = [event.data["sequence_number"] for event in found]
            assert numbers == list(range(len(found)))
            return found[-1].data
        case _:
            assert found[-1].data == "[DONE]"
            assert found[-2].data.keys() == {"error"}
            assert all("error" not in event.data for event in found[:-2])
            return found[-2].data["error"]


def settled_once(gate, id_):
    """One settlement, nothing reserved; what was generated is charged."""
    gate.idle()
    mine = [one for one in gate.settled() if one.state == "open"]
    assert mine == []
    spent, reserved = gate.usage(f"key:{id_}")
    assert reserved == 0
    assert gate.usage(f"key:{id_}", Resource.REQUESTS) == (1, 0)
    return spent


@apis
@streamed
@pytest.mark.parametrize(
    ("kind", "fault", "status", "code"),
    [
        pytest.param("status", {"status": 500}, 502, "upstream_error", id="500"),
        pytest.param("status", {"status": 502}, 502, "upstream_error", id="502"),
        pytest.param("status", {"status": 503}, 503, "server_overloaded", id="503"),
        pytest.param("status", {"status": 429}, 503, "server_overloaded", id="429"),
        pytest.param("status", {"status": 504}, 504, "upstream_timeout", id="504"),
        pytest.param("status", {"status": 400, "message": "n is wrong"}, 400, "invalid_value", id="400"),
        pytest.param("status", {"status": 422, "message": "n is wrong"}, 400, "invalid_value", id="422"),
        pytest.param("status", {"status": 404, "message": "no model"}, 404, "model_not_found", id="404"),
        pytest.param("status", {"status": 413}, 413, "request_too_large", id="413"),
        pytest.param("status", {"status": 401}, 502, "upstream_error", id="401"),
        pytest.param("status", {"status": 501}, 400, "invalid_value", id="501"),
        pytest.param(
            "status",
            {"status": 400, "message": "This model's maximum context length is 5 tokens."},
            400,
            "context_length_exceeded",
            id="context",
        ),
        pytest.param("reset_before_headers", {}, 502, "upstream_error", id="reset"),
        pytest.param("wrong_content_type", {}, 502, "upstream_error", id="no-event-stream"),
    ],
)
def test_before_the_headers(gate, path, stream, kind, fault, status, code):
    id_, key = gate.key()
    gate.fake.fail(kind, **fault)
    answer = gate.post(path, BODIES[path] | {"stream": stream}, key=key)
    assert answer.status_code == status, answer.text
    error = error_of(answer, path)
    assert error["code"] == code
    assert (answer.headers.get("x-should-retry") == "false") == (status not in (502, 503, 504) and status >= 429)
    assert ("retry-after" in answer.headers) == (status in (502, 503, 504) and kind != "wrong_content_type")
    assert settled_once(gate, id_) == 0


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        pytest.param("no file /srv/models/x.json at http://10.0.0.7:8000/v1", "no file ... at ...", id="addresses"),
        pytest.param(
            "1 validation error:\n  {'type': 'int', 'loc': 'n', 'msg': 'not whole', 'input': 'my \\'secret\\' text'}",
            "1 validation error:\n  {'type': 'int', 'loc': 'n', 'msg': 'not whole'}",
            id="what-was-sent",
        ),
        pytest.param("x" * 5000, "x" * 500, id="long"),
        pytest.param("input/output and/or top_p 0.5", "input/output and/or top_p 0.5", id="harmless"),
        pytest.param("", "upstream refused the request", id="empty"),
    ],
)
def test_upstreams_refusals_are_passed_on_without_its_address_or_our_text(gate, message, shown):
    gate.fake.fail("status", status=400, message=message)
    answer = gate.post("/v1/chat/completions", BODIES["/v1/chat/completions"])
    assert answer.json()["error"]["message"] == shown


@apis
@streamed
def test_hanging_before_the_headers_is_a_timeout(make, path, stream):
    gate = make(QUICK)
    id_, key = gate.key()
    gate.fake.fail("hang_before_headers")
    answer = gate.post(path, BODIES[path] | {"stream": stream}, key=key)
    assert answer.status_code == 504
    assert error_of(answer, path)["code"] == "upstream_timeout"
    assert settled_once(gate, id_) == 0
    assert gate.fake.aborted == 1


MIDSTREAM = [
    pytest.param("hang", {}, "upstream_timeout", id="hang"),
    pytest.param("reset", {}, "upstream_error", id="reset"),
    pytest.param("reset_in_event", {}, "upstream_error", id="reset-in-event"),
    pytest.param("end", {}, "upstream_error", id="ends-early"),
    pytest.param("invalid_json", {}, "upstream_error", id="no-json"),
    pytest.param("nan", {}, "upstream_error", id="nan"),
]


@apis
@pytest.mark.parametrize(("kind", "fault", "code"), MIDSTREAM)
def test_after_the_headers(make, path, kind, fault, code):
    gate = make(QUICK)
    gate.fake.says(Script.of(thought="a b c", answer="d e f g h i j"))
    gate.fake.settings.token_s = 0.01  # a reset would throw away what arrives together with it
    id_, key = gate.key()
    gate.fake.fail(kind, after=6, **fault)
    answer = gate.post(path, BODIES[path] | {"stream": True}, key=key)
    assert ending(answer, path)["code"] == code
    spent = settled_once(gate, id_)
    assert 0 < spent <= gate.fake.requests[0].prompt_tokens + gate.fake.generated_tokens


@apis
@pytest.mark.parametrize(("kind", "fault", "code"), MIDSTREAM)
def test_a_whole_answer_that_breaks_is_an_error_with_a_status(make, path, kind, fault, code):
    gate = make(QUICK)
    gate.fake.settings.token_s = 0.01
    id_, key = gate.key()
    gate.fake.fail(kind, after=6, **fault)
    answer = gate.post(path, BODIES[path], key=key)
    assert answer.status_code == {"upstream_timeout": 504, "upstream_error": 502}[code]
    assert error_of(answer, path)["code"] == code
    assert settled_once(gate, id_) > 0


def test_an_event_that_is_too_large_ends_the_stream(gate):
    path = "/v1/chat/completions"
    gate.fake.fail("oversized_event", after=4)
    assert ending(gate.post(path, BODIES[path] | {"stream": True}), path)["code"] == "upstream_error"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_an_error_event_of_upstreams_ends_the_stream_with_our_error(gate, path):
    gate.fake.fail("error_event", after=4, status=500, message="engine died at /srv/x")
    assert ending(gate.post(path, BODIES[path] | {"stream": True}), path)["code"] == "upstream_error"


def test_an_error_event_of_the_messages_api_does_too(gate):
    gate.fake.fail("error_event", after=4)
    path = "/v1/messages"
    assert ending(gate.post(path, BODIES[path] | {"stream": True}), path)["code"] == "upstream_error"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages"])
def test_a_stream_without_a_finish_is_an_error(gate, path):
    gate.fake.fail("no_finish")
    if path == "/v1/messages":
        gate.fake.app.faults[0].kind = "end"
        gate.fake.app.faults[0].after = 5
    assert ending(gate.post(path, BODIES[path] | {"stream": True}), path)["code"] == "upstream_error"


@streamed
def test_one_broken_sample_ends_all(gate, stream):
    gate.fake.settings.token_s = 0.002
    gate.fake.says(Script.of(answer="more", endless=True))
    id_, key = gate.key()
    gate.fake.fail("reset", after=10)
    body = BODIES["/v1/chat/completions"] | {"n": 4, "stream": stream, "max_tokens": 500}
    answer = gate.post("/v1/chat/completions", body, key=key)
    if stream:
        assert ending(answer, "/v1/chat/completions")["code"] == "upstream_error"
    else:
        assert answer.status_code == 502
    spent = settled_once(gate, id_)
    assert spent > 0
    assert [one.outcome for one in gate.fake.requests].count("aborted") == 3


@pytest.mark.parametrize("kind", ["reset", "end", "invalid_json"])
def test_a_fault_in_the_resumed_part_of_a_thought_is_an_error_too(make, kind):
    gate = make(reasoning_config=False)
    gate.fake.says(Script.of(answer="the answer is long enough", endless_thought=True))
    gate.fake.fail(kind, after=2, path="/v1/completions")
    body = BODIES["/v1/chat/completions"] | {"suffice": {"budget": {"thinking_tokens": 5, "total_tokens": 99}}}
    path = "/v1/chat/completions"
    assert ending(gate.post(path, body | {"stream": True}), path)["code"] == "upstream_error"


@apis
@streamed
def test_upstream_that_generates_more_than_allowed_is_cut(gate, path, stream):
    from fake_vllm import intake  # noqa: PLC0415 - the fake is bent for this test alone

    id_, key = gate.key()
    gate.fake.says(Script.of(answer="more", endless=True))
    plan = intake.job

    def greedy(*args):
        job = plan(*args)
        job.max_tokens = [limit + 5 for limit in job.max_tokens]
        return job

    intake.job = greedy
    try:
        body = BODIES[path] | {"stream": stream, "suffice": {"budget": {"total_tokens": 30}}}
        answer = gate.post(path, body, key=key)
    finally:
        intake.job = plan
    if stream:
        assert ending(answer, path)["code"] == "upstream_error"
    else:
        assert (answer.status_code, error_of(answer, path)["code"]) == (502, "upstream_error")
    assert settled_once(gate, id_) <= 30 + gate.fake.requests[0].prompt_tokens
    assert gate.metric("suffice_budget_overshoot_tokens_total") == 0


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A fake and a gateway of the test's own, to be stopped and started."""
    monkeypatch.setattr(service, "RETRY_DISCOVERY_S", 0.02)
    monkeypatch.setattr(service, "REFRESH_MODELS_S", 0.05)
    fake = FakeVLLM()
    fake.start()
    gate = Gateway(fake, tmp_path, {"upstream": {"connect_timeout_s": 1}})
    yield gate
    gate.stop()
    fake.__exit__(None, None, None)


def test_upstream_that_is_down_at_the_start_is_waited_for(own):
    own.fake.stop()
    own.start(ready=False)
    assert own.client.get("/ready").status_code == 503
    assert own.client.get("/health").status_code == 200
    for path, body in BODIES.items():
        answer = own.post(path, body)
        assert (answer.status_code, error_of(answer, path)["code"]) == (503, "upstream_not_ready")
        assert answer.headers["retry-after"] == "2"
    own.fake.start()
    wait(lambda: own.client.get("/ready").status_code == 200)
    for path, body in BODIES.items():
        assert own.post(path, body).status_code == 200


def test_models_that_come_and_go_are_noticed(own):
    own.start()
    own.fake.settings.models = ("fake", "adapter")
    wait(lambda: "adapter" in own.service.served)
    body = BODIES["/v1/chat/completions"] | {"model": "adapter"}
    assert own.post("/v1/chat/completions", body).json()["model"] == "adapter"
    own.fake.settings.models = ("fake",)
    wait(lambda: "adapter" not in own.service.served)
    assert own.post("/v1/chat/completions", body).status_code == 404


def test_upstream_that_goes_down_later_is_an_error_until_it_is_back(own):
    own.start()
    id_, key = own.key()
    own.fake.stop()
    path = "/v1/chat/completions"
    answer = own.post(path, BODIES[path], key=key)
    assert answer.status_code == 502
    assert error_of(answer, path)["code"] == "upstream_unreachable"
    assert own.usage(f"key:{id_}") == (0, 0)
    for other in ("/v1/embeddings", "/v1/messages/count_tokens"):
        body = {"model": "fake", "input": "x"} if "emb" in other else {"model": "fake", "messages": QUESTION}
        assert own.post(other, body).status_code == 502
    own.fake.start()
    assert own.post(path, BODIES[path], key=key).status_code == 200
    assert own.usage(f"key:{id_}")[1] == 0


@pytest.mark.parametrize(
    "cards",
    [
        pytest.param({"data": "x"}, id="data-no-list"),
        pytest.param({"data": [5]}, id="card-no-object"),
        pytest.param({"data": [{"id": "fake", "max_model_len": "x"}]}, id="wrong-types"),
        pytest.param({}, id="nothing"),
    ],
)
def test_a_list_of_models_that_makes_no_sense_is_asked_for_again(own, cards):
    from fake_vllm import beside  # noqa: PLC0415 - the fake is bent for this test alone

    real = beside.Beside._models
    asked = []

    async def wrong(self, request):
        asked.append(1)
        answer = await real(self, request)
        answer.body = json.dumps(cards).encode()
        answer.headers["content-length"] = str(len(answer.body))
        return answer

    beside.Beside._models = wrong
    own.fake.app.__init__(own.fake.settings, own.fake.app.model)
    try:
        own.start(ready=False)
        wait(lambda: len(asked) >= 1)
    finally:
        beside.Beside._models = real
        own.fake.app.__init__(own.fake.settings, own.fake.app.model)
    wait(lambda: "fake" in own.service.served and own.service.served["fake"].context == 4096)
