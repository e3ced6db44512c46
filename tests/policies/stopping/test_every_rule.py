"""What every stopping rule promises, whatever it looks at."""

import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.policies.decisions import CloseThought, Continue, DrawSamples, EndRequest, StopSample, TakeProbe, ThinkOn
from suffice.policies.events import Chunk, ClientGone, EndReason, Phase, Probed, SegmentEnded, Tick, Voted
from suffice.policies.stopping import GUARDS, RULES, Need, Setting, needs_of
from suffice.policies.stopping.lengths import RouteLengths
from suffice.policies.stopping.thresholds import AXES, HOPELESS_AXIS

PACE = 1 / 64


def lengths():
    route = RouteLengths()
    for tokens in range(1, 81):
        route.thoughts.add(tokens)
        route.answers.add(tokens // 4 + 1)
    return route


SETTING = Setting(
    thinking_tokens=100,
    sample_tokens=160,
    answer_reserve=20,
    deadline_s=1.803,
    lengths=lengths(),
    step_ids=frozenset({0}),
)

SCHEDULE = {"probe_first": 4, "probe_growth": 1.3, "probe_tokens": 3}
EAGER = {
    "convergence": SCHEDULE,
    "confidence": SCHEDULE | {"threshold": 0.8},
    "entropy": SCHEDULE | {"variance": 0.05, "least_probes": 2},
    "combined": SCHEDULE | {"threshold": 0.8, "variance": 0.05},
    "hopeless": SCHEDULE | {"hopeless": 0.9, "hopeless_middle": 0.2},
    "fixed_interval": {"interval": 7, "probe_tokens": 3},
    "static_cap": {"cap": 40},
    "engine_entropy": {"threshold": 0.5, "variance": 0.1, "least_steps": 2, "least_tokens": 5, "step_tokens": 6},
    "willing": {"probability": 0.3, "occasions": 2, "least_tokens": 3},
    "repetition": {"max_pattern": 4, "min_count": 2, "least": 5},
    "length": {"alpha": 0.2},
    "boundary": {"soft": 0.5},
    "deadline": {},
    "extend": {"least": 30, "doubt": 0.5, "most": 2},
}
"""Parameters with which each rule has something to do within a hundred tokens."""

KINDS = {**RULES.kinds, **GUARDS.kinds}
TOKENWISE = ("repetition", "length", "static_cap", "engine_entropy", "boundary", "willing")
PROBING = ("convergence", "confidence", "entropy", "combined", "hopeless", "fixed_interval")


def make(name, setting=SETTING, **given):
    registry = RULES if name in RULES.kinds else GUARDS
    return registry.make(name, EAGER[name] | given, setting=setting)


def every_rule(function):
    return pytest.mark.parametrize("name", sorted(KINDS))(function)


@dataclass
class Token:
    token_id: int = 1
    entropy: float = 0.9
    close_logprob: float = -9.0
    phase: Phase = Phase.THINKING
    text: str = ""


@dataclass
class Probes:
    """What a sample answers when probed, by position; all draws are fixed beforehand."""

    answers: list = field(default_factory=lambda: [0])
    confidences: list = field(default_factory=lambda: [0.5])
    entropies: list = field(default_factory=lambda: [0.5])

    def at(self, position):
        return Probed(
            at=position * PACE,
            sample=0,
            at_token=position,
            tokens=2,
            answer=self.answers[position % len(self.answers)],
            confidence=self.confidences[position % len(self.confidences)],
            entropy=self.entropies[position % len(self.entropies)],
        )


@dataclass
class Seen:
    """What a rule did with a stream: each probe's place, and every decision that ends something with its place."""

    probes: list = field(default_factory=list)
    endings: list = field(default_factory=list)

    @property
    def first(self):
        return self.endings[0][0] if self.endings else None


def cut(tokens, ends):
    """The stream as chunks that end at these positions and wherever the phase changes."""
    inner = {index for index in range(1, len(tokens)) if tokens[index].phase is not tokens[index - 1].phase}
    begin = 0
    for end in sorted({end for end in ends if 0 < end < len(tokens)} | inner | {len(tokens)}):
        part = tokens[begin:end]
        yield (
            end,
            Chunk(
                at=end * PACE,
                sample=0,
                tokens=len(part),
                phase=part[-1].phase,
                text="".join(token.text for token in part),
                token_ids=tuple(token.token_id for token in part),
                close_logprobs=tuple(token.close_logprob for token in part),
                entropies=tuple(token.entropy for token in part),
            ),
        )
        begin = end


def play(rule, tokens, ends, probes=None):
    seen = Seen()
    for end, chunk in cut(tokens, ends):
        decision = rule.observe(chunk)
        if isinstance(decision, TakeProbe):
            seen.probes.append(end)
            decision = rule.observe((probes or Probes()).at(end))
        if not isinstance(decision, Continue | TakeProbe):
            seen.endings.append((end, decision))
    return seen


def stream(seed, thought, answer, ids, calm):
    """A thought and its answer. Numbers come from a seed: hundreds of single draws take too long."""
    chance = random.Random(seed)
    return [
        Token(
            token_id=chance.randrange(ids),
            entropy=calm * chance.random(),
            close_logprob=-9 * chance.random(),
            phase=Phase.THINKING if position < thought else Phase.ANSWER,
        )
        for position in range(thought + answer)
    ]


streams = st.builds(
    stream,
    st.integers(0, 2**32),
    st.integers(1, 110),
    st.integers(0, 40),
    st.integers(1, 4),
    st.sampled_from([0.2, 1.0]),
)
cuts = st.sets(st.integers(1, 150))
probe_tables = st.builds(
    Probes,
    answers=st.lists(st.none() | st.integers(0, 2), min_size=1, max_size=9),
    confidences=st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=9),
    entropies=st.lists(st.none() | st.floats(0, 2), min_size=1, max_size=9),
)


def every(tokens):
    return range(1, len(tokens))


@pytest.mark.parametrize("name", TOKENWISE)
@given(tokens=streams, ends=cuts)
def test_how_the_stream_is_cut_moves_a_stop_to_the_end_of_its_chunk_and_no_further(name, tokens, ends):
    exact = play(make(name), tokens, every(tokens)).first
    for way in (ends, ()):
        chunk_ends = [end for end, _ in cut(tokens, way)]
        expected = None if exact is None else next(end for end in chunk_ends if end >= exact)
        assert play(make(name), tokens, way).first == expected


@given(
    arrivals=st.lists(st.tuples(st.floats(0.001, 0.2), st.integers(1, 9), st.integers(0, 9)), max_size=60),
)
def test_how_tokens_of_one_moment_are_cut_is_nothing_to_the_clock(arrivals):
    whole, parted = make("deadline"), make("deadline")
    at = 0.0
    for gap, tokens, split in arrivals:
        at += gap
        first = min(split, tokens)
        decision = whole.observe(Chunk(at=at, sample=0, tokens=tokens, phase=Phase.THINKING))
        parted.observe(Chunk(at=at, sample=0, tokens=first, phase=Phase.THINKING))
        assert parted.observe(Chunk(at=at, sample=0, tokens=tokens - first, phase=Phase.THINKING)) == decision


@pytest.mark.parametrize("name", PROBING)
@given(tokens=streams, ends=cuts)
def test_a_probe_is_taken_at_the_first_chunk_end_after_each_place_of_the_schedule(name, tokens, ends):
    never = Probes(answers=[None], confidences=[None], entropies=[None])
    exact = play(make(name), tokens, every(tokens), never).probes
    chunk_ends = [end for end, chunk in cut(tokens, ends) if chunk.phase is Phase.THINKING]
    moved = {next((end for end in chunk_ends if end >= place), None) for place in exact}
    assert play(make(name), tokens, ends, never).probes == sorted(
        end for end in moved - {None} if SETTING.longest_thought - end > 3
    )


@pytest.mark.parametrize("name", PROBING)
@given(tokens=streams, ends=cuts, probes=probe_tables)
def test_chunks_that_end_at_the_places_of_the_schedule_change_nothing(name, tokens, ends, probes):
    exact = play(make(name), tokens, every(tokens), probes)
    seen = play(make(name), tokens, ends | set(exact.probes), probes)
    assert (seen.probes, seen.first) == (exact.probes, exact.first)


@every_rule
@given(tokens=streams, ends=cuts, probes=probe_tables)
def test_after_a_stop_it_keeps_saying_so(name, tokens, ends, probes):
    rule = make(name)
    stopped = {}
    for _, chunk in cut(tokens, ends):
        decision = rule.observe(chunk)
        if isinstance(decision, TakeProbe):
            decision = rule.observe(probes.at(1))
        if chunk.phase in stopped:
            assert decision == stopped[chunk.phase]
        if isinstance(decision, CloseThought | StopSample):
            stopped[chunk.phase] = decision
            assert isinstance(decision, CloseThought) == (chunk.phase is Phase.THINKING)


any_float = st.floats(allow_nan=True, allow_infinity=True)
per_token = st.lists(any_float, max_size=4).map(tuple)
samples = st.integers(0, 3)
any_event = st.one_of(
    st.builds(
        Chunk,
        at=any_float,
        sample=samples,
        tokens=st.integers(0, 10**7),
        phase=st.sampled_from(Phase),
        text=st.text(max_size=5),
        token_ids=st.lists(st.integers(-(2**40), 2**40), max_size=4).map(tuple),
        logprobs=per_token,
        confidences=per_token,
        close_logprobs=per_token,
        entropies=per_token,
    ),
    st.builds(
        SegmentEnded, at=any_float, sample=samples, reason=st.sampled_from(EndReason), phase=st.sampled_from(Phase)
    ),
    st.builds(
        Probed,
        at=any_float,
        sample=samples,
        at_token=st.integers(-5, 10**7),
        tokens=st.integers(0, 99),
        answer=st.none() | st.integers(0, 3),
        confidence=st.none() | any_float,
        entropy=st.none() | any_float,
    ),
    st.builds(Voted, at=any_float, sample=samples, answer=st.none() | st.integers(0, 3), tokens=st.integers(0, 99)),
    st.builds(Tick, at=any_float),
    st.builds(ClientGone, at=any_float),
)


@every_rule
@given(events=st.lists(any_event, max_size=60), bare=st.booleans())
def test_whatever_is_reported_it_answers_with_a_decision_about_that_sample(name, events, bare):
    rule = make(name, Setting() if bare else SETTING)
    for event in events:
        decision = rule.observe(event)
        assert isinstance(decision, Continue | TakeProbe | CloseThought | ThinkOn | StopSample)
        assert not isinstance(decision, DrawSamples | EndRequest)
        if not isinstance(decision, Continue):
            assert decision.sample == event.sample
            assert type(event) in rule.listens


AGGRESSIVE = {
    **{name: (axis.parameter, axis.values) for name, axis in AXES.items()},
    "static_cap": ("cap", (90, 60, 30, 3)),
    "hopeless": ("hopeless", HOPELESS_AXIS.values),
    "repetition": ("min_count", (6, 4, 3, 2)),
    "length": ("alpha", (0.02, 0.1, 0.2, 0.5)),
    "boundary": ("soft", (1.0, 0.8, 0.5, 0.0)),
    "deadline": ("switch_s", (0.0, 0.2, 0.9, 1.5)),
}


@pytest.mark.parametrize("name", sorted(AGGRESSIVE))
@given(tokens=streams, probes=probe_tables)
def test_a_more_aggressive_threshold_never_stops_later(name, tokens, probes):
    parameter, values = AGGRESSIVE[name]
    stops = [play(make(name, **{parameter: value}), tokens, every(tokens), probes).first for value in values]
    positions = [math.inf if stop is None else stop for stop in stops]
    assert positions == sorted(positions, reverse=True)


@pytest.mark.parametrize(
    ("name", "larger", "smaller"),
    [
        pytest.param("boundary", {"thinking_tokens": 100}, {"thinking_tokens": 60}, id="boundary-cap"),
        pytest.param("deadline", {"deadline_s": 1.8}, {"deadline_s": 1.2}, id="deadline"),
        pytest.param("deadline", {"answer_reserve": 10}, {"answer_reserve": 40}, id="deadline-reserve"),
    ],
)
@given(tokens=streams)
def test_a_smaller_budget_never_stops_later(name, larger, smaller, tokens):
    settings = {"answer_reserve": 20, "deadline_s": 1.5}
    late, early = (
        play(make(name, Setting(**settings | limits)), tokens, every(tokens)).first for limits in (larger, smaller)
    )
    assert (math.inf if early is None else early) <= (math.inf if late is None else late)


def weight(thing):
    """Objects reachable from a rule's state, roughly: entries of containers and fields."""
    if isinstance(thing, dict):
        return 1 + sum(weight(key) + weight(value) for key, value in thing.items())
    if isinstance(thing, str | int | float | bool | None) or callable(thing):
        return 1
    if hasattr(thing, "__iter__"):
        return 1 + sum(map(weight, thing))
    fields = getattr(thing, "__dict__", None) or {
        name: getattr(thing, name) for name in getattr(type(thing), "__slots__", ()) if hasattr(thing, name)
    }
    return 1 + sum(map(weight, fields.values()))


@every_rule
def test_state_does_not_grow_with_the_stream(name):
    rule = make(name)
    weights = []
    for length in (500, 5000):
        tokens = [Token(token_id=(n * n * 7 + n // 3) % 5, entropy=(n % 7) / 7) for n in range(length)]
        play(rule, tokens, every(tokens), Probes(answers=[None, 0]))
        weights.append(weight(vars(rule)))
    assert weights[1] <= weights[0] + 20


@every_rule
def test_defaults_lie_within_their_ranges_and_the_rule_says_what_it_needs(name):
    registry = RULES if name in RULES.kinds else GUARDS
    kind = registry.kinds[name]
    defaults = {key: parameter.default for key, parameter in kind.parameters.items()}
    rule = registry.make(name, defaults, setting=Setting())
    assert rule.name == name == kind.name
    assert needs_of([rule]) == rule.needs <= frozenset(Need)
    assert (Need.PROBES in rule.needs) == (name in PROBING)
    assert kind.what
    assert kind.guarantee
    assert all(parameter.what for parameter in kind.parameters.values())


@pytest.mark.parametrize("name", sorted(AXES))
def test_every_value_of_a_calibration_axis_is_allowed(name):
    axis = AXES[name]
    assert len(set(axis.values)) == len(axis.values)
    for value in axis.values:
        RULES.make(name, {axis.parameter: value}, setting=SETTING)


@every_rule
def test_without_what_it_lives_on_it_stays_silent(name):
    rule = make(name, Setting())
    silent = Chunk(at=1.0, sample=0, tokens=3, phase=Phase.THINKING)
    assert isinstance(rule.observe(silent), Continue)
    assert isinstance(rule.observe(Tick(at=2.0)), Continue)
