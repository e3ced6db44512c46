"""Loops are found exactly, by the gateway's rule and by the engine's with the field it is given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.policies.decisions import CONTINUE, CloseThought, Finish, StopSample
from suffice.policies.events import Chunk, Phase
from suffice.policies.stopping import GUARDS, Setting
from suffice.policies.stopping.repetition import LoopDetector


def loops(tokens, max_pattern, min_count, least):
    """The definition, word by word."""
    for period in range(1, max_pattern + 1):
        length = max(min_count * period, least)
        tail = tokens[-length:]
        if len(tail) == length and all(tail[i] == tail[i - period] for i in range(period, length)):
            return True
    return False


def engine_finds(tokens, field):
    """What vLLM's ``repetition_detection`` is documented to find."""
    for size in range(field["min_pattern_size"], field["max_pattern_size"] + 1):
        tail = tokens[-size * field["min_count"] :]
        if len(tail) == size * field["min_count"] and tail == tail[-size:] * field["min_count"]:
            return True
    return False


@given(
    tokens=st.lists(st.integers(0, 2), max_size=80) | st.lists(st.integers(0, 9), max_size=80),
    pattern=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    times=st.integers(0, 5),
    max_pattern=st.integers(1, 9),
    min_count=st.integers(2, 5),
    least=st.integers(1, 30),
)
def test_it_fires_at_the_very_token_that_completes_a_loop(tokens, pattern, times, max_pattern, min_count, least):
    stream = tokens + pattern * times
    detector = LoopDetector(max_pattern, min_count, least)
    found = False
    for position, token in enumerate(stream, 1):
        found = found or loops(stream[:position], max_pattern, min_count, least)
        assert detector.read(token) is found


@given(
    pattern=st.lists(st.integers(0, 5), min_size=1, max_size=8), min_count=st.integers(2, 5), least=st.integers(1, 40)
)
def test_the_engine_finds_the_same_loops_a_little_later(pattern, min_count, least):
    rule = GUARDS.make("repetition", {"max_pattern": 8, "min_count": min_count, "least": least}, setting=Setting())
    field = rule.engine_field()
    stream = pattern * 60
    here = next(n for n in range(1, len(stream)) if loops(stream[:n], 8, min_count, least))
    there = next(n for n in range(1, len(stream)) if engine_finds(stream[:n], field))
    assert there <= here + min_count * len(pattern)


def chunk(ids, phase):
    return Chunk(at=0.0, sample=0, tokens=len(ids), phase=phase, token_ids=tuple(ids))


def test_a_looping_thought_is_closed_and_a_looping_answer_ended():
    rule = GUARDS.make("repetition", {}, setting=Setting())
    close = CloseThought(sample=0, rule="repetition")
    assert rule.observe(chunk([1, 2] * 31, Phase.THINKING)) is CONTINUE
    assert rule.observe(chunk([1, 2], Phase.THINKING)) == close
    assert rule.observe(chunk([9], Phase.THINKING)) == close
    # The answer repeats the end of the thought; that alone is no loop.
    assert rule.observe(chunk([1, 2] * 31, Phase.ANSWER)) is CONTINUE
    assert rule.observe(chunk([1, 2], Phase.ANSWER)) == StopSample(sample=0, rule="repetition", finish=Finish.STOP)


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param(list(range(500)), id="all-different"),
        pytest.param([7] * 63, id="shorter-than-the-shortest-loop"),
        pytest.param((list(range(40)) * 3 + [99]) * 4, id="three-times-is-not-four"),
    ],
)
def test_what_is_no_loop_is_let_be(tokens):
    rule = GUARDS.make("repetition", {}, setting=Setting())
    assert rule.observe(chunk(tokens, Phase.THINKING)) is CONTINUE
