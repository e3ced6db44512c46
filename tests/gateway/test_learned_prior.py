"""The rule that learns from votes: fed by full votes only, kept over restarts, and curtailment until it has enough."""

import pytest
from fake_vllm import Script
from gateway.rig import Gateway
from gateway.test_event_log import logged, told_again

CHAT = "/v1/chat/completions"
SEED = 1000
QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "vote"}]}


def vote(gate, rule, *answers, most=12):
    gate.fake.says(
        lambda ask: Script.of(thought="hm", answer=f"It is {answers[max(0, min(ask.seed - SEED, len(answers) - 1))]}.")
    )
    suffice = {"sampling": {"rule": rule, "max": most, "wave": 3}, "answer": {"kind": "number"}}
    body = gate.post(CHAT, QUESTION | {"seed": SEED, "max_tokens": 40, "suffice": suffice}).json()
    return body["suffice"]


def learned(gate):
    learner = gate.service.experience._votes.get("fake\x1fnumber")
    return 0 if learner is None else learner.learned


@pytest.fixture
def gate(make, tmp_path):
    held = Gateway(make().fake, tmp_path, {}).start()
    yield held
    held.stop()


def test_full_votes_teach_and_stopped_ones_do_not(gate):
    vote(gate, "all", 7, most=4)
    assert learned(gate) == 1
    vote(gate, "curtailment", 7)
    vote(gate, "bayesian", 7)
    assert learned(gate) == 1


def test_what_was_learned_makes_votes_shorter_and_outlives_the_gateway(gate, make, tmp_path):
    before = vote(gate, "bayesian", 7)["spent"]["samples"]
    assert before == vote(gate, "curtailment", 7)["spent"]["samples"], "curtailment until there is enough"
    for _ in range(220):
        gate.call(lambda: gate.service.experience.learn_vote("fake", "number", (12,), 0))
    gate.call(gate.service.experience.refit)
    after = vote(gate, "bayesian", 7)["spent"]["samples"]
    assert after < before
    gate.stop()
    gate.start()
    assert vote(gate, "bayesian", 7)["spent"]["samples"] == after
    assert gate.service.experience.prior("fake", "exact") is None


def test_a_log_tells_again_what_the_learned_rule_decided(gate):
    for _ in range(220):
        gate.call(lambda: gate.service.experience.learn_vote("fake", "number", (12,), 0))
    gate.call(gate.service.experience.refit)
    receipt = vote(gate, "bayesian", 7)
    assert receipt["votes"]["rule"] == "bayesian"
    told_again(logged(gate, receipt["request_id"]))
