"""Thoughts that a rule ends: probes beside the stream, one coherent message, every token accounted for."""

import pytest
from fake_vllm import Script
from gateway.rig import events

CHAT = "/v1/chat/completions"
QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "think about it"}]}
EXIT = {"rule": "convergence", "probe_first": 8, "probe_growth": 1.5, "probe_tokens": 4}
BUDGET = {"total_tokens": 800, "answer_reserve": 10}
LONG = Script(thought=(" hm",) * 400, answer=(" 42",))

ways = pytest.mark.parametrize(
    "kind",
    [
        pytest.param({}, id="engine-caps"),
        pytest.param({"reasoning_config": False}, id="gateway-caps"),
        pytest.param({"template_opens_thought": False}, id="model-opens-its-thought"),
        pytest.param({"reasoning_parser": False, "tool_parser": False}, id="thought-as-text"),
    ],
)


def ask(gate, *, stream=False, **more):
    suffice = {"budget": BUDGET, "early_exit": EXIT, "answer": {"kind": "number"}} | more
    body = QUESTION | {"stream": stream, "suffice": suffice}
    if stream:
        body["stream_options"] = {"include_usage": True}
    return gate.post(CHAT, body)


def slow(gate):
    gate.fake.says(LONG)
    gate.fake.settings.token_s = 0.004


@ways
def test_equal_probes_end_the_thought_and_the_answer_follows(make, kind):
    gate = make(**kind)
    slow(gate)
    body = ask(gate).json()
    (choice,) = body["choices"]
    spent = body["suffice"]["spent"]
    (stop,) = body["suffice"]["stops"]
    assert (stop["rule"], stop["by"]) == ("convergence", "gateway")
    assert stop["at_token"] < 200
    assert choice["message"]["content"].endswith(" 42")
    assert choice["finish_reason"] == "stop"
    assert spent["probe_tokens"] >= 2
    generated = spent["completion_tokens"] + spent["probe_tokens"] + spent["cancelled_tokens"]
    assert body["usage"]["completion_tokens"] == generated < 250
    probes = [one for one in gate.fake.requests if one.body.get("max_tokens") == 4]
    assert len(probes) >= 2
    assert {one.body["cache_salt"] for one in gate.fake.requests} == {gate.fake.requests[0].body["cache_salt"]}


def test_the_stream_is_one_message_whose_thought_just_ends(make):
    gate = make()
    slow(gate)
    *frames, done = events(ask(gate, stream=True).text)
    assert done.data == "[DONE]"
    chunks = [frame.data for frame in frames]
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    kinds = [kind for delta in deltas for kind in ("reasoning", "content") if delta.get(kind)]
    assert kinds == sorted(kinds, reverse=True), "thought first, then the answer"
    assert "".join(delta.get("content") or "" for delta in deltas) == " 42"
    ends = [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]]
    assert [end for end in ends if end] == ["stop"]
    assert chunks[-1]["suffice"]["stops"][0]["rule"] == "convergence"


def test_a_sample_without_agreement_thinks_to_its_own_end(make):
    gate = make()
    gate.fake.says(lambda ask: Script(thought=(" hm",) * 30, answer=(f" {ask.seed}",)))
    gate.fake.settings.token_s = 0.004
    body = ask(gate).json()
    assert body["suffice"]["stops"] == []
    assert body["choices"][0]["message"]["reasoning"].count("hm") == 30


def test_a_failing_probe_disturbs_nothing(make):
    gate = make()
    gate.fake.says(Script(thought=(" hm",) * 60, answer=(" 42",)))
    gate.fake.settings.token_s = 0.004
    gate.fake.fail("status", path="/v1/completions", times=None)
    body = ask(gate).json()
    assert body["choices"][0]["message"]["reasoning"].count("hm") == 60
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["suffice"]["stops"] == []


def test_where_nobody_can_close_a_thought_the_receipt_says_so(make):
    gate = make()
    gate.fake.says(LONG)
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    body = gate.post(CHAT, QUESTION | {"tools": [tool], "suffice": {"budget": BUDGET, "early_exit": EXIT}}).json()
    assert [item["rule"] for item in body["suffice"]["not_applied"]] == ["early_exit"]
    assert body["suffice"]["spent"]["probe_tokens"] == 0


@pytest.mark.parametrize(
    ("exits", "param", "hint"),
    [
        pytest.param({"rule": "convergense"}, "suffice.early_exit.rule", "convergence", id="rule"),
        pytest.param({"probe_frist": 3}, "suffice.early_exit.probe_frist", "probe_first", id="parameter"),
        pytest.param({"probe_growth": 0.5}, "suffice.early_exit.probe_growth", "1.05", id="range"),
        pytest.param({"probe_first": "3"}, "suffice.early_exit.probe_first", "whole number", id="type"),
    ],
)
def test_mistakes_are_the_clients(make, exits, param, hint):
    gate = make()
    answer = ask(gate, early_exit=exits)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert hint in error["message"]
    assert gate.fake.requests == []
