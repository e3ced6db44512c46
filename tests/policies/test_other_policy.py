"""A tape played to the policy that recorded it says what happened; to another, what would have, or that it cannot."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_runs import SPECS, Upstream, plan_for
from suffice.policies.errors import BadRecord
from suffice.policies.events import ClientGone, EndReason
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
    assert verdict.latency == pytest.approx(tape.completed, abs=0.05)
