"""A tape played to the policy that recorded it says what happened; to another, what would have, or that it cannot."""

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_runs import SPECS, Upstream, plan_for
from suffice.policies.budget import Bound
from suffice.policies.chain import Chain
from suffice.policies.decisions import Abort, Complete, Open, ReadVote, SampleDone
from suffice.policies.decisions import Probe as ProbeOut
from suffice.policies.errors import BadRecord
from suffice.policies.events import (
    Chunk,
    ClientGone,
    EndReason,
    EngineClosed,
    Paused,
    Phase,
    Priced,
    Probed,
    PromptCounted,
    Resumed,
    SegmentEnded,
    Started,
    Voted,
)
from suffice.policies.other_policy import Undecidable, as_it_was, play
from suffice.policies.plan import Plan, ThinkingCap
from suffice.policies.records import RuleSpec, plan_to_record
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


@pytest.mark.parametrize("close_by", [ThinkingCap.GATEWAY, ThinkingCap.ENGINE])
@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.family != "sampling"], ids=lambda spec: spec.rule)
@given(st.randoms(use_true_random=True))
@settings(max_examples=25)
def test_the_same_policy_spends_the_same(spec, close_by, chance):
    plan = replace(plan_for(spec, close_by=close_by), deadline_s=None)
    live, records = recorded(spec, plan, chance)
    if not live.chain.complete:
        return
    held = tape_of(records)
    assert as_it_was(held).tokens == live.chain.meter.used
    verdict = play(held, plan, rules_of([spec], plan))
    assert verdict.tokens == live.chain.meter.used
    assert verdict.latency == pytest.approx(held.completed, abs=0.01)


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
    held = tape_of(records)
    if chance.random() < 0.2:
        held.interrupted = ClientGone(at=0.5)
    verdict = None
    with contextlib.suppress(Undecidable):
        verdict = play(held, tight, rules_of([rule], tight))
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


ONE = Plan(
    samples=1,
    most_samples=1,
    total_tokens=200,
    sample_tokens=100,
    thinking_tokens=80,
    thinking_cap=ThinkingCap.ENGINE,
    deadline_s=None,
    prompts=1,
    prompt_tokens=5,
    limits={"answer_reserve": Bound(value=4, source="default")},
    probe_tokens=40,
)


def opened(sample=0, segment=0, **more):
    return Open(sample=sample, segment=segment, max_tokens=100, **more)


def chunk(at, tokens, phase, sample=0, **more):
    return Chunk(at=at, sample=sample, tokens=tokens, phase=phase).to_loggable() | more


def over(at, sample=0, phase=Phase.ANSWER, reason=EndReason.STOP):
    return SegmentEnded(at=at, sample=sample, reason=reason, phase=phase)


def tape(*records, answers=None, stops=(), votes=None, plan=ONE, spent=60):
    """A tape of events, decisions and records, in order."""
    receipt = {
        "spent": {"completion_tokens": spent, "probe_tokens": 0, "cancelled_tokens": 0},
        "stops": list(stops),
        "votes": votes,
    }
    last = {"event": "Settled", "receipt": receipt} | ({} if answers is None else {"answers": answers})
    lines = [record if isinstance(record, dict) else record.to_loggable() for record in records]
    planned = {"event": "Planned", "plan": plan_to_record(plan)}
    return tape_of([planned, Started(at=0.0).to_loggable(), *lines, last])


def thinks_then_answers(sample=0, thought=50, answer=10):
    return [
        chunk(1.0, thought, Phase.THINKING, sample, chunks=thought, first=0.1),
        chunk(2.0, answer, Phase.ANSWER, sample),
        over(2.1, sample),
        SampleDone(sample=sample, finish="stop"),
    ]


TWO = [opened(0), opened(1), *thinks_then_answers(0), *thinks_then_answers(1), Complete()]


def exit_rule(name, **parameters):
    return RuleSpec(family="early_exit", rule=name, parameters=parameters)


def test_time_within_a_run_of_chunks_is_told_by_its_ends():
    rule = exit_rule("static_cap", cap=25)
    verdict = play(tape(opened(), *thinks_then_answers(), Complete()), ONE, rules_of([rule], ONE))
    assert verdict.tokens == 25 + 10
    # The 25th of 50 tokens, the first at 0.1 and the last at 1.0; then the answer's second, and its end.
    assert verdict.latency == pytest.approx(0.1 + 0.9 * 24 / 49 + 1.0 + 0.1)
    assert verdict.changed is None


@pytest.mark.parametrize(
    ("answers", "probe", "changed"),
    [
        pytest.param([1], 1, False, id="same"),
        pytest.param([1], 0, True, id="other"),
        pytest.param([1], None, True, id="none"),
        pytest.param(None, 1, None, id="nothing-read"),
    ],
)
def test_an_earlier_answer_is_what_the_last_probe_found(answers, probe, changed):
    found = Probed(at=0.4, sample=0, at_token=10, tokens=3, answer=probe, confidence=1.0)
    records = [
        opened(),
        chunk(0.3, 10, Phase.THINKING),
        ProbeOut(sample=0, at_token=10, max_tokens=20),
        found,
        chunk(0.5, 40, Phase.THINKING),
        chunk(0.6, 10, Phase.ANSWER),
        over(0.7),
        SampleDone(sample=0, finish="stop"),
        Complete(),
    ]
    held = tape(*records, answers=answers)
    rule = exit_rule("static_cap", cap=10)
    assert play(held, ONE, rules_of([rule], ONE)).changed is changed
    longer = exit_rule("convergence", probe_first=10, probe_tokens=30)
    assert play(held, ONE, rules_of([longer], ONE)).tokens == 50 + 10 + 3
    shorter = exit_rule("convergence", probe_first=10, probe_tokens=2)
    with pytest.raises(Undecidable, match="another length"):
        play(held, ONE, rules_of([shorter], ONE))


def test_a_thought_that_the_engine_closed_went_no_further():
    stops = [{"sample": 0, "rule": "thinking_tokens", "by": "engine"}]
    held = tape(opened(thinking_tokens=50), *thinks_then_answers(), Complete(), stops=stops)
    same = replace(ONE, thinking_tokens=50)
    assert play(held, same, []).tokens == 60
    with pytest.raises(Undecidable, match="gone on"):
        play(held, ONE, [])
    closed = EngineClosed(at=1.5, sample=0, rule="engine_entropy", at_token=50)
    first, *rest = thinks_then_answers()
    with pytest.raises(Undecidable, match="gone on"):
        play(tape(opened(), first, closed, *rest, Complete()), ONE, [])


def test_what_stands_of_a_thought_in_the_prompt_counts_for_the_engine():
    prompt = PromptCounted(at=0.05, sample=0, prompt_tokens=30, thinking=20)
    held = tape(opened(), prompt, *thinks_then_answers(), Complete())
    assert play(held, replace(ONE, thinking_tokens=50), []).tokens == 30 + 10


def test_thinking_on_where_nobody_did_is_not_told():
    pauses = replace(ONE, pause_at_close=True)
    rule = RuleSpec(family="guards", rule="extend", parameters={"least": 70})
    with pytest.raises(Undecidable, match="gone on"):
        play(tape(opened(), *thinks_then_answers(), Complete()), pauses, rules_of([rule], pauses))


def test_where_thinking_on_happened_nobody_can_tell_the_answer_before():
    records = [
        opened(pause_at_close=True),
        chunk(0.3, 10, Phase.THINKING),
        over(0.4, phase=Phase.THINKING, reason=EndReason.THOUGHT_END),
        opened(segment=1, think_on=True, pause_at_close=True),
        *thinks_then_answers(),
        Complete(),
    ]
    held = tape(*records, spent=70)
    for plan in (ONE, replace(ONE, pause_at_close=True)):
        if plan is ONE:
            with pytest.raises(Undecidable, match="would have been answered"):
                play(held, plan, [])
        else:
            assert play(held, plan, []).changed is None


def test_fewer_samples_are_another_answer_and_more_are_not_told():
    two = replace(ONE, samples=2, most_samples=2)
    held = tape(*TWO, plan=two, answers=[0, 0], spent=120)
    assert play(held, two, []).changed is False
    assert play(held, ONE, []).changed is True
    with pytest.raises(Undecidable, match="more samples"):
        play(held, replace(ONE, samples=3, most_samples=3, total_tokens=300), [])


def test_votes_where_there_were_none_and_none_where_there_were():
    two = replace(ONE, samples=2, most_samples=2)
    votes = replace(two, votes=True)
    rule = RuleSpec(family="sampling", rule="all", wave=2)
    held = tape(*TWO, plan=two, answers=[1, 1], spent=120)
    assert play(held, votes, rules_of([rule], votes)).changed is False
    unread = tape(*TWO, plan=two, spent=120)
    with pytest.raises(Undecidable, match="voted"):
        play(unread, votes, rules_of([rule], votes))
    cut = tape(opened(0), opened(1), Complete(), plan=votes, answers=[1, 0], votes={"winner": "1"})
    with pytest.raises(Undecidable, match="sample that would have gone on"):
        play(cut, ONE, [])
    voted = tape(*TWO, plan=votes, answers=[1, 0], votes={"winner": "1"}, spent=120)
    assert play(voted, ONE, []).changed is False
    lost = tape(*TWO, plan=votes, answers=[0, 1], votes={"winner": "1"}, spent=120)
    assert play(lost, ONE, []).changed is True


def priced(at, second):
    return Priced(at=at, second=second, block_second=0.0, token_s=0.01, step_s=0.02, block_size=16)


def voted_in_turn(*, wait, prices=(), votes=(0, 1, 0)):
    """Samples one after the other, each of which votes a while after its end."""
    plan = replace(ONE, samples=1, most_samples=3, votes=True, total_tokens=300)
    records, at = [opened(0), *prices], 0.0
    for sample, answer in enumerate(votes):
        at += 2.0
        records += [
            chunk(at - 1.5, 50, Phase.THINKING, sample),
            chunk(at - 0.5, 10, Phase.ANSWER, sample),
            over(at, sample),
            SampleDone(sample=sample, finish="stop"),
            ReadVote(sample=sample, judge_tokens=0),
            Voted(at=at + wait, sample=sample, answer=answer, tokens=60),
        ]
        at += wait
        records.append(Complete() if sample + 1 == len(votes) else opened(sample + 1))
    held = tape(*records, plan=plan, answers=list(votes), votes={"winner": "0"}, spent=60 * len(votes))
    return held, plan


def test_reading_a_vote_takes_the_time_that_it_took():
    held, plan = voted_in_turn(wait=0.5)
    rule = RuleSpec(family="sampling", rule="majority_lock", wave=1)
    verdict = play(held, plan, rules_of([rule], plan))
    assert (verdict.tokens, verdict.changed) == (180, False)
    assert verdict.latency == pytest.approx(held.completed) == 7.5


@pytest.mark.parametrize(
    ("at", "tokens"),
    [
        pytest.param(2.4, 60, id="while-the-vote-is-read"),
        pytest.param(2.6, 120, id="after-it"),
        pytest.param(0.0, 60, id="from-the-start"),
    ],
)
def test_prices_hold_from_when_they_were_told(at, tokens):
    held, plan = voted_in_turn(wait=0.5, prices=[priced(at, 50.0)])
    rule = RuleSpec(family="sampling", rule="majority_lock", wave=1)
    assert play(held, plan, rules_of([rule], plan)).tokens == tokens


def test_prices_after_the_recorded_end_are_not_told():
    beside = replace(ONE, samples=3, most_samples=3, votes=True, total_tokens=300)
    in_turn = replace(beside, samples=1)
    rule = RuleSpec(family="sampling", rule="majority_lock", wave=1)
    three = [record for sample in range(3) for record in thinks_then_answers(sample)]
    told = {"plan": beside, "answers": [0, 1, 0], "votes": {"winner": "0"}, "spent": 180}
    free = tape(opened(0), opened(1), opened(2), *three, Complete(), **told)
    assert play(free, in_turn, rules_of([rule], in_turn)).latency == pytest.approx(3 * 2.1)
    held = tape(opened(0), opened(1), opened(2), priced(0.0, 0.0), *three, Complete(), **told)
    with pytest.raises(Undecidable, match="prices of a time after"):
        play(held, in_turn, rules_of([rule], in_turn))


@pytest.mark.parametrize("waited", [False, True], ids=["nothing-waited", "waited"])
def test_a_request_that_waited_for_memory_is_undecidable(waited):
    first, *rest = thinks_then_answers()
    pause = [Paused(at=1.1), *([Abort(sample=0), over(1.2, phase=Phase.THINKING, reason=EndReason.ABORTED)] * waited)]
    resumed = [Resumed(at=1.5), *([opened(segment=1)] * waited)]
    held = tape(opened(), first, *pause, *resumed, *rest, Complete())
    if waited:
        with pytest.raises(Undecidable, match="waited for memory"):
            play(held, ONE, [])
    else:
        assert play(held, ONE, []).latency == pytest.approx(2.1)


@pytest.mark.parametrize("close_by", [ThinkingCap.GATEWAY, ThinkingCap.ENGINE])
def test_a_probe_that_comes_after_the_thoughts_end_closes_nothing(close_by):
    plan = replace(ONE, close_by=close_by, pause_at_close=True)
    rule = exit_rule("confidence", threshold=0.5, probe_first=10)
    chain = Chain(plan, rules_of([rule], plan))
    chain.observe(Started(at=0.0))
    asked = chain.observe(Chunk(at=0.1, sample=0, tokens=10, phase=Phase.THINKING))
    assert [type(action) for action in asked] == [ProbeOut]
    (answer,) = chain.observe(over(0.2, phase=Phase.THINKING, reason=EndReason.THOUGHT_END))
    assert answer.close_thought
    sure = Probed(at=0.3, sample=0, at_token=10, tokens=3, answer=0, confidence=1.0)
    assert chain.observe(sure) == ()
    assert chain.stops == []


def test_a_record_that_cannot_be_is_undecidable():
    held = tape(opened(), chunk(0.1, -3, Phase.ANSWER), over(0.2), Complete())
    with pytest.raises(Undecidable, match="does not fit"):
        play(held, ONE, [])


def test_a_client_that_left_leaves_again_unless_it_was_served_before():
    records = [
        opened(),
        chunk(1.0, 50, Phase.THINKING, chunks=50, first=0.1),
        chunk(2.0, 10, Phase.ANSWER),
        ClientGone(at=2.5),
        over(2.6, reason=EndReason.ABORTED),
        SampleDone(sample=0, finish="length"),
        Complete(),
        ClientGone(at=3.0),
    ]
    held = tape(*records)
    assert held.interrupted == ClientGone(at=2.5)
    verdict = play(held, ONE, [])
    assert (verdict.tokens, verdict.latency, verdict.changed) == (60, 2.5, False)
    early = play(held, replace(ONE, sample_tokens=25, thinking_tokens=20), [])
    assert early.tokens == 25
    assert early.latency < 2.5
    with pytest.raises(Undecidable, match="sample that would have gone on"):
        play(held, replace(ONE, thinking_tokens=20), [])
