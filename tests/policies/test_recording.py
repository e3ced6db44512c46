"""What is recorded tells every decision again: any rule, any stream, chunks merged or not."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_runs import SPECS, Upstream, plan_for
from suffice.policies.chain import Chain
from suffice.policies.decisions import Complete, Open
from suffice.policies.errors import BadRecord
from suffice.policies.events import Chunk, EngineClosed, Phase, Started
from suffice.policies.plan import ThinkingCap
from suffice.policies.recording import Recorder, watched
from suffice.policies.records import RuleSpec, build_rule, plan_from_record, plan_to_record, specs_from_record
from suffice.policies.replay_log import planned_of, replay


@pytest.mark.parametrize("each_chunk", [False, True], ids=["merged", "every-chunk"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.rule}{'-audited' * spec.audited}")
@given(st.randoms(use_true_random=True))
@settings(max_examples=25)
def test_replay_of_a_recorded_run_decides_the_same(spec, each_chunk, chance):
    plan = plan_for(spec, close_by=chance.choice([ThinkingCap.GATEWAY, ThinkingCap.ENGINE]))
    live = Upstream(chance, spec, plan, each_chunk=each_chunk)
    live.run()
    live.recorder.flush()
    planned = {"event": "Planned", "plan": plan_to_record(plan), "rules": [spec.to_record()]}
    records = json.loads(json.dumps([planned, *live.recorder.records, {"event": "Settled"}]))
    replayed = replay(records)
    assert replayed.differences == ()
    assert replayed.chain.meter.used == live.chain.meter.used
    assert replayed.chain.stops == live.chain.stops
    assert replayed.chain.complete == live.chain.complete
    assert "token_ids" not in json.dumps(records)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.rule}{'-audited' * spec.audited}")
def test_plan_and_rules_come_back_from_their_records(spec):
    plan = plan_for(spec, close_by=ThinkingCap.ENGINE)
    assert plan_from_record(json.loads(json.dumps(plan_to_record(plan)))) == plan
    assert specs_from_record(json.loads(json.dumps([spec.to_record()]))) == (spec,)


def test_a_rule_is_built_anew_with_the_length_that_thoughts_usually_had():
    told = RuleSpec(family="early_exit", rule="confidence", usual_tokens=30)
    plan = plan_for(told, close_by=ThinkingCap.GATEWAY)
    assert build_rule(told, plan).usual == 30
    assert build_rule(RuleSpec(family="early_exit", rule="confidence"), plan).usual is None


def test_chunks_merge_until_something_is_decided():
    spec = RuleSpec(family="early_exit", rule="convergence", parameters={"probe_first": 3})
    plan = plan_for(spec, close_by=ThinkingCap.GATEWAY)
    recorder = Recorder(watched([build_rule(spec, plan)]))
    chain = Chain(plan, [build_rule(spec, plan)])
    recorder.note(Started(at=0.0), chain.observe(Started(at=0.0)))
    for number in range(6):
        chunk = Chunk(at=float(number), sample=0, tokens=1, phase=Phase.THINKING)
        recorder.note(chunk, chain.observe(chunk))
    recorder.flush()
    chunks = [record for record in recorder.records if record.get("event") == "Chunk"]
    assert [(one["tokens"], one["at"], one.get("first")) for one in chunks] == [(3, 2.0, 0.0), (3, 5.0, 3.0)]


def log_of(*more):
    plan = plan_for(SPECS[0], close_by=ThinkingCap.GATEWAY)
    return [{"event": "Planned", "plan": plan_to_record(plan), "rules": []}, {"event": "Started", "at": 0.0}, *more]


def test_a_log_that_does_not_tell_the_truth_differs():
    (difference,) = replay(log_of({"decision": "Complete"})).differences
    assert difference.recorded == (Complete(),)
    assert [type(action) for action in difference.replayed] == [Open, Open]
    illegal = {"event": "Chunk", "at": 1.0, "sample": 9, "tokens": 1, "phase": "answer"}
    assert replay(log_of(illegal)).differences[-1].replayed is None


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([], id="empty"),
        pytest.param([{"event": "Started", "at": 0.0}], id="no-plan"),
    ],
)
def test_a_log_without_a_plan_is_refused(records):
    with pytest.raises(BadRecord):
        planned_of(records)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"family": "guards", "rule": "no-such"}, id="rule"),
        pytest.param({"family": "guards", "rule": "length", "parameters": {"alpha": "much"}}, id="parameter"),
        pytest.param({"family": "tastes", "rule": "length"}, id="family"),
        pytest.param({"family": "guards", "rule": "length", "lengths": [1]}, id="lengths"),
        pytest.param({"rule": "length"}, id="no-family"),
        pytest.param({"family": "sampling", "rule": "bayesian", "prior": {}}, id="prior"),
    ],
)
def test_rules_that_nothing_wrote_are_refused(spec):
    records = log_of()
    records[0]["rules"] = [spec]
    with pytest.raises(BadRecord):
        replay(records)


@pytest.mark.parametrize("plan", [{}, {"limits": 3}, {"limits": {}, "thinking_cap": "nobody"}], ids=str)
def test_plans_that_nothing_wrote_are_refused(plan):
    with pytest.raises(BadRecord):
        plan_from_record(plan)


def test_values_that_a_chunk_lacks_are_left_out():
    spec = RuleSpec(family="sampling", rule="confidence")
    recorder = Recorder(watched([build_rule(spec, plan_for(spec, close_by=ThinkingCap.GATEWAY))]))
    recorder.note(Chunk(at=1.0, sample=0, tokens=2, phase=Phase.ANSWER), ())
    recorder.flush()
    (record,) = recorder.records
    assert "confidences" not in record


def test_what_a_rule_wanted_that_does_not_run_now_is_passed_over():
    want = {"by": "boundary", "decision": "CloseThought", "sample": 0, "rule": "boundary"}
    record = {"event": "Chunk", "at": 1.0, "sample": 0, "tokens": 1, "phase": "thinking", "wants": [want]}
    (difference,) = replay(log_of(record)).differences
    assert difference.event == "Started"


def test_an_engines_close_is_recorded_as_it_comes():
    recorder = Recorder()
    recorder.note(EngineClosed(at=1.0, sample=0, rule="engine_entropy", at_token=4), ())
    assert recorder.records == [
        {"event": "EngineClosed", "at": 1.0, "sample": 0, "rule": "engine_entropy", "at_token": 4}
    ]
