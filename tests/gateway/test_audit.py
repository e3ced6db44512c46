"""Audits: the whole thought is thought, what the rule would have changed is told, and drift raises an alarm."""

import logging

import pytest
from fake_vllm import Script
from gateway.rig import Gateway, wait
from gateway.test_event_log import logged, told_again
from suffice.server.gateway.hindsight import drawn_for_audit

CHAT = "/v1/chat/completions"
SEED = 1000
QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "think about it"}]}
EXIT = {"rule": "convergence", "probe_first": 8, "probe_growth": 1.5, "probe_tokens": 4}
ALL = {"policies": {"audit_share": 1.0}}
THOUGHT = 60


def right(_):
    return Script(thought=(" hm",) * THOUGHT, answer=(" 42",))


def late(ask):
    """Another answer before its whole thought was thought."""
    said = ask.prompt.count(" hm")
    return Script(thought=(" hm",) * THOUGHT, answer=(" 41",) if 0 < said < THOUGHT else (" 42",))


def ask(gate, model=right, **suffice):
    gate.fake.says(model)
    gate.fake.settings.token_s = 0.004
    wish = {"budget": {"total_tokens": 800, "answer_reserve": 10}, "answer": {"kind": "number"}}
    return gate.post(CHAT, QUESTION | {"suffice": wish | (suffice or {"early_exit": EXIT})}).json()


def test_an_audited_request_thinks_in_full_and_says_what_the_rule_would_have_done(make):
    gate = make(ALL)
    body = ask(gate)
    assert body["choices"][0]["message"]["reasoning"].count("hm") == THOUGHT
    assert body["suffice"]["stops"] == []
    (found,) = body["suffice"]["audited"]["rules"]
    assert (found["rule"], found["loss"]) == ("convergence", 0)
    assert 8 <= found["would_stop"][0]["at_token"] < THOUGHT
    assert gate.metric("suffice_audits_total", rule="convergence", outcome="kept") == 1
    assert 0 < gate.metric("suffice_drift_evidence", rule="convergence") < 1
    told_again(logged(gate, body["suffice"]["request_id"]))


def test_a_rule_that_changes_answers_raises_the_alarm_once(make, caplog, tmp_path):
    fake = make().fake
    gate = Gateway(fake, tmp_path, ALL).start()
    try:
        with caplog.at_level(logging.WARNING, "suffice.server.gateway.hindsight"):
            for _ in range(6):
                (found,) = ask(gate, late)["suffice"]["audited"]["rules"]
                assert found["loss"] == 1
        assert gate.metric("suffice_drift_alarm", rule="convergence") == 1
        assert gate.metric("suffice_drift_evidence", rule="convergence") >= 100
        assert sum("audit_risk" in record.getMessage() for record in caplog.records) == 1
    finally:
        gate.stop()
    again = Gateway(fake, tmp_path, ALL).start()
    try:
        assert again.metric("suffice_drift_alarm", rule="convergence") == 1
    finally:
        again.stop()


def test_without_a_rule_there_is_nothing_to_audit(make):
    gate = make(ALL)
    assert "audited" not in ask(gate, budget={"total_tokens": 400})["suffice"]


def test_a_request_that_is_cut_proves_nothing(make):
    gate = make(ALL)
    before = gate.metric("suffice_audits_total", rule="convergence", outcome="unknown")
    gate.fake.says(Script(thought=(" hm",), answer=(" 42",), endless_thought=True))
    gate.fake.settings.token_s = 0.01
    budget = {"total_tokens": 3000, "answer_reserve": 10, "deadline_ms": 400}
    gate.post(CHAT, QUESTION | {"suffice": {"budget": budget, "early_exit": EXIT, "answer": {"kind": "number"}}})
    wait(lambda: gate.metric("suffice_audits_total", rule="convergence", outcome="unknown") == before + 1)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_the_share_is_that_of_all_ids_and_the_same_for_the_same_id(share):
    ids = [f"request-{number}" for number in range(4000)]
    drawn = [drawn_for_audit(one, share) for one in ids]
    assert drawn == [drawn_for_audit(one, share) for one in ids]
    assert abs(sum(drawn) / len(drawn) - share) <= 0.02


def vote(gate, *answers, most=8):
    gate.fake.says(
        lambda ask: Script.of(thought="hm", answer=f"It is {answers[max(0, min(ask.seed - SEED, len(answers) - 1))]}.")
    )
    sampling = {"rule": "bayesian", "max": most, "wave": 3}
    suffice = {"sampling": sampling, "answer": {"kind": "number"}}
    return gate.post(CHAT, QUESTION | {"seed": SEED, "max_tokens": 40, "suffice": suffice}).json()["suffice"]


def test_an_audited_vote_is_drawn_to_its_end(make):
    gate = make(ALL)
    receipt = vote(gate, 7)
    assert receipt["spent"]["samples"] == 8
    (found,) = receipt["audited"]["rules"]
    assert (found["rule"], found["loss"]) == ("bayesian", 0)
    assert 1 < found["would_stop_after"] < 8
    told_again(logged(gate, receipt["request_id"]))


def test_an_audited_vote_tells_where_the_rule_would_have_been_wrong(make):
    gate = make(ALL)
    (found,) = vote(gate, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, most=12)["audited"]["rules"]
    assert found["loss"] == (0 if found["would_stop_after"] is None else 1)
    assert found["would_stop_after"] is not None
