"""Hard limits by construction: what upstream was ever allowed stays within them, and a capped thinker still answers."""

import pytest
from fake_vllm import Script
from gateway.rig import by_sample, contents, most_outstanding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CHAT = "/v1/chat/completions"
QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "think about it"}]}

KINDS = {
    "engine": {},
    "engine, thought as text": {"reasoning_parser": False, "tool_parser": False},
    "gateway": {"reasoning_config": False},
    "gateway, thought as text": {"reasoning_config": False, "reasoning_parser": False, "tool_parser": False},
    "gateway, model opens its thought": {"reasoning_config": False, "template_opens_thought": False},
    "engine, model opens its thought": {"template_opens_thought": False},
    "gateway, many tokens a chunk": {"reasoning_config": False, "tokens_per_chunk": 5},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def total_of(answer):
    return answer["suffice"]["plan"]["limits"]["total_tokens"][0]


def answered(message):
    """The answer's text, without a thought that no parser took out."""
    content = message["content"]
    return content.rpartition("</think>")[2] if "</think>" in content else content


budgets = st.fixed_dictionaries(
    {
        "total_tokens": st.integers(20, 200),
        "thinking_tokens": st.one_of(st.none(), st.integers(0, 60)),
        "answer_reserve": st.one_of(st.none(), st.integers(1, 4)),
    }
)


@kinds
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(budget=budgets, n=st.integers(1, 3), endless=st.booleans(), thought=st.integers(0, 80))
def test_no_budget_is_ever_passed_and_an_answer_always_comes(make, kind, budget, n, endless, thought):
    gate = make(**KINDS[kind])
    gate.fake.says(Script(thought=(" hm",) * thought, answer=(" yes",) * 30, endless=endless))
    budget = {name: value for name, value in budget.items() if value is not None}
    answer = gate.post(CHAT, QUESTION | {"n": n, "suffice": {"budget": budget}})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert most_outstanding(gate.fake.requests) <= budget["total_tokens"]
    assert body["usage"]["completion_tokens"] == gate.fake.generated_tokens <= budget["total_tokens"]
    assert total_of(body) == budget["total_tokens"]
    assert len(body["choices"]) == n
    for choice in body["choices"]:
        assert answered(choice["message"])
        cut = answered(choice["message"]).count("yes") != 30
        assert choice["finish_reason"] in ({"length"} if cut else {"stop", "length"})
    cap = body["suffice"]["plan"]["limits"]["thinking_tokens"][0]
    for segments in by_sample(gate.fake.requests).values():
        assert segments[0].body.get("thinking_token_budget", segments[0].allowed_tokens) <= max(cap, 1)


@kinds
def test_a_thought_that_never_ends_is_closed_at_its_cap_and_answered(make, kind):
    gate = make(**KINDS[kind])
    gate.fake.says(Script.of(answer="the answer", endless_thought=True))
    body = {"thinking_tokens": 20, "total_tokens": 100}
    answer = gate.post(CHAT, QUESTION | {"suffice": {"budget": body}}).json()
    choice = answer["choices"][0]
    assert answered(choice["message"]) == "the answer"
    assert choice["finish_reason"] == "stop"
    by = "engine" if kind.startswith("engine") else "gateway"
    assert answer["suffice"]["plan"]["thinking_cap"] == by
    assert [(stop["rule"], stop["by"]) for stop in answer["suffice"]["stops"]] == [("thinking_tokens", by)]
    assert abs(answer["suffice"]["stops"][0]["at_token"] - 20) <= 1
    if "text" not in kind:
        assert choice["message"]["reasoning"].count("hm") in (19, 20)


@kinds
def test_streams_and_whole_answers_are_capped_alike(make, kind):
    gate = make(**KINDS[kind])
    gate.fake.says(Script.of(answer="the answer is here", endless_thought=True))
    body = QUESTION | {"suffice": {"budget": {"thinking_tokens": 12, "total_tokens": 100}}}
    whole = gate.post(CHAT, body).json()["choices"][0]
    deltas = [event.data["choices"][0] for event in gate.stream(CHAT, body)[:-1]]
    assert "".join(delta["delta"].get("content") or "" for delta in deltas) == whole["message"]["content"]
    thought = "".join(delta["delta"].get("reasoning") or "" for delta in deltas)
    assert thought == whole["message"].get("reasoning", "")
    assert [delta["finish_reason"] for delta in deltas if delta["finish_reason"]] == [whole["finish_reason"]]


def test_a_capped_completion_shows_its_thought_closed_once(make):
    gate = make(reasoning_config=False)
    gate.fake.says(Script.of(answer="done", endless_thought=True))
    body = {"model": "fake", "prompt": "go<think>", "suffice": {"budget": {"thinking_tokens": 5, "total_tokens": 60}}}
    text = gate.post("/v1/completions", body).json()["choices"][0]["text"]
    assert text == " hm" * 5 + "</think>done"
    streamed = gate.stream("/v1/completions", body)[:-1]
    assert "".join(event.data["choices"][0]["text"] for event in streamed) == text


def test_a_cap_of_no_thought_at_all_still_answers(make):
    for settings_ in ({}, {"reasoning_config": False}):
        gate = make(**settings_)
        gate.fake.says(Script.of(answer="at once", endless_thought=True))
        answer = gate.post(CHAT, QUESTION | {"suffice": {"budget": {"thinking_tokens": 0}}}).json()
        assert list(contents(answer)) == ["at once"]
        assert answer["suffice"]["plan"]["limits"]["thinking_tokens"] == [0, "request"]


def test_samples_share_a_total(gate):
    gate.fake.says(Script.of(answer="more", endless=True))
    answer = gate.post(CHAT, QUESTION | {"n": 4, "suffice": {"budget": {"total_tokens": 101}}}).json()
    assert [request.allowed_tokens for request in gate.fake.requests] == [25] * 4
    assert answer["usage"]["completion_tokens"] == 100
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length"] * 4
    assert [stop["rule"] for stop in answer["suffice"]["stops"] if stop["rule"] != "thinking_tokens"] == [
        "total_tokens"
    ] * 4


def test_a_sample_limit_is_named_when_it_binds(gate):
    gate.fake.says(Script.of(answer="more", endless=True))
    answer = gate.post(CHAT, QUESTION | {"max_tokens": 9, "suffice": {"budget": {"total_tokens": 100}}}).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["suffice"]["stops"][-1] == {"sample": 0, "rule": "sample_tokens", "by": "engine", "at_token": 9}


def test_the_context_is_named_when_it_binds(make):
    gate = make(max_model_len=64)
    gate.fake.says(Script.of(answer="more", endless=True))
    prompt = "word " * 20
    answer = gate.post("/v1/completions", {"model": "fake", "prompt": prompt, "max_tokens": 60}).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["suffice"]["stops"][-1]["rule"] == "context"
    assert answer["usage"]["total_tokens"] == 64


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_deadline_ends_the_answer_where_it_stands(gate, stream):
    gate.fake.says(Script.of(answer="more", endless=True))
    gate.fake.settings.token_s = 0.01
    body = QUESTION | {"suffice": {"budget": {"deadline_ms": 150}}, "stream": stream}
    answer = gate.post(CHAT, body | ({"stream_options": {"include_usage": True}} if stream else {}))
    assert answer.status_code == 200
    assert '"finish_reason":"length"' in answer.text
    assert '"rule":"deadline_ms"' in answer.text
    gate.idle()
    assert gate.fake.aborted == 1
    assert gate.settled()[-1].outcome == "completed"


@pytest.mark.parametrize("milliseconds", [1, 2, 60])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_deadline_before_the_first_token_is_an_error(gate, milliseconds, stream):
    gate.fake.settings.prefill_s = 5
    body = QUESTION | {"suffice": {"budget": {"deadline_ms": milliseconds}}, "stream": stream}
    answer = gate.post(CHAT, body)
    assert answer.status_code == 504
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("deadline_exceeded", "suffice.budget.deadline_ms")
    assert answer.headers["x-should-retry"] == "false"
    gate.idle()
    assert gate.settled()[-1].state == "settled"


@pytest.mark.parametrize("kind", [{}, {"reasoning_config": False}], ids=["engine", "gateway"])
def test_least_tokens_never_exceed_what_a_segment_may_have(make, kind):
    gate = make(**kind)
    gate.fake.says(Script.of(answer="more", endless=True, endless_thought=True))
    gate.post(CHAT, QUESTION | {"min_tokens": 50, "suffice": {"budget": {"total_tokens": 40, "thinking_tokens": 10}}})
    for request in gate.fake.requests:
        assert request.body["min_tokens"] <= request.allowed_tokens


def test_an_answer_under_a_grammar_is_not_cut_in_two(make):
    gate = make(reasoning_config=False)
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {}}}}
    budget = {"thinking_tokens": 4, "total_tokens": 100}
    answer = gate.post(CHAT, QUESTION | {"response_format": form, "suffice": {"budget": budget}}).json()
    assert len(gate.fake.requests) == 1
    assert list(contents(answer)) == ["{}"]
    assert answer["suffice"]["not_applied"] == [
        {
            "rule": "thinking_tokens",
            "why": "upstream has no reasoning config, and resuming would lose its grammar's state",
        }
    ]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_an_api_that_cannot_cap_thinking_says_so(make, path):
    gate = make(reasoning_config=False)
    asked = {"input": "hello"} if path == "/v1/responses" else {"messages": QUESTION["messages"], "max_tokens": 50}
    answer = gate.post(path, {"model": "fake", **asked, "suffice": {"budget": {"thinking_tokens": 4}}}).json()
    assert [item["rule"] for item in answer["suffice"]["not_applied"]] == ["thinking_tokens"]
    assert answer["suffice"]["plan"]["thinking_cap"] == "none"


@pytest.mark.parametrize("kind", [{}, {"reasoning_config": False}], ids=["engine", "gateway"])
def test_a_thought_leaves_room_for_the_answer_where_the_context_is_tighter_than_the_named_length(make, kind):
    gate = make(max_model_len=400, **kind)
    gate.fake.says(Script.of(answer="the answer", endless_thought=True))
    asked = {"model": "fake", "messages": [{"role": "user", "content": "word " * 300}], "max_tokens": 390}
    answer = gate.post(CHAT, asked).json()
    assert list(contents(answer)) == ["the answer"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] <= 400
