"""The request machine against a simulated upstream that obeys every allowance to the token."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.policies.budget import Budget
from suffice.policies.chain import ABORT_LAG_TOKENS, Chain
from suffice.policies.decisions import Abort, CloseThought, Complete, Continue, Open, SampleDone, StopSample
from suffice.policies.errors import IllegalEvent
from suffice.policies.events import Chunk, ClientGone, EndReason, Phase, PromptCounted, SegmentEnded, Started, Tick
from suffice.policies.plan import ApiFacts, Asked, ModelFacts, make_plan


def plan(*, n=1, thinks=False, engine=False, **limits):
    asked = Asked(samples=n, prompt_tokens=5, sources=(("request", Budget(**limits)),))
    return make_plan(asked, ModelFacts(context=10_000, thinks=thinks, engine_cap=engine, close_tokens=2), ApiFacts())


@dataclass
class Upstream:
    """Generates ``thought`` thinking tokens, then ``answer`` tokens, within each allowance, ``step`` a chunk."""

    thought: int
    answer: int
    step: int = 1

    def __post_init__(self):
        self.allowed = 0
        self.returned = 0
        self.generated = 0
        self.answers: dict[int, int] = {}

    def run(self, chain: Chain):
        actions = list(chain.observe(Started(at=0.0)))
        done = {}
        left = {}
        while actions:
            action = actions.pop(0)
            match action:
                case Open():
                    self.allowed += action.max_tokens
                    actions += self._segment(chain, action, left)
                case SampleDone():
                    done[action.sample] = action.finish
                case Complete() | Abort():
                    pass
        return done

    def _segment(self, chain, opened, left):
        sample = opened.sample
        thought, answer = left.setdefault(sample, [self.thought, self.answer])
        if opened.close_thought:
            thought = 0
        if opened.thinking_tokens is not None:
            thought = min(thought, opened.thinking_tokens)
        room = opened.max_tokens
        actions = []
        for phase, amount in (
            (Phase.THINKING, min(thought, room)),
            (Phase.ANSWER, max(0, min(answer, room - thought))),
        ):
            rest = amount
            while rest:
                tokens = min(self.step, rest)
                rest -= tokens
                room -= tokens
                left[sample][0 if phase is Phase.THINKING else 1] -= tokens
                self.generated += tokens
                if phase is Phase.ANSWER:
                    self.answers[sample] = self.answers.get(sample, 0) + tokens
                actions += chain.observe(Chunk(at=1.0, sample=sample, tokens=tokens, phase=phase))
        if opened.close_thought or opened.thinking_tokens is not None:
            left[sample][0] = 0
        self.returned += room
        thinking = left[sample][0] > 0
        ended = EndReason.STOP if left[sample] == [0, 0] else EndReason.LENGTH
        phase = Phase.THINKING if thinking else Phase.ANSWER
        actions += chain.observe(SegmentEnded(at=1.0, sample=sample, reason=ended, phase=phase))
        return actions


budgets = st.fixed_dictionaries(
    {
        "n": st.integers(1, 4),
        "total_tokens": st.integers(40, 400),
        "thinking_tokens": st.integers(0, 100),
        "thinks": st.booleans(),
        "engine": st.booleans(),
    }
)


@given(budget=budgets, thought=st.integers(0, 300), answer=st.integers(1, 300), step=st.integers(1, 7))
def test_upstream_is_never_allowed_more_than_the_limit_and_an_answer_always_comes(budget, thought, answer, step):
    chain = Chain(plan(**budget))
    upstream = Upstream(thought if budget["thinks"] else 0, answer, step)
    done = upstream.run(chain)
    assert chain.complete
    assert set(done) == set(range(budget["n"]))
    assert upstream.allowed - upstream.returned == upstream.generated == chain.meter.used
    assert upstream.generated <= chain.plan.total_tokens <= budget["total_tokens"]
    assert all(upstream.answers.get(sample, 0) >= 1 for sample in range(budget["n"]))
    if budget["thinks"]:
        cap = max(1, chain.plan.thinking_tokens)
        assert all(chain.thinking_tokens(sample) <= cap for sample in range(budget["n"]))


@given(budget=budgets, thought=st.integers(0, 300), answer=st.integers(1, 300))
def test_how_the_stream_is_cut_into_chunks_changes_nothing(budget, thought, answer):
    outcomes = []
    for step in (1, 3, 1000):
        chain = Chain(plan(**budget))
        done = Upstream(thought if budget["thinks"] else 0, answer, step).run(chain)
        outcomes.append((done, chain.stops, chain.meter.used))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_a_capped_thought_is_closed_and_resumed_by_the_gateway():
    chain = Chain(plan(thinks=True, total_tokens=100, thinking_tokens=10))
    assert chain.observe(Started(at=0)) == (Open(sample=0, segment=0, max_tokens=10),)
    chain.observe(PromptCounted(at=0, sample=0, prompt_tokens=7))
    chain.observe(Chunk(at=0, sample=0, tokens=10, phase=Phase.THINKING))
    ended = SegmentEnded(at=0, sample=0, reason=EndReason.LENGTH, phase=Phase.THINKING)
    assert chain.observe(ended) == (Open(sample=0, segment=1, max_tokens=90, close_thought=True),)
    assert [(s.rule, s.by, s.at_token) for s in chain.stops] == [("thinking_tokens", "gateway", 10)]
    assert chain.prompt_tokens == 7


def test_the_engine_is_given_the_cap_where_it_knows_one():
    chain = Chain(plan(thinks=True, engine=True, total_tokens=100, thinking_tokens=10))
    assert chain.observe(Started(at=0)) == (Open(sample=0, segment=0, max_tokens=100, thinking_tokens=10),)
    chain.observe(Chunk(at=0, sample=0, tokens=10, phase=Phase.THINKING))
    chain.observe(Chunk(at=0, sample=0, tokens=1, phase=Phase.ANSWER))
    assert [(s.rule, s.by) for s in chain.stops] == [("thinking_tokens", "engine")]


def test_a_deadline_aborts_what_runs_and_completes_once():
    chain = Chain(plan(n=2, total_tokens=100, deadline_ms=500))
    chain.observe(Started(at=0))
    assert chain.wakes_at() == 0.5
    assert chain.observe(Tick(at=0.4)) == ()
    assert chain.observe(Tick(at=0.5)) == (Abort(sample=0), Abort(sample=1))
    assert chain.observe(Tick(at=0.6)) == ()
    aborted = {"reason": EndReason.ABORTED, "phase": Phase.ANSWER}
    assert chain.observe(SegmentEnded(at=1, sample=0, **aborted)) == (SampleDone(sample=0, finish="length"),)
    last = chain.observe(SegmentEnded(at=1, sample=1, **aborted))
    assert last == (SampleDone(sample=1, finish="length"), Complete())
    assert chain.wakes_at() is None


def test_a_client_that_leaves_ends_everything():
    chain = Chain(plan(total_tokens=100))
    chain.observe(Started(at=0))
    assert chain.observe(ClientGone(at=1)) == (Abort(sample=0),)
    assert chain.observe(ClientGone(at=1)) == ()


def test_one_failed_sample_ends_the_others():
    chain = Chain(plan(n=2, total_tokens=100))
    chain.observe(Started(at=0))
    failed = SegmentEnded(at=1, sample=0, reason=EndReason.FAILED, phase=Phase.ANSWER)
    assert chain.observe(failed) == (SampleDone(sample=0, finish="error"), Abort(sample=1))
    assert chain.failed


def test_a_segment_cut_by_the_context_is_not_resumed():
    chain = Chain(plan(thinks=True, total_tokens=100, thinking_tokens=50))
    chain.observe(Started(at=0))
    chain.observe(Chunk(at=0, sample=0, tokens=5, phase=Phase.ANSWER))
    actions = chain.observe(SegmentEnded(at=0, sample=0, reason=EndReason.LENGTH, phase=Phase.ANSWER))
    assert actions == (SampleDone(sample=0, finish="length"), Complete())
    assert chain.stops[0].rule == "context"


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(Started(at=1), id="started-twice"),
        pytest.param(Chunk(at=1, sample=3, tokens=1, phase=Phase.ANSWER), id="chunk-of-no-sample"),
        pytest.param(Chunk(at=1, sample=0, tokens=101, phase=Phase.ANSWER), id="more-than-allowed"),
        pytest.param(SegmentEnded(at=1, sample=3, reason=EndReason.STOP, phase=Phase.ANSWER), id="end-of-no-sample"),
    ],
)
def test_illegal_events_raise_and_change_nothing(event):
    chain = Chain(plan(total_tokens=100))
    chain.observe(Started(at=0))
    before = (chain.meter.used, chain.meter.left, chain.complete, list(chain.stops))
    with pytest.raises(IllegalEvent):
        chain.observe(event)
    assert (chain.meter.used, chain.meter.left, chain.complete, list(chain.stops)) == before


class At:
    """A rule that asks for one decision at a given number of tokens, and keeps asking."""

    name = "at"
    listens = frozenset({Chunk})

    def __init__(self, tokens, decision):
        self.tokens, self.decision, self.seen = tokens, decision, 0

    def observe(self, event):
        self.seen += event.tokens
        return self.decision if self.seen >= self.tokens else Continue()


def test_a_rule_can_close_a_thought_and_the_sample_answers_from_it():
    rule = At(3, CloseThought(sample=0, rule="at"))
    chain = Chain(plan(thinks=True, engine=True, total_tokens=100), [rule])
    chain.observe(Started(at=0))
    assert chain.observe(Chunk(at=0, sample=0, tokens=3, phase=Phase.THINKING)) == (Abort(sample=0),)
    assert chain.observe(Chunk(at=0, sample=0, tokens=1, phase=Phase.THINKING)) == ()
    ended = SegmentEnded(at=0, sample=0, reason=EndReason.ABORTED, phase=Phase.THINKING)
    assert chain.observe(ended) == (Open(sample=0, segment=1, max_tokens=96 - ABORT_LAG_TOKENS, close_thought=True),)


def test_the_stronger_decision_wins():
    close, stop = CloseThought(sample=0, rule="a"), StopSample(sample=0, rule="b")
    chain = Chain(plan(thinks=True, engine=True, total_tokens=100), [At(1, close), At(1, stop)])
    chain.observe(Started(at=0))
    assert chain.observe(Chunk(at=0, sample=0, tokens=1, phase=Phase.THINKING)) == (Abort(sample=0),)
    ended = SegmentEnded(at=0, sample=0, reason=EndReason.ABORTED, phase=Phase.THINKING)
    assert chain.observe(ended) == (SampleDone(sample=0, finish="length"), Complete())
    assert [s.rule for s in chain.stops] == ["b"]
    assert chain.cancelled_tokens == 1


@pytest.mark.parametrize(
    ("before", "thought", "cap", "noted"),
    [
        pytest.param(1, 4, 5, True, id="the-template-starts-a-line"),
        pytest.param(8, 0, 5, True, id="the-prompt-holds-more-than-the-cap"),
        pytest.param(0, 0, 0, True, id="no-thought-allowed"),
        pytest.param(1, 3, 5, False, id="it-ended-by-itself"),
        pytest.param(None, 0, 0, False, id="it-never-thought"),
        pytest.param(None, 5, 5, True, id="it-opened-its-own-thought"),
    ],
)
def test_the_engine_s_cap_counts_what_the_prompt_holds_of_a_thought(before, thought, cap, noted):
    chain = Chain(plan(thinks=True, engine=True, total_tokens=100, thinking_tokens=cap))
    chain.observe(Started(at=0))
    chain.observe(PromptCounted(at=0, sample=0, prompt_tokens=20, thinking=before))
    chain.observe(Chunk(at=0, sample=0, tokens=thought, phase=Phase.THINKING))
    chain.observe(Chunk(at=0, sample=0, tokens=3, phase=Phase.ANSWER))
    assert [(stop.rule, stop.by) for stop in chain.stops] == ([("thinking_tokens", "engine")] if noted else [])
