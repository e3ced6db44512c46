"""A recording played to a rule ends where a live request ends, and costs what it costs."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.policies.budget import Bound
from suffice.policies.chain import Chain
from suffice.policies.decisions import Abort, Complete, Open, Probe, SampleDone
from suffice.policies.events import Chunk, EndReason, Phase, Probed, SegmentEnded, Started
from suffice.policies.plan import Plan, ThinkingCap
from suffice.policies.replay_traces import PROBE_TOKENS, RecordedProbe, Trace, replay, unmet
from suffice.policies.stopping import GUARDS, RULES, Need, Setting
from suffice.policies.stopping.lengths import RouteLengths

EAGER = {
    "convergence": {"probe_first": 4, "probe_growth": 1.3},
    "confidence": {"probe_first": 4, "probe_growth": 1.3, "threshold": 0.7},
    "combined": {"probe_first": 4, "probe_growth": 1.3, "threshold": 0.7, "variance": 0.1},
    "entropy": {"probe_first": 4, "probe_growth": 1.3, "variance": 0.1},
    "hopeless": {"probe_first": 4, "probe_growth": 1.3, "hopeless": 0.9, "hopeless_middle": 0.2},
    "fixed_interval": {"interval": 6},
    "static_cap": {"cap": 30},
    "engine_entropy": {"least_steps": 2, "least_tokens": 4, "step_tokens": 4, "threshold": 0.6, "variance": 0.2},
    "willing": {"probability": 0.3, "occasions": 2},
    "repetition": {"max_pattern": 3, "min_count": 2, "least": 4},
    "length": {"alpha": 0.3},
    "boundary": {"soft": 0.4},
    "deadline": {"switch_s": 0.0},
}


def setting():
    lengths = RouteLengths()
    for tokens in range(1, 61):
        lengths.thoughts.add(tokens)
        lengths.answers.add(tokens // 4 + 1)
    return Setting(thinking_tokens=80, answer_reserve=5, deadline_s=1.2, lengths=lengths, step_ids=frozenset({0}))


def make(name):
    return (GUARDS if name in GUARDS.kinds else RULES).make(name, EAGER[name], setting=setting())


class Live:
    """A driver whose upstream is the recording; probes and aborts take effect at once, as in a replay."""

    def __init__(self, trace, rule):
        self.trace = trace
        self.chain = Chain(
            Plan(
                samples=1,
                most_samples=1,
                total_tokens=100_000,
                sample_tokens=50_000,
                thinking_tokens=None,
                thinking_cap=ThinkingCap.NONE,
                deadline_s=None,
                prompts=1,
                prompt_tokens=1,
                limits={"answer_reserve": Bound(value=1, source="default")},
                probe_tokens=50_000,
                close_by=ThinkingCap.GATEWAY,
            ),
            [rule],
        )
        # A plan without a cap starts in the answer; the first chunk says otherwise.
        self.position = 0
        self.probes = 0
        self.cut_at = None

    def run(self):
        self.perform(self.chain.observe(Started(at=0.0)))
        trace = self.trace
        while self.cut_at is None and self.position < len(trace.pieces):
            index = self.position
            self.position += 1
            phase = Phase.THINKING if index < trace.thought else Phase.ANSWER
            chunk = Chunk(
                at=self.position * 0.02,
                sample=0,
                tokens=1,
                phase=phase,
                text=trace.pieces[index],
                token_ids=trace.token_ids[index : index + 1],
                close_logprobs=trace.close_logprobs[index : index + 1],
                entropies=trace.entropies[index : index + 1],
            )
            self.perform(self.chain.observe(chunk))
        return next((stop.rule for stop in self.chain.stops), None), self.position, self.probes

    def perform(self, actions):
        for action in actions:
            match action:
                case Probe():
                    self.probes += 1
                    self.perform(self.chain.observe(self.probed(action)))
                case Abort():
                    self.cut_at = self.position
                    phase = Phase.THINKING if self.position <= self.trace.thought else Phase.ANSWER
                    self.chain.observe(SegmentEnded(at=1.0, sample=0, reason=EndReason.ABORTED, phase=phase))
                case Open() | SampleDone() | Complete():
                    pass

    def probed(self, action):
        recorded = self.trace.probes[action.at_token - 1]
        return Probed(
            at=self.position * 0.02,
            sample=0,
            at_token=action.at_token,
            tokens=recorded.tokens,
            answer=None if recorded.answer is None else ord(recorded.answer),
            confidence=recorded.confidence,
            entropy=recorded.entropy,
        )


def recording(seed, thought, answer, doubt):
    """A recording with a probe at every place. Numbers come from a seed: hundreds of single draws take too long."""
    chance = random.Random(seed)
    length = thought + answer
    pieces = chance.choices(["a", " b", ".", "\n"], k=length)
    probes = [
        RecordedProbe(
            at=at,
            answer=chance.choice(["x", "x", "y", None]),
            confidence=1 - doubt * chance.random(),
            entropy=doubt * chance.random(),
            tokens=chance.randint(1, 3),
        )
        for at in range(1, thought + 1)
    ]
    return Trace(
        pieces=tuple(pieces),
        thought=thought,
        answer="x",
        probes=tuple(probes),
        token_ids=tuple(map(ord, (piece.strip() or "n" for piece in pieces))),
        close_logprobs=tuple(-5 * chance.random() for _ in pieces),
        entropies=tuple(doubt * chance.random() for _ in pieces),
    )


traces = st.builds(
    recording, st.integers(0, 2**32), st.integers(1, 80), st.integers(0, 30), st.sampled_from([0.1, 0.5, 1.0])
)


@pytest.mark.parametrize("name", sorted(EAGER))
@given(trace=traces)
def test_replay_equals_live(name, trace):
    live = Live(trace, make(name)).run()
    outcome = replay(trace, make(name))
    assert (outcome.rule, outcome.position, outcome.probes) == live
    assert outcome.probes_later == 0


def test_every_rule_that_can_be_replayed_is():
    assert set(EAGER) == (set(RULES.kinds) | set(GUARDS.kinds)) - {"extend"}


def trace(length, probes=(), *, thought=None, answer="right", **known):
    pieces = tuple(f"t{n}" for n in range(length))
    return Trace(pieces=pieces, thought=length if thought is None else thought, answer=answer, probes=probes, **known)


def probe(at, answer="right", **known):
    return RecordedProbe(at=at, answer=answer, **known)


def convergence(first=10, growth=2.0):
    given = {"probe_first": first, "probe_growth": growth, "probe_tokens": 8}
    return RULES.make("convergence", given, setting=Setting())


def test_a_probe_is_taken_where_one_was_recorded_at_or_after_the_place_that_was_asked_for():
    outcome = replay(trace(100, (probe(5), probe(10, tokens=3), probe(33, tokens=4), probe(34))), convergence())
    assert (outcome.position, outcome.rule, outcome.answer) == (33, "convergence", "right")
    assert (outcome.probes, outcome.probes_later, outcome.probe_tokens) == (2, 1, 7)
    assert (outcome.tokens, outcome.full_tokens) == (33 + 7, 100)


def test_a_probe_of_unknown_length_costs_all_it_was_allowed():
    outcome = replay(trace(100, (probe(10), probe(20))), convergence())
    assert (outcome.position, outcome.probe_tokens) == (20, 16)


def test_a_marked_thought_pays_for_its_answer_again():
    outcome = replay(trace(100, (probe(10), probe(20)), thought=70), convergence())
    assert outcome.tokens == 20 + 16 + 30


def test_a_rule_that_lets_be_costs_its_probes_and_keeps_the_answer():
    outcome = replay(trace(100, (probe(10, "one"), probe(20, "two"), probe(40, None))), convergence())
    assert (outcome.rule, outcome.position, outcome.answer) == (None, 100, "right")
    assert outcome.tokens == 100 + 3 * 8


def cap(tokens):
    return RULES.make("static_cap", {"cap": tokens}, setting=Setting())


@pytest.mark.parametrize(
    ("probes", "position", "answer", "paid"),
    [
        pytest.param((probe(20, "early"), probe(60, "late")), 40, "early", PROBE_TOKENS, id="the-last-one-before"),
        pytest.param((probe(40, "here", tokens=5),), 40, "here", 5, id="the-one-there"),
        pytest.param((probe(60, "late"),), 40, None, PROBE_TOKENS, id="none-before"),
        pytest.param((probe(20, "early"),), 100, "right", 0, id="at-the-end"),
    ],
)
def test_a_thought_closed_without_a_probe_answers_by_what_was_thought_before(probes, position, answer, paid):
    outcome = replay(trace(100, probes), cap(position))
    assert (outcome.position, outcome.answer, outcome.tokens) == (position, answer, position + paid)


@pytest.mark.parametrize(("at", "answer"), [(60, None), (100, "right")], ids=["cut", "at-its-end"])
def test_a_sample_that_is_ended_has_its_answer_only_if_it_was_over(at, answer):
    looping = trace(100, thought=10, token_ids=tuple(range(at - 8)) + (1, 2) * 4 + tuple(range(200, 300 - at)))
    rule = GUARDS.make("repetition", {"max_pattern": 2, "min_count": 4, "least": 8}, setting=Setting())
    outcome = replay(looping, rule)
    assert (outcome.rule, outcome.position, outcome.answer) == ("repetition", at, answer)


def test_what_was_not_recorded_is_named():
    bare = [trace(10)]
    for name, missing in [
        ("convergence", {Need.PROBES}),
        ("engine_entropy", {Need.ENTROPIES, Need.TOKEN_IDS}),
        ("extend", {Need.PAUSE_AT_CLOSE}),
        ("static_cap", set()),
    ]:
        rule = (GUARDS if name in GUARDS.kinds else RULES).make(name, {}, setting=Setting())
        assert unmet(rule, bare) == missing
    assert unmet(convergence(), [trace(10), trace(10, (probe(3),))]) == set()
