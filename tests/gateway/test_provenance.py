"""Where each limit comes from: every source is named, the tightest wins, and no request raises a ceiling."""

import pytest

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "hello"}]
FILE = {
    "policies": {"ceilings": {"total_tokens": 3000, "samples": 6, "deadline_ms": 60_000}},
    "models": {"fake": {"ceilings": {"sample_tokens": 2000, "thinking_tokens": 1500}, "effort": {"low": 33}}},
    "presets": {
        "balanced": {"budget": {"sample_tokens": 1900}},
        "tiny": {"budget": {"sample_tokens": 77, "thinking_tokens": 11}},
        "fewer": {"budget": {"samples": 2}},
    },
}


@pytest.fixture
def gate(make):
    return make(FILE)


def limits(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["suffice"]["plan"]["limits"]


@pytest.mark.parametrize(
    ("asked", "name", "value", "source"),
    [
        pytest.param({}, "sample_tokens", 1900, "preset", id="preset"),
        pytest.param({}, "total_tokens", 3000, "gateway", id="gateway"),
        pytest.param({}, "deadline_ms", 60_000, "gateway", id="gateway-deadline"),
        pytest.param({}, "thinking_tokens", 1500, "model", id="model"),
        pytest.param({"max_tokens": 1950}, "sample_tokens", 1950, "max_tokens", id="max_tokens"),
        pytest.param({"max_completion_tokens": 90}, "sample_tokens", 90, "max_completion_tokens", id="mct"),
        pytest.param(
            {"max_completion_tokens": 90, "max_tokens": 60}, "sample_tokens", 90, "max_completion_tokens", id="both"
        ),
        pytest.param({"max_tokens": 9999}, "sample_tokens", 2000, "model", id="max_tokens-over-ceiling"),
        pytest.param({"reasoning_effort": "low"}, "thinking_tokens", 33, "reasoning_effort", id="effort-of-model"),
        pytest.param({"reasoning_effort": "minimal"}, "thinking_tokens", 128, "reasoning_effort", id="effort"),
        pytest.param({"reasoning_effort": "high"}, "thinking_tokens", 1500, "model", id="effort-over-ceiling"),
        pytest.param({"thinking_token_budget": 44}, "thinking_tokens", 44, "thinking_token_budget", id="ttb"),
        pytest.param({"thinking_token_budget": -1}, "thinking_tokens", 1500, "model", id="ttb-unlimited"),
        pytest.param(
            {"suffice": {"budget": {"total_tokens": 500}}}, "total_tokens", 500, "request", id="request-lowers"
        ),
        pytest.param(
            {"suffice": {"budget": {"total_tokens": 9000}}}, "total_tokens", 3000, "gateway", id="request-raises-not"
        ),
        pytest.param(
            {"suffice": {"budget": {"thinking_tokens": 3000}}},
            "thinking_tokens",
            1500,
            "model",
            id="thinking",
        ),
        pytest.param({"suffice": {"budget": {"deadline_ms": 99_000}}}, "deadline_ms", 60_000, "gateway", id="deadline"),
        pytest.param({"suffice": {"budget": {"answer_reserve": 300}}}, "answer_reserve", 300, "request", id="reserve"),
        pytest.param({}, "answer_reserve", 256, "default", id="reserve-default"),
        pytest.param({"max_tokens": 100}, "thinking_tokens", 73, "answer_reserve", id="reserve-binds"),
        pytest.param({"suffice": {"preset": "tiny"}}, "thinking_tokens", 11, "preset", id="preset-in-field"),
        pytest.param({"model": "fake@tiny"}, "sample_tokens", 77, "preset", id="model@preset"),
        pytest.param({"n": 8}, "samples", 6, "gateway", id="n-over-ceiling"),
        pytest.param({"n": 8, "suffice": {"preset": "fewer"}}, "samples", 2, "preset", id="n-over-preset"),
    ],
)
def test_chat(gate, asked, name, value, source):
    assert limits(gate.post(CHAT, {"model": "fake", "messages": QUESTION} | asked))[name] == [value, source]


def test_the_header_chooses_a_preset_and_gives_way_to_the_body(gate):
    body = {"model": "fake", "messages": QUESTION}
    receipt = gate.post(CHAT, body, x_suffice_preset="tiny").json()["suffice"]
    assert (receipt["plan"]["preset"], receipt["plan"]["limits"]["sample_tokens"]) == ("tiny", [77, "preset"])
    answer = gate.post(CHAT, body | {"model": "fake@fewer"}, x_suffice_preset="tiny").json()
    assert answer["suffice"]["plan"]["preset"] == "fewer"
    answer = gate.post(CHAT, body | {"model": "fake@fewer", "suffice": {"preset": "balanced"}}).json()
    assert answer["suffice"]["plan"]["preset"] == "balanced"


@pytest.mark.parametrize(
    ("ceiling", "asked", "name", "value"),
    [
        pytest.param("max_total_tokens", {"budget": {"total_tokens": 400}}, "total_tokens", 50, id="total"),
        pytest.param("max_thinking_tokens", {"budget": {"thinking_tokens": 400}}, "thinking_tokens", 50, id="thinking"),
        pytest.param("max_deadline_ms", {"budget": {"deadline_ms": 400}}, "deadline_ms", 50, id="deadline"),
    ],
)
def test_a_keys_ceiling_holds_against_any_request(gate, ceiling, asked, name, value):
    key = gate.key(**{ceiling: 50})[1]
    body = {"model": "fake", "messages": QUESTION, "suffice": asked}
    answer = gate.post(CHAT, body, key=key)
    assert limits(answer)[name] == [value, "key"]


def test_a_keys_ceiling_of_samples_lowers_n(gate):
    key = gate.key(max_samples=2)[1]
    answer = gate.post(CHAT, {"model": "fake", "messages": QUESTION, "n": 5}, key=key)
    assert limits(answer)["samples"] == [2, "key"]
    assert len(answer.json()["choices"]) == len(gate.fake.requests) == 2


@pytest.mark.parametrize(
    ("path", "asked", "name", "value", "source"),
    [
        pytest.param("/v1/completions", {"prompt": "a", "max_tokens": 7}, "sample_tokens", 7, "max_tokens", id="c-max"),
        pytest.param("/v1/completions", {"prompt": "a"}, "sample_tokens", 1900, "preset", id="c-preset"),
        pytest.param(
            "/v1/completions",
            {"prompt": "a", "thinking_token_budget": 3},
            "thinking_tokens",
            3,
            "thinking_token_budget",
            id="c-thinking",
        ),
        pytest.param(
            "/v1/responses",
            {"input": "a", "max_output_tokens": 8},
            "sample_tokens",
            8,
            "max_output_tokens",
            id="responses-max",
        ),
        pytest.param(
            "/v1/responses",
            {"input": "a", "reasoning": {"effort": "low"}},
            "thinking_tokens",
            33,
            "reasoning_effort",
            id="responses-effort",
        ),
        pytest.param(
            "/v1/messages",
            {"messages": QUESTION, "max_tokens": 1800, "thinking": {"type": "enabled", "budget_tokens": 1100}},
            "thinking_tokens",
            1100,
            "thinking.budget_tokens",
            id="messages-thinking",
        ),
        pytest.param(
            "/v1/messages", {"messages": QUESTION, "max_tokens": 9}, "sample_tokens", 9, "max_tokens", id="messages-max"
        ),
    ],
)
def test_other_apis(gate, path, asked, name, value, source):
    assert limits(gate.post(path, {"model": "fake"} | asked))[name] == [value, source]


def test_a_budget_of_the_messages_api_reaches_the_engine(gate):
    body = {"model": "fake", "messages": QUESTION, "max_tokens": 1800}
    gate.post("/v1/messages", body | {"thinking": {"type": "enabled", "budget_tokens": 1100}})
    assert gate.fake.requests[0].body["thinking"] == {"type": "enabled", "budget_tokens": 1100}


def test_what_upstream_is_told_is_what_the_receipt_says(gate):
    body = {"model": "fake", "messages": QUESTION, "suffice": {"budget": {"total_tokens": 321, "thinking_tokens": 21}}}
    gate.post(CHAT, body)
    sent = gate.fake.requests[0].body
    assert (sent["max_completion_tokens"], sent["thinking_token_budget"]) == (321, 21)
