"""Pausing for memory: samples give up their streams and go on from their own tokens; nothing is lost or doubled."""

import pytest
from suffice.policies.budget import Bound, Budget
from suffice.policies.chain import Chain
from suffice.policies.decisions import (
    Abort,
    CloseThought,
    Complete,
    Continue,
    DrawSamples,
    Open,
    SampleDone,
    StopSample,
)
from suffice.policies.events import (
    Chunk,
    ClientGone,
    EndReason,
    MemoryHeld,
    Paused,
    Phase,
    PromptCounted,
    Resumed,
    SegmentEnded,
    Started,
    Tick,
    Voted,
)
from suffice.policies.plan import ApiFacts, Asked, Draws, ModelFacts, make_plan

PLAIN = ModelFacts(context=10_000)
THINKS = ModelFacts(context=10_000, thinks=True, engine_cap=True, close_tokens=2)


class Rule:
    """Wants one thing at the first event of a kind."""

    name = "once"

    def __init__(self, kind, wanted):
        self.listens = frozenset({kind})
        self.wanted = wanted

    def observe(self, event):
        return self.wanted


def made(model=PLAIN, *, samples=1, total=100, rules=(), api=None, draws=None, **budget):
    sources = (("request", Budget(total_tokens=total, **budget)),)
    asked = Asked(samples=samples, prompt_tokens=5, sources=sources, draws=draws, reserve_default=10)
    chain = Chain(make_plan(asked, model, api or ApiFacts()), rules)
    return chain, chain.observe(Started(at=0))


def said(chain, tokens, sample=0, phase=Phase.ANSWER):
    return chain.observe(Chunk(at=1, sample=sample, tokens=tokens, phase=phase))


def ended(chain, reason, sample=0, phase=Phase.ANSWER):
    return chain.observe(SegmentEnded(at=2, sample=sample, reason=reason, phase=phase))


def test_a_paused_sample_goes_on_with_all_that_it_had_left():
    chain, _ = made()
    said(chain, 30)
    assert chain.observe(Paused(at=1)) == (Abort(sample=0),)
    assert ended(chain, EndReason.ABORTED) == ()
    assert not chain.complete
    assert chain.observe(Resumed(at=9)) == (Open(sample=0, segment=1, max_tokens=70),)
    said(chain, 70)
    assert ended(chain, EndReason.LENGTH) == (SampleDone(sample=0, finish="length"), Complete())
    assert chain.meter.used == 100


def test_any_number_of_pauses_loses_no_token():
    chain, _ = made(total=60)
    for round_ in range(5):
        said(chain, 10)
        chain.observe(Paused(at=1))
        ended(chain, EndReason.ABORTED)
        assert chain.observe(Resumed(at=2)) == (Open(sample=0, segment=round_ + 1, max_tokens=50 - 10 * round_),)
    said(chain, 10)
    assert ended(chain, EndReason.STOP) == (SampleDone(sample=0, finish="stop"), Complete())
    assert chain.stops == []


def test_a_thought_goes_on_within_the_thought():
    chain, _ = made(THINKS, thinking_tokens=40)
    said(chain, 20, phase=Phase.THINKING)
    chain.observe(Paused(at=1))
    ended(chain, EndReason.ABORTED, phase=Phase.THINKING)
    (opened,) = chain.observe(Resumed(at=2))
    assert opened == Open(sample=0, segment=1, max_tokens=80, thinking_tokens=40, pause_at_close=True)
    assert not opened.close_thought


def test_what_resumes_before_its_stream_has_closed_goes_on_at_once():
    chain, _ = made()
    said(chain, 30)
    chain.observe(Paused(at=1))
    assert chain.observe(Resumed(at=1)) == ()
    assert ended(chain, EndReason.ABORTED) == (Open(sample=0, segment=1, max_tokens=70),)


def test_one_that_has_told_nothing_yet_runs_on():
    chain, _ = made(samples=2)
    said(chain, 10, sample=1)
    assert chain.observe(Paused(at=1)) == (Abort(sample=1),)


def test_one_that_ends_by_itself_meanwhile_is_done():
    chain, _ = made()
    said(chain, 30)
    chain.observe(Paused(at=1))
    assert ended(chain, EndReason.STOP) == (SampleDone(sample=0, finish="stop"), Complete())


def test_a_pause_at_the_very_last_token_is_the_end():
    chain, _ = made()
    chain.observe(PromptCounted(at=1, sample=0, prompt_tokens=5))
    said(chain, 100)
    chain.observe(Paused(at=1))
    assert ended(chain, EndReason.ABORTED) == (SampleDone(sample=0, finish="length"), Complete())


def test_samples_drawn_during_a_pause_wait_too():
    draws = Draws(most=3, first=lambda most: 1)
    chain, _ = made(draws=draws, rules=(Rule(Voted, DrawSamples(count=2, rule="once")),))
    said(chain, 10)
    ended(chain, EndReason.STOP)
    chain.observe(Paused(at=2))
    assert chain.observe(Voted(at=3, sample=0, answer=0, tokens=10)) == ()
    assert chain.samples == 3
    assert [action.segment for action in chain.observe(Resumed(at=4))] == [0, 0]


def test_a_thought_that_was_closed_answers_after_the_pause():
    chain, _ = made(THINKS, total=200, rules=(Rule(Tick, CloseThought(sample=0, rule="once")),))
    said(chain, 20, phase=Phase.THINKING)
    assert chain.observe(Tick(at=1)) == (Abort(sample=0),)
    assert chain.observe(Paused(at=1)) == ()
    assert ended(chain, EndReason.ABORTED, phase=Phase.THINKING) == ()
    (opened,) = chain.observe(Resumed(at=2))
    assert opened.close_thought


def test_a_thought_is_not_closed_while_it_is_being_paused():
    chain, _ = made(THINKS, total=200, rules=(Rule(Chunk, CloseThought(sample=0, rule="once")),))
    chain.rules[0].wanted = Continue()
    said(chain, 20, phase=Phase.THINKING)
    chain.observe(Paused(at=1))
    chain.rules[0].wanted = CloseThought(sample=0, rule="once")
    assert said(chain, 1, phase=Phase.THINKING) == ()


@pytest.mark.parametrize("end", [ClientGone(at=5), Tick(at=60)], ids=["client-left", "deadline"])
def test_a_paused_request_can_be_ended(end):
    chain, _ = made(deadline_ms=60_000)
    said(chain, 30)
    chain.observe(Paused(at=1))
    ended(chain, EndReason.ABORTED)
    done = chain.observe(end)
    assert done == (SampleDone(sample=0, finish="length"), Complete())
    assert chain.cancelled_tokens == 30
    assert chain.observe(Resumed(at=99)) == ()


def test_a_paused_sample_can_be_stopped_by_a_rule():
    draws = Draws(most=2, first=lambda most: 2)
    chain, _ = made(draws=draws, rules=(Rule(Voted, StopSample(sample=1, rule="once")),))
    said(chain, 10)
    said(chain, 10, sample=1)
    ended(chain, EndReason.STOP)
    chain.observe(Paused(at=2))
    ended(chain, EndReason.ABORTED, sample=1)
    actions = chain.observe(Voted(at=3, sample=0, answer=0, tokens=10))
    assert SampleDone(sample=1, finish="length") in actions


def test_what_cannot_go_on_from_its_tokens_is_not_paused():
    chain, _ = made(api=ApiFacts(can_resume=False))
    said(chain, 30)
    assert chain.observe(Paused(at=1)) == ()
    assert chain.observe(Resumed(at=1)) == ()


def test_a_second_pause_changes_nothing():
    chain, _ = made()
    said(chain, 30)
    chain.observe(Paused(at=1))
    assert chain.observe(Paused(at=1)) == ()


def test_the_memory_budget_ends_the_request():
    chain, _ = made()
    chain.plan.limits["kv_block_seconds"] = Bound(value=50, source="request")
    said(chain, 30)
    assert chain.observe(MemoryHeld(at=1, block_seconds=49.9)) == ()
    assert chain.observe(MemoryHeld(at=2, block_seconds=50.0)) == (Abort(sample=0),)
    ended(chain, EndReason.ABORTED)
    assert [(stop.rule, stop.by) for stop in chain.stops] == [("kv_block_seconds", "gateway")]


def test_without_a_memory_budget_nothing_ends():
    chain, _ = made()
    said(chain, 30)
    assert chain.observe(MemoryHeld(at=1, block_seconds=1e9)) == ()
