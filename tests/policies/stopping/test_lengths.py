"""Length quantiles cover what they promise, exactly, for any numbers."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.policies.decisions import CONTINUE, CloseThought, Finish, StopSample
from suffice.policies.events import Chunk, Phase
from suffice.policies.stopping import GUARDS, Setting
from suffice.policies.stopping.length import Length
from suffice.policies.stopping.lengths import LengthQuantiles, RouteLengths


def quantiles(lengths, window=1024):
    made = LengthQuantiles(window)
    for length in lengths:
        made.add(length)
    return made


@given(lengths=st.lists(st.integers(1, 30), min_size=2, max_size=40), alpha=st.floats(0.01, 0.9))
def test_of_exchangeable_lengths_the_promised_share_is_covered(lengths, alpha):
    covered = 0
    for index, length in enumerate(lengths):
        upper = quantiles(lengths[:index] + lengths[index + 1 :]).upper(alpha)
        covered += upper is None or length <= upper
    assert covered >= (1 - alpha) * len(lengths) - 1e-6


@given(
    lengths=st.lists(st.integers(1, 30), min_size=2, max_size=40),
    alpha=st.floats(0.01, 0.9),
    already=st.integers(0, 20),
)
def test_among_those_already_so_long_the_promise_holds_too(lengths, alpha, already):
    survivors = [index for index, length in enumerate(lengths) if length > already]
    covered = 0
    for index in survivors:
        upper = quantiles(lengths[:index] + lengths[index + 1 :]).upper(alpha, already=already)
        covered += upper is None or already < lengths[index] <= upper
    assert covered >= (1 - alpha) * len(survivors) - 1e-6


@pytest.mark.parametrize(
    ("count", "alpha", "expected"),
    [(19, 0.05, 19), (18, 0.05, None), (99, 0.01, 99), (100, 0.05, 96), (0, 0.5, None), (5, 0.0, None), (5, 1.0, None)],
    ids=["just-enough", "one-too-few", "whole-rank", "in-the-middle", "nothing-known", "no-alpha", "all-alpha"],
)
def test_the_rank_is_that_of_split_conformal(count, alpha, expected):
    assert quantiles(range(1, count + 1)).upper(alpha) == expected


def test_cut_generations_count_as_longer_than_any():
    cut = quantiles(range(1, 21))
    for _ in range(3):
        cut.add(5, ended=False)
    assert cut.upper(0.2) == 20
    assert cut.upper(0.1) is None


def test_old_lengths_are_forgotten_and_nothing_else():
    made = quantiles(range(1, 101), window=40)
    assert len(made) == 40
    assert made.upper(0.5) == 81
    assert made.upper(0.5, already=90) == 96


@given(lengths=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=30), window=st.integers(1, 20))
def test_the_state_survives_json(lengths, window):
    made = LengthQuantiles(window)
    for tokens, ended in lengths:
        made.add(tokens, ended=ended)
    route = RouteLengths(made, quantiles([3, 4]))
    back = RouteLengths.from_json(json.loads(json.dumps(route.to_json())))
    assert back == route


def chunk(tokens, phase=Phase.THINKING):
    return Chunk(at=0.0, sample=0, tokens=tokens, phase=phase)


def test_a_runaway_is_ended_past_the_quantile_and_not_at_it():
    route = RouteLengths(quantiles(range(1, 100)), quantiles(range(1, 50)))
    rule = GUARDS.make("length", {"alpha": 0.05}, setting=Setting(lengths=route))
    assert (rule.thought_tokens, rule.answer_tokens) == (95, 48)
    assert rule.observe(chunk(95)) is CONTINUE
    assert rule.observe(chunk(1)) == CloseThought(sample=0, rule="length")
    assert rule.observe(chunk(48, Phase.ANSWER)) is CONTINUE
    assert rule.observe(chunk(1, Phase.ANSWER)) == StopSample(sample=0, rule="length", finish=Finish.LENGTH)


def test_a_short_past_promises_nothing():
    rule = GUARDS.make("length", {}, setting=Setting(lengths=RouteLengths(quantiles(range(98)), quantiles([]))))
    assert rule.observe(chunk(10**6)) is CONTINUE
    assert math.isfinite(GUARDS.kinds["length"].parameters["alpha"].default)


def test_the_lengths_can_be_given():
    rule = Length.at(3, None)
    assert rule.observe(chunk(4)) == CloseThought(sample=0, rule="length")
    assert rule.observe(chunk(999, Phase.ANSWER)) is CONTINUE
