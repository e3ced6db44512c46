"""The receipt says who carried an exit out: the engine, told by a signal or by itself, or the gateway."""

import pytest
from fake_vllm import Script
from gateway.rig import wait

CHAT = "/v1/chat/completions"
QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "think about it"}]}
EXIT = {"rule": "convergence", "probe_first": 8, "probe_growth": 1.5, "probe_tokens": 4}
BUDGET = {"total_tokens": 800, "answer_reserve": 10}
LONG = Script(thought=(" hm",) * 400, answer=(" 42",), engine_exit=30)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def ask(gate, exits=EXIT, **extra):
    gate.fake.says(LONG)
    gate.fake.settings.token_s = 0.004
    suffice = {"budget": BUDGET, "early_exit": exits, "answer": {"kind": "number"}}
    return gate.post(CHAT, QUESTION | {"suffice": suffice} | extra).json()


def samples(gate):
    return [one for one in gate.fake.requests if "probe" not in one.headers["x-request-id"]]


@pytest.mark.parametrize("by", ["gateway", "engine"])
def test_an_exit_is_told_with_who_did_it(make, by):
    gate = make(plugin=by == "engine")
    body = ask(gate)
    (stop,) = body["suffice"]["stops"]
    assert (stop["rule"], stop["by"]) == ("convergence", by)
    assert stop["at_token"] < 200
    assert body["choices"][0]["message"]["content"] == " 42"
    assert body["choices"][0]["finish_reason"] == "stop"
    # The engine's way takes one upstream request, the gateway's aborts it and takes another.
    assert len(samples(gate)) == (1 if by == "engine" else 2)
    assert body["usage"]["completion_tokens"] <= BUDGET["total_tokens"]


def test_a_rule_of_the_engines_own_is_told_with_where_it_fired(make):
    gate = make(plugin=True)
    body = ask(gate, {"rule": "engine_entropy", "threshold": 0.2})
    assert body["suffice"]["stops"] == [{"sample": 0, "rule": "engine_entropy", "by": "engine", "at_token": 30}]
    assert body["choices"][0]["message"]["content"] == " 42"
    assert body["suffice"]["spent"]["probe_tokens"] == 0
    assert samples(gate)[0].body["vllm_xargs"]["suffice_rules"] == "engine_entropy:threshold=0.2"


def test_with_tools_the_engine_can_do_what_the_gateway_cannot(make):
    gate = make(plugin=True)
    body = ask(gate, tools=[TOOL])
    (stop,) = body["suffice"]["stops"]
    assert (stop["rule"], stop["by"]) == ("convergence", "engine")
    assert "not_applied" not in body["suffice"]


def test_slots_are_given_back(make):
    gate = make(plugin=True)
    free = len(gate.service.link._free)
    for _ in range(3):
        ask(gate)
    wait(lambda: len(gate.service.link._free) == free)


def test_an_engine_without_the_plugin_leaves_its_rules_unapplied(make):
    gate = make()
    body = ask(gate, {"rule": "engine_entropy"})
    assert [item["rule"] for item in body["suffice"]["not_applied"]] == ["engine_entropy"]
    assert body["choices"][0]["message"]["content"] == " 42"
