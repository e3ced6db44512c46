"""Requests that are refused: the error's form, an untouched upstream and an untouched account, and nothing told."""

import json
import re

import httpx2
import pytest
from suffice.server.ledger.amounts import Resource

CHAT = "/v1/chat/completions"
MARK = "canary-7391"
ASK = [{"role": "user", "content": MARK}]
BODIES = {
    CHAT: {"model": "fake", "messages": ASK},
    "/v1/completions": {"model": "fake", "prompt": MARK},
    "/v1/responses": {"model": "fake", "input": MARK},
    "/v1/messages": {"model": "fake", "messages": ASK, "max_tokens": 2000},
    "/v1/messages/count_tokens": {"model": "fake", "messages": ASK},
    "/v1/embeddings": {"model": "fake", "input": MARK},
}
PRIVATE = re.compile(r"127\.0\.0\.1|localhost|://|/(tmp|home|root|usr|models)|" + MARK)


def fault(answer, path):
    """The error of an answer, in the form of its API."""
    body = answer.json()
    if path.startswith("/v1/messages"):
        assert body["type"] == "error"
        assert body.keys() == {"type", "error"}
        assert body["error"].keys() == {"type", "message", "code"}
    else:
        assert body.keys() == {"error"}
        assert body["error"].keys() == {"message", "type", "param", "code"}
    error = body["error"]
    assert isinstance(error["code"], str)
    assert isinstance(error["type"], str)
    assert error["message"]
    assert len(error["message"]) < 700
    assert not PRIVATE.search(json.dumps(error)), error
    return error


@pytest.fixture
def refuse(gate):
    """Send a body and check that it is refused with nothing changed."""
    id_, key = gate.key()

    def send(path, content, status, code, param=None, **headers):
        named = {"authorization": f"Bearer {key}", "content-type": "application/json"} | headers
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        answer = gate.client.post(path, content=content, headers=named)
        assert answer.status_code == status, answer.text
        error = fault(answer, path)
        assert error["code"] == code, error
        if param is not None and "param" in error:
            assert error["param"] == param
        assert gate.fake.requests == []
        assert gate.usage(f"key:{id_}") == (0, 0)
        assert gate.usage(f"key:{id_}", Resource.REQUESTS) == (0, 0)
        return answer, error

    return send


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(b"", "invalid_json", id="empty"),
        pytest.param(b'{"model": "fake", "messages": [', "invalid_json", id="cut"),
        pytest.param(b'["' + MARK.encode() + b'"]', "invalid_json", id="array"),
        pytest.param(b'{"model": "fake", "model": "other"}', "invalid_json", id="same-key-twice"),
        pytest.param(b'{"model": "fake", "temperature": NaN}', "invalid_json", id="nan"),
        pytest.param(b'{"model": "fake", "temperature": -Infinity}', "invalid_json", id="infinity"),
        pytest.param(b'{"model": "fake", "temperature": 1e999}', "invalid_json", id="overflows-to-infinity"),
        pytest.param(b'{"model": "fake", "seed": 9223372036854775808}', "invalid_json", id="more-than-64-bits"),
        pytest.param(b'{"model": "fake", "x": ' + b"9" * 6000 + b"}", "invalid_json", id="thousands-of-digits"),
        pytest.param(b'{"a":' * 80 + b"1" + b"}" * 80, "invalid_json", id="deep"),
        pytest.param(b"[" * 50_000, "invalid_json", id="very-deep"),
        pytest.param(b'{"model": "\xff"}', "invalid_json", id="not-utf8"),
        pytest.param(b'{"model": "\\ud800"}', "invalid_json", id="lone-surrogate"),
        pytest.param(b"{}", "invalid_type", id="nothing"),
    ],
)
def test_bodies(refuse, path, content, code):
    if content == b"{}" and path == "/v1/messages":
        refuse(path, content, 400, code, "messages")
    else:
        refuse(path, content, 400, code)


def cases():
    """Wrong types and values by path, with the field that the error must name."""
    wrong = {
        CHAT: {
            "model": [5, None, "", [], {}],
            "messages": [5, "text", [], {}, [5], [None], ["text"]],
            "max_tokens": [0, -1, "9", 1.5, True, [], 2**40],
            "max_completion_tokens": [0, -5, "9", 1.5, False, {}],
            "n": [0, -1, "2", 1.5, True, 129, 2**60],
            "stream": [1, "yes", []],
            "temperature": ["hot", [], True, {}],
            "top_p": ["0.5", True],
            "presence_penalty": ["a"],
            "top_k": [1.5, "3", True],
            "seed": ["one", 1.5, True],
            "stop": [5, {}, True],
            "logprobs": ["yes", [], 1.5],
            "top_logprobs": ["5", True],
            "logit_bias": [[], "x", 5],
            "tools": [{}, "x", 5],
            "tool_choice": [5, []],
            "response_format": ["json", 5, []],
            "parallel_tool_calls": ["yes", 1],
            "reasoning_effort": ["immense", 5, [], {}],
            "thinking_token_budget": ["5", -2, 1.5, True],
            "stop_token_ids": [5, "x"],
            "ignore_eos": ["yes", 1],
            "min_tokens": ["5", 1.5],
            "return_token_ids": ["yes"],
            "structured_outputs": [[], "x"],
            "chat_template_kwargs": [[], "x", {"tokenize": True}],
        },
        "/v1/completions": {
            "prompt": [5, None, "", [], {}, [[]], [5, "x"], [True], [1.5], ["x"] * 129],
            "max_tokens": [0, "9", 2**40],
            "n": [0, 129],
            "echo": ["yes", 1],
            "logprobs": ["x", []],
        },
        "/v1/responses": {
            "input": [5, None, "", [], {}],
            "max_output_tokens": [0, "9", True],
            "instructions": [5, []],
            "reasoning": ["high", [], {"effort": "immense"}, {"effort": []}],
            "text": ["x", []],
            "stream": ["yes"],
            "previous_response_id": ["resp_1"],
            "background": ["yes", True],
        },
        "/v1/messages": {
            "messages": [5, "x", [], {}, [5]],
            "max_tokens": [None, 0, "9", True],
            "system": [5, {}],
            "stop_sequences": ["x", {}],
            "thinking": ["x", 5, [1], *({"type": "enabled", "budget_tokens": n} for n in (None, 5, 5000, "x"))],
            "output_config": ["x", [], {"effort": "immense"}, {"effort": []}],
            "tools": [{}, "x"],
        },
        "/v1/embeddings": {"input": [5, None, "", [], {}, [[]], [5, "x"], ["x"] * 2049]},
    }
    for path, fields in wrong.items():
        for name, values in fields.items():
            for number, value in enumerate(values):
                yield pytest.param(path, name, value, id=f"{path.rpartition('/')[2]}-{name}-{number}")


@pytest.mark.parametrize(("path", "name", "value"), list(cases()))
def test_wrong_types_and_values_name_their_field(refuse, path, name, value):
    _, error = refuse(path, BODIES[path] | {name: value}, 400, error_code(name, value))
    if "param" in error:
        assert error["param"].partition(".")[0] == name
    else:
        assert name.removesuffix("s") in error["message"]


def error_code(name, value):
    """A wrong type is told apart from a wrong value of the right type."""
    if name == "chat_template_kwargs":
        return "forbidden_parameter"
    by_value = {"reasoning_effort", "previous_response_id"}
    if name in by_value or (name == "background" and value is True):
        return "invalid_value"
    if name in ("thinking", "reasoning", "output_config") and isinstance(value, dict):
        return "invalid_type" if value.get("budget_tokens") == "x" else "invalid_value"
    if name == "max_tokens" and value is None:
        return "invalid_value"
    numbers = name in ("n", "max_tokens", "max_completion_tokens", "max_output_tokens", "thinking_token_budget")
    return "invalid_value" if numbers and type(value) is int else "invalid_type"


FORBIDDEN = [
    "cache_salt", "chat_template", "documents", "ec_transfer_params", "kv_transfer_params", "logits_processors",
    "media_io_kwargs", "mm_processor_kwargs", "priority", "prompt_logprobs", "request_id", "session_id",
    "truncate_prompt_tokens", "use_beam_search", "vllm_xargs",
]  # fmt: skip


@pytest.mark.parametrize("path", [path for path in BODIES if "count" not in path])
@pytest.mark.parametrize("name", FORBIDDEN)
def test_vllms_own_fields_are_out_of_reach(refuse, path, name):
    refuse(path, BODIES[path] | {name: MARK}, 400, "forbidden_parameter", name)


@pytest.mark.parametrize(
    ("path", "name", "near"),
    [
        pytest.param(CHAT, "max_token", "max_tokens", id="near"),
        pytest.param(CHAT, "best_of", "", id="far"),
        pytest.param(CHAT, "", "", id="empty"),
        pytest.param(CHAT, "x" * 500_000, "", id="long"),
        pytest.param("/v1/responses", "max_tokens", "max_output_tokens", id="responses"),
        pytest.param("/v1/messages", "max_completion_tokens", "", id="messages"),
    ],
)
def test_unknown_parameters_are_refused_with_the_nearest_name(refuse, path, name, near):
    _, error = refuse(path, BODIES[path] | {name: 5}, 400, "unknown_parameter")
    assert f"did you mean {near!r}" in error["message"] if near else "unknown parameter" in error["message"]


@pytest.mark.parametrize("path", [path for path in BODIES if "count" not in path and "embed" not in path])
@pytest.mark.parametrize(
    ("field", "code", "param", "says"),
    [
        pytest.param([], "invalid_type", "suffice", "object", id="array"),
        pytest.param({"buget": {}}, "unknown_parameter", "suffice.buget", "'budget'", id="near"),
        pytest.param(
            {"budget": {"total_token": 5}}, "unknown_parameter", "suffice.budget.total_token", "'total_tokens'", id="in"
        ),
        pytest.param({"budget": {"total_tokens": 0}}, "invalid_value", "suffice.budget.total_tokens", "", id="zero"),
        pytest.param({"budget": {"total_tokens": "9"}}, "invalid_value", "suffice.budget.total_tokens", "", id="text"),
        pytest.param({"budget": {"total_tokens": 9.0}}, "invalid_value", "suffice.budget.total_tokens", "", id="float"),
        pytest.param({"budget": {"total_tokens": 2**60}}, "invalid_value", "suffice.budget.total_tokens", "", id="big"),
        pytest.param({"budget": []}, "invalid_value", "suffice.budget", "", id="budget-array"),
        pytest.param({"preset": MARK[:6]}, "invalid_value", "suffice.preset", "balanced", id="preset"),
        pytest.param({"class": "royal"}, "invalid_value", "suffice.class", "interactive", id="class"),
        pytest.param({"train": True}, "invalid_value", "suffice.train", "", id="train"),
        pytest.param(
            {"budget": {"total_tokens": 2}}, "impossible_budget", "suffice.budget.total_tokens", "", id="no-room"
        ),
        pytest.param(
            {"budget": {"total_tokens": 50, "answer_reserve": 50}},
            "impossible_budget",
            "suffice.budget.answer_reserve",
            "",
            id="reserve",
        ),
    ],
)
def test_the_suffice_field_is_strict(refuse, path, field, code, param, says):
    _, error = refuse(path, BODIES[path] | {"suffice": field}, 400, code, param)
    assert says in error["message"]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        pytest.param({"n": 4, "suffice": {"budget": {"total_tokens": 3}}}, "suffice.budget.total_tokens", id="n"),
        pytest.param({"n": 4, "suffice": {"budget": {"samples": 2}}}, "suffice.budget.samples", id="samples"),
    ],
)
def test_budgets_that_contradict_the_request_are_impossible(refuse, asked, param):
    refuse(CHAT, BODIES[CHAT] | asked, 400, "impossible_budget", param)


@pytest.mark.parametrize("path", [path for path in BODIES if "count" not in path and "embed" not in path])
@pytest.mark.parametrize("how", ["model", "header"])
def test_an_unknown_preset_is_refused(refuse, path, how):
    if how == "model":
        refuse(path, BODIES[path] | {"model": "fake@lavish"}, 400, "invalid_value")
    else:
        refuse(path, BODIES[path], 400, "invalid_value", **{"x-suffice-preset": "lavish"})


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", ["other", "fake/../other", "x" * 5000])
def test_an_unknown_model_is_a_404(refuse, path, name):
    refuse(path, BODIES[path] | {"model": name}, 404, "model_not_found", "model")


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("secret", ["", "sk-wrong", "sk-suffice-abcdefgh-" + "x" * 43, "é"])
def test_a_wrong_key_is_a_401(gate, path, secret):
    headers = {"authorization": f"Bearer {secret}".encode()} if secret else {}
    answer = httpx2.post(gate.url + path, json=BODIES[path], headers=headers, trust_env=False)
    assert answer.status_code == 401
    assert fault(answer, path)["code"] == "invalid_api_key"
    assert gate.fake.requests == []


def test_a_revoked_key_is_a_401(gate):
    id_, key = gate.key()
    gate.call(lambda: gate.service.keys.revoke(id_))
    assert gate.post(CHAT, BODIES[CHAT], key=key).status_code == 401


@pytest.mark.parametrize("path", BODIES)
def test_a_body_that_is_too_large_is_a_413(make, path):
    gate = make({"server": {"max_body_bytes": 2000}})
    body = json.dumps(BODIES[path] | {"user": MARK * 1000}).encode()
    answer = gate.client.post(path, content=body)
    assert answer.status_code == 413
    assert fault(answer, path)["code"] == "request_too_large"
    assert gate.fake.requests == []


def test_a_body_of_unknown_length_is_measured_as_it_comes(make):
    gate = make({"server": {"max_body_bytes": 2000}})
    answer = gate.client.post(CHAT, content=(b"x" * 500 for _ in range(10)))
    assert answer.status_code == 413


IMAGES = {
    CHAT: {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"http://{MARK}"}}]}]},
    "/v1/responses": {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": f"http://{MARK}"}]}]},
    "/v1/messages": {"messages": [{"role": "user", "content": [{"type": "image", "source": {"data": MARK}}]}]},
}


@pytest.mark.parametrize("path", IMAGES)
def test_images_are_refused(refuse, path):
    refuse(path, BODIES[path] | IMAGES[path], 400, "media_refused")


def test_media_inside_a_tools_result_are_refused(refuse):
    result = {"type": "tool_result", "tool_use_id": "x", "content": [{"type": "image", "source": {}}]}
    body = BODIES["/v1/messages"] | {"messages": [{"role": "user", "content": [result]}]}
    refuse("/v1/messages", body, 400, "media_refused")


@pytest.mark.parametrize("path", IMAGES)
def test_images_pass_where_the_operator_allows_them(make, path):
    gate = make({"server": {"allow_images": True}})
    answer = gate.post(path, BODIES[path] | IMAGES[path])
    assert answer.status_code == 200, answer.text
    assert MARK in gate.fake.requests[0].raw.decode()


def test_fields_that_mean_nothing_to_vllm_are_dropped(gate):
    ignored = {"user": "u", "metadata": {}, "store": False, "service_tier": "auto", "safety_identifier": "s"}
    answer = gate.post(CHAT, BODIES[CHAT] | ignored)
    assert answer.status_code == 200, answer.text
    assert not ignored.keys() & gate.fake.requests[0].body.keys()


def test_a_prompt_that_fills_the_context_is_refused_before_upstream(make):
    gate = make(max_model_len=100)
    id_, key = gate.key()
    body = {"model": "fake", "messages": [{"role": "user", "content": "word " * 200}]}
    answer = gate.post(CHAT, body, key=key)
    assert answer.status_code == 400
    assert fault(answer, CHAT)["code"] == "context_length_exceeded"
    assert gate.fake.requests == []
    assert gate.usage(f"key:{id_}") == (0, 0)


def test_stream_options_need_a_stream(refuse):
    refuse(CHAT, BODIES[CHAT] | {"stream_options": {"include_usage": True}}, 400, "invalid_value", "stream_options")
    refuse(CHAT, BODIES[CHAT] | {"stream": True, "stream_options": 5}, 400, "invalid_type", "stream_options")
