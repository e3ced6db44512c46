"""Boundary, deadline, thinking on, entropy in the engine: each where its verdict is plain."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.policies.decisions import CONTINUE, CloseThought, ThinkOn
from suffice.policies.events import Chunk, EndReason, Phase, Probed, SegmentEnded
from suffice.policies.stopping import GUARDS, RULES, Setting
from suffice.policies.stopping.boundary import ends_sentence


def chunk(tokens=1, *, at=0.0, sample=0, phase=Phase.THINKING, **known):
    return Chunk(at=at, sample=sample, tokens=tokens, phase=phase, **known)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so it is done.", True),
        ('he said "no!"', True),
        ("(is it?) ", True),
        ("a list:\n", True),
        ("\n\n", True),
        ("**Done.**", True),
        ("it is 4.", False),
        ("and then", False),
        ("", False),
        ("   ", False),
        ("\u3053\u308c\u3067\u3044\u3044\u3002", True),
    ],
)
def test_where_a_sentence_ends(text, expected):
    assert ends_sentence(text) is expected


def boundary(**given):
    return GUARDS.make("boundary", given, setting=Setting(thinking_tokens=100))


CLOSE = CloseThought(sample=0, rule="boundary")


def test_a_sentence_ends_the_thought_only_near_the_cap():
    rule = boundary()
    assert rule.observe(chunk(79, text="All of it.")) is CONTINUE
    assert rule.observe(chunk(1, text=" But")) is CONTINUE
    assert rule.observe(chunk(1, text=" wait.")) == CLOSE


def test_a_token_without_text_is_no_sentence_end():
    rule = boundary()
    assert rule.observe(chunk(79, text="All of it.")) is CONTINUE
    assert rule.observe(chunk(5)) is CONTINUE


@pytest.mark.parametrize(("rank", "enough"), [(1, 0.5), (3, 0.25)], ids=["first", "third"])
def test_a_likely_close_is_taken_token_by_token(rank, enough):
    just, below = math.log(enough + 1e-9), math.log(enough - 1e-9)
    assert boundary(close_rank=rank).observe(chunk(82, close_logprobs=(just,) * 80 + (below,) * 2)) is CONTINUE
    assert boundary(close_rank=rank).observe(chunk(82, close_logprobs=(below,) * 80 + (just, below))) == CLOSE


@given(weights=st.lists(st.floats(0.001, 1), min_size=1, max_size=30), rank=st.integers(1, 10))
def test_the_bound_on_the_rank_is_sufficient(weights, rank):
    total = sum(weights)
    for weight in weights:
        if weight / total >= 1 / (rank + 1) + 1e-12:
            assert 1 + sum(other > weight for other in weights) <= rank


def deadline(**setting):
    limits = {"deadline_s": 10.0, "answer_reserve": 20} | setting
    return GUARDS.make("deadline", {"safety": 1.5, "switch_s": 0.5}, setting=Setting(**limits))


def closing_time(rule, pace, start=1.0):
    times = (start + n * pace for n in range(10_000))
    return next(at for at in times if rule.observe(chunk(at=at)) is not CONTINUE)


@pytest.mark.parametrize("pace", [0.01, 0.05, 0.2], ids=["fast", "slow", "crawling"])
def test_a_thought_ends_while_the_answer_still_fits(pace):
    needed = 0.5 + 20 * 1.5 * pace
    assert closing_time(deadline(), pace) == pytest.approx(10 - needed, abs=2 * pace)


def test_the_pace_is_that_of_the_recent_past():
    rule = deadline()
    for n in range(100):
        assert rule.observe(chunk(at=n * 0.01)) is CONTINUE
    assert closing_time(rule, 0.1, start=1.0) == pytest.approx(10 - 0.5 - 30 * 0.1, abs=0.6)


def test_the_wait_between_two_streams_is_no_decoding():
    rule = deadline()
    for n in range(20):
        rule.observe(chunk(at=n * 0.01))
    rule.observe(SegmentEnded(at=0.2, sample=0, reason=EndReason.LENGTH, phase=Phase.THINKING))
    assert closing_time(rule, 0.01, start=8.0) == pytest.approx(10 - 0.5 - 0.3, abs=0.05)


def test_an_answer_is_left_to_the_deadline_itself():
    assert deadline().observe(chunk(at=99.0, phase=Phase.ANSWER)) is CONTINUE


ENDED = SegmentEnded(at=1.0, sample=0, reason=EndReason.THOUGHT_END, phase=Phase.THINKING)
ON = ThinkOn(sample=0, rule="extend")


def extend(**given):
    return GUARDS.make("extend", given, setting=Setting())


def test_a_short_thought_is_reopened_as_often_as_allowed():
    rule = extend(least=10, most=2)
    rule.observe(chunk(3))
    assert [rule.observe(ENDED) for _ in range(3)] == [ON, ON, CONTINUE]


def test_a_long_thought_is_let_be():
    rule = extend(least=10)
    rule.observe(chunk(10))
    assert rule.observe(ENDED) is CONTINUE


@pytest.mark.parametrize(("confidence", "expected"), [(0.4, ON), (0.6, CONTINUE), (None, CONTINUE)])
def test_a_thought_in_doubt_is_reopened(confidence, expected):
    rule = extend(least=0, doubt=0.5)
    rule.observe(Probed(at=1.0, sample=0, at_token=9, tokens=3, answer=0, confidence=confidence))
    assert rule.observe(ENDED) == expected


@pytest.mark.parametrize("reason", [reason for reason in EndReason if reason is not EndReason.THOUGHT_END])
def test_any_other_end_is_final(reason):
    assert extend().observe(SegmentEnded(at=1.0, sample=0, reason=reason, phase=Phase.THINKING)) is CONTINUE


def entropy(**given):
    small = {"threshold": 0.2, "variance": 0.01, "rate": 0.5, "least_steps": 2, "least_tokens": 0, "step_tokens": 100}
    return RULES.make("engine_entropy", small | given, setting=Setting(step_ids=frozenset({0})))


def steps(*means):
    """One chunk a step of three tokens, the last of which ends it."""
    return [chunk(3, token_ids=(5, 5, 0), entropies=(mean, mean, mean)) for mean in means]


def closed(rule, chunks):
    return [rule.observe(one) is not CONTINUE for one in chunks]


def test_low_and_steady_steps_end_the_thought():
    assert closed(entropy(), steps(0.1, 0.1, 0.1)) == [False, True, True]


@pytest.mark.parametrize(
    "means",
    [pytest.param((0.9, 0.9, 0.9), id="steady-and-high"), pytest.param((0.0, 0.5, 0.0, 0.4), id="low-and-restless")],
)
def test_other_steps_do_not(means):
    assert not any(closed(entropy(), steps(*means)))


def test_it_waits_for_its_steps_and_tokens():
    assert closed(entropy(least_steps=3), steps(0.1, 0.1, 0.1)) == [False, False, True]
    assert closed(entropy(least_tokens=9), steps(0.1, 0.1, 0.1)) == [False, False, True]


def test_without_known_ends_a_step_ends_by_length():
    rule = RULES.make("engine_entropy", {"least_steps": 2, "least_tokens": 0, "step_tokens": 4}, setting=Setting())
    low = [chunk(1, token_ids=(0,), entropies=(0.01,))] * 8
    assert closed(rule, low) == [False] * 7 + [True]


@pytest.mark.parametrize("at", [math.nan, math.inf], ids=["nan", "inf"])
def test_a_clock_that_tells_no_time_leaves_the_pace_alone(at):
    rule = deadline()
    for n in range(50):
        rule.observe(chunk(at=n * 0.01))
    assert rule.observe(chunk(at=math.nan)) is CONTINUE
    rule.observe(chunk(sample=1, at=at))
    assert closing_time(rule, 0.01, start=1.0) == pytest.approx(10 - 0.5 - 0.3, abs=0.05)
