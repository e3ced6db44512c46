"""What is recorded tells every decision again: any rule, any stream, chunks merged or not."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suffice.policies import sampling, stopping
from suffice.policies.budget import Bound
from suffice.policies.chain import Chain
from suffice.policies.decisions import Abort, Complete, Open, Probe, ReadVote, Signal
from suffice.policies.errors import BadRecord, IllegalEvent
from suffice.policies.events import (
    Chunk,
    EndReason,
    EngineClosed,
    Phase,
    Probed,
    PromptCounted,
    SegmentEnded,
    Started,
    Voted,
)
from suffice.policies.plan import NotApplied, Plan, ThinkingCap
from suffice.policies.recording import Recorder, watched
from suffice.policies.records import (
    RuleSpec,
    build_rule,
    plan_from_record,
    plan_to_record,
    specs_from_record,
)
from suffice.policies.replay_log import planned_of, replay

SMALL = {
    "probe_first": 4, "interval": 4, "probe_tokens": 4, "cap": 20, "least": 12, "max_pattern": 3, "min_count": 2,
    "warm_up": 2, "window": 2, "probability": 0.3, "soft": 0.3, "switch_s": 0.0,
}  # fmt: skip


def small(registry, name):
    parameters = registry.kinds[name].parameters
    return {key: value for key, value in SMALL.items() if key in parameters}


SPECS = [
    *(RuleSpec(family="guards", rule=name, parameters=small(stopping.GUARDS, name)) for name in stopping.GUARDS.kinds),
    *(
        RuleSpec(family="early_exit", rule=name, parameters=small(stopping.RULES, name))
        for name in stopping.RULES.kinds
    ),
    RuleSpec(family="early_exit", rule="convergence", parameters={"probe_first": 4}, audited=True),
    RuleSpec(family="guards", rule="length", parameters={}, lengths=(15, 5)),
    *(
        RuleSpec(family="sampling", rule=name, parameters=small(sampling.RULES, name), wave=2)
        for name in sampling.RULES.kinds
    ),
    RuleSpec(family="sampling", rule="bayesian", wave=2, audited=True, prior=sampling.Prior().to_json()),
]


def plan_for(spec, *, close_by):
    draws = spec.family == "sampling"
    return Plan(
        samples=2,
        most_samples=5 if draws else 2,
        total_tokens=400,
        sample_tokens=70,
        thinking_tokens=40,
        thinking_cap=ThinkingCap.GATEWAY,
        deadline_s=3.0,
        prompts=1,
        prompt_tokens=5,
        limits={"answer_reserve": Bound(value=4, source="default")},
        not_applied=(NotApplied(rule="x", why="y"),),
        probe_tokens=20,
        close_by=close_by,
        votes=draws,
        pause_at_close=True,
        close_tokens=1,
    )


class Upstream:
    """Plays driver and engine at random, and records as the driver does."""

    def __init__(self, chance, spec, plan, *, each_chunk):
        self.chance = chance
        rules = watched([build_rule(spec, plan)])
        self.chain = Chain(plan, rules)
        self.recorder = Recorder(rules, each_chunk=each_chunk)
        self.at = 0.0
        self.left, self.thinking = {}, {}
        self.probes, self.votes, self.aborted = {}, [], set()

    def see(self, event):
        try:
            actions = self.chain.observe(event)
        except IllegalEvent:
            return
        self.recorder.note(event, actions)
        for action in actions:
            match action:
                case Open():
                    self.left[action.sample] = action.max_tokens
                    self.thinking[action.sample] = not action.close_thought and (
                        action.segment == 0 or self.thinking.get(action.sample, True)
                    )
                case Probe():
                    self.probes[action.sample] = action
                case Abort():
                    self.aborted.add(action.sample)
                case Signal():
                    self.thinking[action.sample] = False
                case ReadVote():
                    self.votes.append(action.sample)

    def chunk(self, sample):
        count = self.chance.randint(1, min(6, self.left[sample]))
        if self.thinking[sample] and self.chance.random() < 0.03:
            self.thinking[sample] = False
        phase = Phase.THINKING if self.thinking[sample] else Phase.ANSWER
        self.left[sample] -= count
        words = tuple(self.chance.randint(0, 1) for _ in range(count))
        values = tuple(-self.chance.uniform(0, 4) for _ in range(count))
        self.see(
            Chunk(
                at=self.at, sample=sample, tokens=count, phase=phase, text="so." if words[0] else "so", token_ids=words,
                logprobs=values, confidences=tuple(-value for value in values), close_logprobs=values,
            )
        )  # fmt: skip

    def ended(self, sample, reason):
        phase = Phase.THINKING if self.thinking[sample] else Phase.ANSWER
        self.aborted.discard(sample)
        self.see(SegmentEnded(at=self.at, sample=sample, reason=reason, phase=phase))

    def run(self):
        self.see(Started(at=0.0))
        for sample in tuple(self.left):
            self.see(PromptCounted(at=0.1, sample=sample, prompt_tokens=5))
        for _ in range(400):
            if self.chain.complete:
                return
            self.at += self.chance.choice([0.0, 0.01, 0.3])
            choices = [
                ("chunk", s) for s in self.left if self.chain.is_open(s) and s not in self.aborted and self.left[s]
            ]
            choices += [("end", s) for s in self.left if self.chain.is_open(s)]
            choices += [("probe", s) for s in self.probes] + [("vote", s) for s in self.votes]
            what, sample = self.chance.choice(choices + [c for c in choices if c[0] == "chunk"] * 8)
            if what == "chunk":
                self.chunk(sample)
            elif what == "end" and sample in self.aborted:
                self.ended(sample, EndReason.ABORTED)
            elif what == "end":
                reasons = [EndReason.LENGTH] if not self.left[sample] else [EndReason.STOP]
                reasons += [EndReason.THOUGHT_END] if self.thinking[sample] and self.left[sample] else []
                self.ended(sample, self.chance.choice(reasons))
            elif what == "probe":
                probe = self.probes.pop(sample)
                answer = self.chance.choice([None, 0, 0, 1])
                tokens = self.chance.randint(0, probe.max_tokens)
                self.see(
                    Probed(
                        at=self.at, sample=sample, at_token=probe.at_token, tokens=tokens, answer=answer,
                        confidence=self.chance.random(), entropy=2 * self.chance.random(),
                    )
                )  # fmt: skip
            else:
                self.votes.remove(sample)
                answer = self.chance.choice([None, 0, 0, 1])
                score = self.chance.choice([None, self.chance.random()])
                self.see(Voted(at=self.at, sample=sample, answer=answer, tokens=5, score=score))


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


def test_an_engines_close_is_recorded_as_it_comes():
    recorder = Recorder()
    recorder.note(EngineClosed(at=1.0, sample=0, rule="engine_entropy", at_token=4), ())
    assert recorder.records == [
        {"event": "EngineClosed", "at": 1.0, "sample": 0, "rule": "engine_entropy", "at_token": 4}
    ]
