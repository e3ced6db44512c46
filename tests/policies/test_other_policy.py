"""A tape played to the policy that recorded it says what happened; to another, what would have, or that it cannot."""

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_runs import SPECS, Upstream, plan_for
from suffice.policies.errors import BadRecord
from suffice.policies.events import ClientGone, EndReason, Probed
from suffice.policies.other_policy import Undecidable, as_it_was, play
from suffice.policies.plan import ThinkingCap
from suffice.policies.records import plan_to_record
from suffice.policies.replay_log import rules_of
from suffice.policies.tape import tape_of


class Steady(Upstream):
    """Never two things at one moment, so that a tape's order is the only one; what is aborted ends at once."""

    def see(self, event):
        self.at += 1e-4
        super().see(replace(event, at=self.at))
        for sample in tuple(self.aborted):
            self.ended(sample, EndReason.ABORTED)
        for sample in tuple(self.votes):
            if sample in self.votes:
                self.vote(sample)
        for sample in [one for one in self.probes if not self.chain.is_open(one)]:
            # The driver cuts the probe of a sample that is done.
            probe = self.probes.pop(sample)
            self.see(Probed(at=self.at, sample=sample, at_token=probe.at_token, tokens=0))
        for sample in tuple(self.left):
            # An engine ends a stream with its last token.
            if self.chain.is_open(sample) and not self.left[sample]:
                self.ended(sample, EndReason.LENGTH)

    def goes_over(self, sample):
        # Where the stream pauses at a thought's end, nothing of the answer comes in the same segment.
        return False


def settled(live):
    chain = live.chain
    meter = chain.meter
    spent = {
        "completion_tokens": meter.used - meter.probe_used - chain.cancelled_tokens,
        "probe_tokens": meter.probe_used,
        "cancelled_tokens": chain.cancelled_tokens,
    }
    stops = [{"sample": stop.sample, "rule": stop.rule, "by": stop.by} for stop in chain.stops]
    return {"event": "Settled", "receipt": {"spent": spent, "stops": stops}, "answers": [None] * chain.samples}


def recorded(spec, plan, chance, *, each_chunk=True):
    live = Steady(chance, spec, plan, each_chunk=each_chunk)
    live.run()
    live.recorder.flush()
    planned = {"event": "Planned", "plan": plan_to_record(plan), "rules": [spec.to_record()]}
    return live, json.loads(json.dumps([planned, *live.recorder.records, settled(live)]))


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.family != "sampling"], ids=lambda spec: spec.rule)
@given(st.randoms(use_true_random=True))
@settings(max_examples=25)
def test_the_same_policy_spends_the_same(spec, chance):
    plan = replace(plan_for(spec, close_by=ThinkingCap.GATEWAY), deadline_s=None)
    live, records = recorded(spec, plan, chance)
    if not live.chain.complete:
        return
    tape = tape_of(records)
    assert as_it_was(tape).tokens == live.chain.meter.used
    verdict = play(tape, plan, rules_of([spec], plan))
    assert verdict.tokens == live.chain.meter.used
    if spec.rule == "extend":
        # Of several pauses of one sample only the last one's length is kept.
        return
    assert verdict.latency == pytest.approx(tape.completed, abs=0.01)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.family == "sampling"], ids=lambda spec: spec.rule)
@given(st.randoms(use_true_random=True))
@settings(max_examples=25)
def test_the_same_votes_win_again(spec, chance):
    plan = replace(plan_for(spec, close_by=ThinkingCap.GATEWAY), deadline_s=None)
    live, records = recorded(spec, plan, chance)
    draw = live.chain.rules[0]
    votes = {record["sample"]: record["answer"] for record in records if record.get("event") == "Voted"}
    won = None if draw.winner is None else votes[draw.winner]
    records[-1]["answers"] = [votes.get(sample) for sample in range(live.chain.samples)]
    records[-1]["receipt"]["votes"] = {"winner": None if won is None else str(won)}
    if not live.chain.complete:
        return
    verdict = play(tape_of(records), plan, rules_of([spec], plan))
    assert verdict.changed is False
    assert verdict.tokens == live.chain.meter.used


@pytest.mark.parametrize("merged", [False, True], ids=["every-chunk", "merged"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.rule)
@given(st.randoms(use_true_random=True))
@settings(max_examples=15)
def test_a_tighter_policy_is_decided_or_undecidable_and_never_spends_more_than_its_limits(spec, merged, chance):
    close_by = chance.choice([ThinkingCap.GATEWAY, ThinkingCap.ENGINE])
    plan = plan_for(spec, close_by=close_by)
    _, records = recorded(spec, plan, chance, each_chunk=not merged)
    cap = chance.randint(1, 60)
    size = chance.randint(30, 90)
    tight = replace(
        plan,
        thinking_tokens=cap,
        sample_tokens=size,
        thinking_cap=chance.choice([ThinkingCap.GATEWAY, ThinkingCap.ENGINE]),
        total_tokens=chance.randint(2 * size, 400),
        deadline_s=chance.choice([None, 1.0, 3.0]),
        pause_at_close=chance.random() < 0.5,
    )
    rule = chance.choice([spec, *(other for other in SPECS if other.family == "early_exit")])
    tape = tape_of(records)
    if chance.random() < 0.2:
        tape.interrupted = ClientGone(at=0.5)
    verdict = None
    with contextlib.suppress(Undecidable):
        verdict = play(tape, tight, rules_of([rule], tight))
    if verdict is None:
        return
    assert 0 <= verdict.tokens <= tight.total_tokens
    if tight.deadline_s is not None:
        assert verdict.latency <= tight.deadline_s + 1e-9


@pytest.mark.parametrize(
    "last",
    [
        pytest.param({"event": "Started", "at": 0.0}, id="no-end"),
        pytest.param({"event": "Settled", "receipt": {"stops": []}}, id="no-spending"),
        pytest.param({"event": "Settled", "receipt": {"spent": {}, "stops": []}}, id="nothing-spent"),
        pytest.param({"event": "Settled"}, id="no-receipt"),
    ],
)
def test_a_log_that_is_not_whole_is_no_tape(last):
    plan = plan_for(SPECS[0], close_by=ThinkingCap.GATEWAY)
    with pytest.raises(BadRecord):
        tape_of([{"event": "Planned", "plan": plan_to_record(plan)}, last])
