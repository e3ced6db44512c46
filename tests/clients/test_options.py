"""The request field: exact JSON, strict types, and who replaces whom."""

import httpx2
import pytest
from clients.gateway_double import completion
from pydantic import ValidationError
from suffice import Answer, Budget, EarlyExit, Options, Sampling

HELLO = [{"role": "user", "content": "hello"}]


def test_the_whole_field_is_sent_as_the_gateway_names_it(connect):
    client, gateway = connect(lambda _: completion())

    client.chat.completions.create(
        model="m",
        messages=HELLO,
        preset="balanced",
        budget=Budget(total_tokens=8192, thinking_tokens=2048, samples=16, deadline_ms=20000, kv_block_seconds=400),
        sampling=Sampling(rule="curtailment", delta=0.05, max=16, wave=4, return_="winner"),
        early_exit=EarlyExit(rule="convergence", probe_first=256, probe_growth=1.25),
        answer=Answer(kind="number"),
        class_="interactive",
        train="deny",
    )

    assert gateway.field == {
        "preset": "balanced",
        "budget": {
            "total_tokens": 8192,
            "thinking_tokens": 2048,
            "samples": 16,
            "deadline_ms": 20000,
            "kv_block_seconds": 400,
        },
        "sampling": {"rule": "curtailment", "delta": 0.05, "max": 16, "wave": 4, "return": "winner"},
        "early_exit": {"rule": "convergence", "probe_first": 256, "probe_growth": 1.25},
        "answer": {"kind": "number"},
        "class": "interactive",
        "train": "deny",
    }
    assert gateway.bodies[-1]["messages"] == HELLO


def test_without_options_no_field_is_sent(connect):
    client, gateway = connect(lambda _: completion())

    client.chat.completions.create(model="m", messages=HELLO)

    assert "suffice" not in gateway.bodies[-1]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        pytest.param(Budget, {"total_token": 5}, id="unknown name"),
        pytest.param(Budget, {"total_tokens": 0}, id="nothing to generate"),
        pytest.param(Budget, {"thinking_tokens": -1}, id="negative"),
        pytest.param(Budget, {"total_tokens": True}, id="a bool is no number"),
        pytest.param(Budget, {"total_tokens": "5"}, id="a string is no number"),
        pytest.param(Budget, {"deadline_ms": 1.5}, id="fraction"),
        pytest.param(Sampling, {}, id="sampling without a rule"),
        pytest.param(Sampling, {"rule": "curtailment", "delta": 1.0}, id="delta of one"),
        pytest.param(Sampling, {"rule": "curtailment", "return_": "some"}, id="unknown return"),
        pytest.param(EarlyExit, {"rule": "convergence", "probe_growth": 0.5}, id="probes that come closer"),
        pytest.param(Answer, {"kind": ""}, id="nameless kind"),
        pytest.param(Options, {"train": "maybe"}, id="train maybe"),
        pytest.param(Options, {"budget": {"total_tokens": "5"}}, id="nested"),
    ],
)
def test_what_cannot_be_meant_is_refused(kind, values):
    with pytest.raises(ValidationError):
        kind(**values)


def test_options_do_not_change():
    budget = Budget(total_tokens=5)

    with pytest.raises(ValidationError):
        budget.total_tokens = 6
    assert hash(budget) == hash(Budget(total_tokens=5))


def test_a_wrong_type_in_a_call_is_refused_before_anything_is_sent(connect):
    client, gateway = connect(lambda _: completion())

    with pytest.raises(ValidationError, match="preset"):
        client.chat.completions.create(model="m", messages=HELLO, preset=7)
    with pytest.raises(TypeError, match="budgets"):
        client.chat.completions.create(model="m", messages=HELLO, budgets=Budget(total_tokens=5))
    assert gateway.bodies == []


def test_a_call_replaces_a_default_by_name_and_none_clears_it(connect):
    client, gateway = connect(lambda _: completion(), preset="thrifty", budget=Budget(total_tokens=900, samples=3))

    client.chat.completions.create(model="m", messages=HELLO)
    assert gateway.field == {"preset": "thrifty", "budget": {"total_tokens": 900, "samples": 3}}

    client.chat.completions.create(model="m", messages=HELLO, budget=Budget(total_tokens=50))
    assert gateway.field == {"preset": "thrifty", "budget": {"total_tokens": 50}}

    client.chat.completions.create(model="m", messages=HELLO, preset=None)
    assert gateway.field == {"budget": {"total_tokens": 900, "samples": 3}}

    client.chat.completions.create(model="m", messages=HELLO, preset=None, budget=None)
    assert gateway.field is None


def test_extra_body_wins_over_keywords_and_keeps_other_fields(connect):
    client, gateway = connect(lambda _: completion(), preset="thrifty")

    client.chat.completions.create(
        model="m",
        messages=HELLO,
        class_="batch",
        train="deny",
        extra_body={"top_k": 4, "suffice": {"class": "interactive"}},
    )

    assert gateway.field == {"preset": "thrifty", "class": "interactive", "train": "deny"}
    assert gateway.bodies[-1]["top_k"] == 4


def test_with_options_carries_budgets_and_the_official_options(connect):
    client, gateway = connect(lambda _: completion(), preset="thrifty")

    twin = client.with_options(budget=Budget(samples=2), timeout=3.0, default_headers={"x-team": "blue"})
    twin.chat.completions.create(model="m", messages=HELLO)

    assert type(twin) is type(client)
    assert twin.timeout == 3.0
    assert gateway.field == {"preset": "thrifty", "budget": {"samples": 2}}
    assert gateway.headers[-1]["x-team"] == "blue"
    assert gateway.headers[-1]["authorization"] == "Bearer sk-suffice-test"
    assert client.defaults == Options(preset="thrifty")
    assert twin.copy(preset=None).defaults == Options(preset=None, budget=Budget(samples=2))


def test_defaults_reach_every_request_that_generates_and_no_other(connect):
    answers = {"/v1/models": {"object": "list", "data": []}}
    client, gateway = connect(lambda _: answers.get(gateway.paths[-1], completion()), budget=Budget(samples=2))

    client.chat.completions.parse(model="m", messages=HELLO)
    client.completions.create(model="m", prompt="hello")
    client.responses.create(model="m", input="hello")
    client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    assert [body.get("suffice") for body in gateway.bodies] == [{"budget": {"samples": 2}}] * 4

    client.models.list()
    client.embeddings.create(model="m", input="hello", encoding_format="float")
    assert [body.get("suffice") for body in gateway.bodies[4:]] == [None, None]


def test_options_stand_alone_for_other_clients():
    options = Options(budget=Budget(total_tokens=512), class_="batch")

    assert options.extra_body() == {"suffice": {"budget": {"total_tokens": 512}, "class": "batch"}}


def test_a_request_that_is_tried_again_asks_for_the_same(connect):
    tries = iter([{"error": {"message": "busy", "code": "server_overloaded"}}])

    def script(_):
        body = next(tries, None)
        if body is None:
            return completion()
        return httpx2.Response(503, json=body, headers={"retry-after-ms": "1"})

    client, gateway = connect(script, preset="thrifty")
    client.chat.completions.create(model="m", messages=HELLO, budget=Budget(samples=2))

    assert len(gateway.bodies) == 2
    assert gateway.bodies[0] == gateway.bodies[1]
    assert gateway.field == {"preset": "thrifty", "budget": {"samples": 2}}
