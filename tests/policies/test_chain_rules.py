"""What rules can ask of a request's machine: probes, votes, more samples, closed and reopened thoughts, ends."""

import pytest
from suffice.policies.budget import Budget
from suffice.policies.chain import ABORT_LAG_TOKENS, Chain
from suffice.policies.decisions import (
    Abort,
    CloseThought,
    Complete,
    Continue,
    DrawSamples,
    EndRequest,
    Finish,
    Open,
    Probe,
    ReadVote,
    SampleDone,
    Signal,
    StopSample,
    TakeProbe,
    ThinkOn,
)
from suffice.policies.errors import IllegalEvent
from suffice.policies.events import (
    Chunk,
    ClientGone,
    Draining,
    EndReason,
    EngineClosed,
    Phase,
    Probed,
    PromptCounted,
    SegmentEnded,
    Started,
    Tick,
    Voted,
)
from suffice.policies.plan import ApiFacts, Asked, Draws, ModelFacts, make_plan

THINKS = ModelFacts(context=10_000, thinks=True, engine_cap=True, close_tokens=2)
NO_ENGINE = ModelFacts(context=10_000, thinks=True, close_tokens=2)
SIGNALS = ModelFacts(context=10_000, thinks=True, engine_cap=True, engine_signal=True, close_tokens=2)


class Rule:
    """Wants what a table says, by kind of event and how many of that kind came before."""

    name = "table"

    def __init__(self, **wants):
        kinds = {kind.__name__: kind for kind in (Chunk, SegmentEnded, Voted, Probed, Tick)}
        self.listens = frozenset(kinds[name] for name in wants)
        self.wants = wants
        self.seen = {}

    def observe(self, event):
        name = type(event).__name__
        number = self.seen[name] = self.seen.get(name, 0) + 1
        wanted = self.wants[name]
        return wanted[number - 1] if number <= len(wanted) else Continue()


def chain(*rules, model=THINKS, n=1, draws=None, probes=False, extends=False, **limits):
    asked = Asked(
        samples=n,
        prompt_tokens=5,
        sources=(("request", Budget(**limits)),),
        draws=draws,
        probes=probes,
        closes=True,
        extends=extends,
    )
    made = Chain(make_plan(asked, model, ApiFacts()), rules)
    return made, made.observe(Started(at=0))


def thinking(tokens, sample=0):
    return Chunk(at=1, sample=sample, tokens=tokens, phase=Phase.THINKING)


def answering(tokens, sample=0):
    return Chunk(at=1, sample=sample, tokens=tokens, phase=Phase.ANSWER)


def ended(reason, sample=0, phase=Phase.ANSWER):
    return SegmentEnded(at=2, sample=sample, reason=reason, phase=phase)


def test_a_probe_is_paid_from_its_own_pot_and_waited_for():
    made, _ = chain(Rule(Chunk=[TakeProbe(sample=0, rule="p", max_tokens=10)]), probes=True, total_tokens=800)
    assert made.plan.probe_tokens == 100
    assert made.observe(thinking(20)) == (Probe(sample=0, at_token=20, max_tokens=10),)
    assert made.observe(ended(EndReason.STOP)) == (SampleDone(sample=0, finish="stop"),)
    assert not made.complete
    assert made.observe(Probed(at=3, sample=0, at_token=20, tokens=4)) == (Complete(),)
    assert (made.meter.used, made.meter.probe_used) == (24, 4)


def test_probes_never_pass_their_pot():
    wants = [TakeProbe(sample=0, rule="p", max_tokens=60)] * 6
    made, _ = chain(Rule(Chunk=wants), probes=True, total_tokens=800)
    granted = []
    for _ in range(4):
        for action in made.observe(thinking(5)):
            granted.append(action.max_tokens)
            assert made.observe(thinking(1)) == ()
            made.observe(Probed(at=1, sample=0, at_token=5, tokens=action.max_tokens))
    assert granted == [60, 40]
    assert made.meter.probe_used == made.plan.probe_tokens


@pytest.mark.parametrize("event", [answering(1), None], ids=["answering", "not-open"])
def test_no_probe_outside_a_thought(event):
    rule = Rule(
        Chunk=[Continue(), TakeProbe(sample=0, rule="p", max_tokens=9)],
        Tick=[TakeProbe(sample=0, rule="p", max_tokens=9)],
    )
    made, _ = chain(rule, Rule(SegmentEnded=[]), probes=True, total_tokens=800, n=2)
    made.observe(thinking(3))
    if event is None:
        made.observe(ended(EndReason.STOP))
        assert made.observe(Tick(at=1)) == ()
    else:
        assert made.observe(event) == ()


@pytest.mark.parametrize("sample", [0, 7])
def test_a_probe_or_a_vote_that_nobody_asked_for_is_illegal(sample):
    made, _ = chain(total_tokens=100)
    with pytest.raises(IllegalEvent, match="no open probe"):
        made.observe(Probed(at=1, sample=sample, at_token=1, tokens=1))
    with pytest.raises(IllegalEvent, match="not to vote"):
        made.observe(Voted(at=1, sample=sample, answer=0, tokens=1))
    assert made.meter.used == 0


def test_votes_are_read_and_more_samples_drawn_until_the_rule_has_enough():
    rule = Rule(Voted=[Continue(), DrawSamples(count=2, rule="d"), EndRequest(rule="d", finish=Finish.STOP)])
    made, opened = chain(rule, draws=Draws(most=6, first=lambda _: 2), total_tokens=600)
    assert [action.max_tokens for action in opened] == [300, 300]
    for sample in (0, 1):
        made.observe(answering(10, sample))
        assert made.observe(ended(EndReason.STOP, sample)) == (
            SampleDone(sample=sample, finish="stop"),
            ReadVote(sample=sample),
        )
    assert made.observe(Voted(at=2, sample=0, answer=0, tokens=10)) == ()
    drawn = made.observe(Voted(at=2, sample=1, answer=1, tokens=10))
    assert [(action.sample, action.max_tokens) for action in drawn] == [(2, 290), (3, 290)]
    made.observe(answering(5, 2))
    made.observe(ended(EndReason.STOP, 2))
    assert made.observe(Voted(at=3, sample=2, answer=0, tokens=5)) == (Abort(sample=3),)
    assert made.observe(ended(EndReason.ABORTED, 3)) == (SampleDone(sample=3, finish="stop"), Complete())
    assert made.stops[-1].rule == "d"
    assert made.meter.used == 25


def test_a_sample_that_would_have_no_room_for_an_answer_is_not_drawn():
    rule = Rule(Voted=[DrawSamples(count=4, rule="d")])
    made, _ = chain(rule, draws=Draws(most=6, first=lambda _: 1), total_tokens=60, answer_reserve=10)
    made.observe(answering(25))
    made.observe(ended(EndReason.STOP))
    drawn = made.observe(Voted(at=2, sample=0, answer=0, tokens=25))
    assert [action.max_tokens for action in drawn] == [11, 12, 12]


@pytest.mark.parametrize("model", [THINKS, NO_ENGINE], ids=["engine", "gateway"])
def test_a_sample_with_less_than_its_share_thinks_less_and_can_still_answer(model):
    rule = Rule(Voted=[DrawSamples(count=1, rule="d")])
    draws = Draws(most=6, first=lambda _: 1)
    made, _ = chain(rule, model=model, draws=draws, total_tokens=100, answer_reserve=10)
    made.observe(answering(60))
    made.observe(ended(EndReason.STOP))
    (drawn,) = made.observe(Voted(at=2, sample=0, answer=0, tokens=60))
    cap = drawn.thinking_tokens if model is THINKS else drawn.max_tokens
    assert cap == 40 - 10 - 2


def test_the_engine_closes_a_thought_where_it_takes_signals():
    close = CloseThought(sample=0, rule="c")
    made, _ = chain(Rule(Chunk=[close, close, close]), model=SIGNALS, total_tokens=200)
    assert made.observe(thinking(5)) == (Signal(sample=0),)
    assert made.observe(thinking(1)) == ()
    assert made.observe(answering(1)) == ()
    assert [(stop.rule, stop.by, stop.at_token) for stop in made.stops] == [("c", "engine", 5)]


def test_a_thought_is_not_closed_where_resuming_would_take_the_answers_tokens():
    close = CloseThought(sample=0, rule="c")
    made, _ = chain(Rule(Chunk=[Continue(), close]), total_tokens=100, answer_reserve=10)
    made.observe(thinking(100 - ABORT_LAG_TOKENS - 10))
    assert made.observe(thinking(1)) == ()
    assert made.stops == []


def test_a_thought_that_ends_by_itself_may_be_reopened():
    rule = Rule(SegmentEnded=[ThinkOn(sample=0, rule="t"), Continue(), ThinkOn(sample=0, rule="t")])
    made, opened = chain(rule, extends=True, total_tokens=400)
    assert opened[0].pause_at_close
    made.observe(thinking(10))
    (again,) = made.observe(ended(EndReason.THOUGHT_END, phase=Phase.THINKING))
    assert isinstance(again, Open)
    assert (again.think_on, again.segment, again.close_thought) == (True, 1, False)
    made.observe(thinking(10))
    (answer,) = made.observe(ended(EndReason.THOUGHT_END, phase=Phase.THINKING))
    assert (answer.think_on, answer.segment, answer.close_thought, answer.pause_at_close) == (False, 2, True, False)
    made.observe(answering(3))
    assert made.observe(ended(EndReason.STOP)) == (SampleDone(sample=0, finish="stop"), Complete())


def test_a_thought_that_ends_with_the_last_token_is_over():
    made, _ = chain(extends=True, total_tokens=40)
    made.observe(thinking(30))
    made.observe(answering(10))
    assert made.observe(ended(EndReason.THOUGHT_END)) == (SampleDone(sample=0, finish="length"), Complete())


@pytest.mark.parametrize(
    ("wanted", "finish"),
    [
        pytest.param(StopSample(sample=0, rule="s", finish=Finish.STOP), "stop", id="sample"),
        pytest.param(EndRequest(rule="s"), "length", id="request"),
    ],
)
def test_a_sample_that_is_stopped_at_the_close_of_its_thought_does_not_go_on(wanted, finish):
    made, _ = chain(Rule(SegmentEnded=[wanted]), extends=True, total_tokens=400)
    made.observe(thinking(10))
    actions = made.observe(ended(EndReason.THOUGHT_END, phase=Phase.THINKING))
    assert actions == (SampleDone(sample=0, finish=finish), Complete())
    assert [stop.rule for stop in made.stops] == ["s"]


def test_stopping_what_is_stopped_or_over_changes_nothing():
    stop = StopSample(sample=0, rule="s")
    made, _ = chain(Rule(Chunk=[stop, stop], Tick=[stop]), n=2, total_tokens=200)
    assert made.observe(answering(1)) == (Abort(sample=0),)
    assert made.observe(answering(1)) == ()
    assert made.observe(ended(EndReason.ABORTED)) == (SampleDone(sample=0, finish="length"),)
    assert made.observe(Tick(at=1)) == ()


def test_what_the_engine_closed_by_itself_is_noted():
    made, _ = chain(total_tokens=200)
    assert made.observe(EngineClosed(at=1, sample=0, rule="entropy", at_token=7)) == ()
    assert [(stop.rule, stop.by, stop.at_token) for stop in made.stops] == [("entropy", "engine", 7)]


def test_shutting_down_ends_what_runs():
    made, _ = chain(n=2, total_tokens=200)
    assert made.observe(Draining(at=1)) == (Abort(sample=0), Abort(sample=1))
    assert made.observe(Draining(at=1)) == made.observe(ClientGone(at=1)) == ()
    made.observe(ended(EndReason.ABORTED, 0))
    assert made.observe(ended(EndReason.STOP, 1)) == (SampleDone(sample=1, finish="length"), Complete())
    assert [stop.rule for stop in made.stops] == ["shutdown", "shutdown"]


def test_a_request_that_ends_before_it_started_is_complete_at_once():
    asked = Asked(samples=1, prompt_tokens=5, sources=(("request", Budget(total_tokens=50)),))
    made = Chain(make_plan(asked, THINKS, ApiFacts()))
    assert made.observe(ClientGone(at=0)) == (Complete(),)
    assert made.complete


@pytest.mark.parametrize(
    "event",
    [
        Started(at=3),
        answering(1),
        ended(EndReason.STOP),
        Probed(at=3, sample=0, at_token=1, tokens=1),
        Voted(at=3, sample=0, answer=0, tokens=1),
    ],
    ids=lambda event: type(event).__name__,
)
def test_after_the_end_nothing_of_upstreams_may_come_and_the_rest_is_ignored(event):
    made, _ = chain(total_tokens=100)
    made.observe(ended(EndReason.STOP))
    assert made.complete
    with pytest.raises(IllegalEvent, match="after the request was complete"):
        made.observe(event)
    for late in (Tick(at=9), ClientGone(at=9), Draining(at=9), PromptCounted(at=9, sample=0, prompt_tokens=3)):
        assert made.observe(late) == ()


def test_a_prompt_counted_ahead_of_its_sample_counts():
    made, _ = chain(total_tokens=100)
    made.observe(PromptCounted(at=0, sample=4, prompt_tokens=9))
    assert made.prompt_tokens == 9


def test_a_sample_is_open_from_its_launch_to_its_end():
    made, _ = chain(total_tokens=100)
    assert (made.is_open(0), made.is_open(1)) == (True, False)
    made.observe(thinking(4))
    assert made.thinking_tokens(0) == 4
    made.observe(ended(EndReason.STOP))
    assert not made.is_open(0)


def test_the_sample_limit_is_named_where_it_binds():
    made, _ = chain(sample_tokens=50, total_tokens=500)
    made.observe(answering(50))
    made.observe(ended(EndReason.LENGTH))
    assert made.stops[-1].rule == "sample_tokens"


def test_a_segment_that_a_short_thought_left_room_in_goes_on_as_an_answer():
    made, opened = chain(model=NO_ENGINE, thinking_tokens=10, total_tokens=100)
    assert opened[0].max_tokens == 10
    made.observe(thinking(4))
    made.observe(answering(6))
    (more,) = made.observe(ended(EndReason.LENGTH))
    assert (more.close_thought, more.max_tokens) == (False, 90)
    assert made.stops == []
    assert made.samples == 1
