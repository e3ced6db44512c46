from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suffice.policies.errors import InvalidBudget
from suffice.policies.memory.trim import Trimmed, TrimRule, Turn, trim


def turn(role, tokens, **more):
    return Turn(role=role, tokens=tokens, **more)


def call(name, tokens=20):
    return turn("assistant", tokens, calls=(name,))


def answer(name, tokens=500):
    return turn("tool", tokens, answers=name)


AGENT = [
    turn("system", 100),
    turn("user", 50),
    *(step for index in range(12) for step in (call(f"c{index}"), answer(f"c{index}"))),
]


def applied(turns, trimmed):
    return [replace(turns[kept.index], tokens=kept.tokens) for kept in trimmed.kept]


def test_a_conversation_within_the_limit_is_left_alone():
    trimmed = trim(AGENT, TrimRule(most=100_000, least=50_000))
    assert (trimmed.dropped, trimmed.shortened, trimmed.steps) == ((), (), 0)
    assert trimmed.stable_tokens == trimmed.tokens == trimmed.tokens_before


def test_old_tool_output_is_shortened_before_anything_is_dropped():
    trimmed = trim(AGENT, TrimRule(most=5_000, least=4_000, recent=4, result_tokens=100))
    assert trimmed.dropped == ()
    assert trimmed.shortened
    assert max(trimmed.shortened) < len(AGENT) - 4
    assert trimmed.fits


def test_then_calls_go_together_with_their_results():
    trimmed = trim(AGENT, TrimRule(most=1_500, least=1_000, first=1, recent=2, result_tokens=100))
    assert trimmed.dropped
    gone = {AGENT[place].answers or AGENT[place].calls[0] for place in trimmed.dropped}
    stays = {AGENT[kept.index].answers for kept in trimmed.kept} | {
        name for kept in trimmed.kept for name in AGENT[kept.index].calls
    }
    assert gone.isdisjoint(stays)


def test_then_old_exchanges_go_whole():
    chat = [turn("system", 10), *(turn(role, 100) for _ in range(10) for role in ("user", "assistant"))]
    trimmed = trim(chat, TrimRule(most=1_000, least=600, first=2, recent=2))
    kept = [kept.index for kept in trimmed.kept]
    assert kept[:3] == [0, 1, 2]
    assert kept[-2:] == [19, 20]
    assert [chat[index].role for index in kept[1:]] == ["user", "assistant"] * (len(kept) // 2)


def test_recent_tool_output_is_shortened_last():
    turns = [turn("system", 10), turn("user", 10), call("a"), answer("a", 5_000)]
    trimmed = trim(turns, TrimRule(most=1_000, least=500, result_tokens=200))
    assert trimmed.shortened == (3,)
    assert trimmed.dropped == ()


def test_what_cannot_be_cut_enough_is_told():
    trimmed = trim([turn("system", 5_000), turn("user", 10)], TrimRule(most=1_000, least=500))
    assert not trimmed.fits
    assert trimmed.tokens == 5_010


def test_a_call_whose_result_is_still_to_come_stays():
    turns = [turn("user", 10), call("slow", 300), *(turn("user", 100) for _ in range(9))]
    trimmed = trim(turns, TrimRule(most=600, least=400, first=0, recent=1))
    assert 1 in {kept.index for kept in trimmed.kept}


def test_a_rule_that_contradicts_itself_is_refused():
    with pytest.raises(InvalidBudget):
        TrimRule(most=10, least=20)


@st.composite
def conversations(draw):
    turns = [turn("system", draw(st.integers(0, 60)))] if draw(st.booleans()) else []
    waiting = []
    number = 0
    for _ in range(draw(st.integers(0, 30))):
        kind = draw(st.sampled_from(["user", "assistant", "call", "result"]))
        tokens = draw(st.integers(0, 200))
        if kind == "call":
            names = [f"n{number + extra}" for extra in range(draw(st.integers(1, 2)))]
            number += len(names)
            waiting += names
            turns.append(turn("assistant", tokens, calls=tuple(names)))
        elif kind == "result" and waiting:
            turns.append(answer(waiting.pop(draw(st.integers(0, len(waiting) - 1))), tokens))
        elif kind != "result":
            turns.append(turn(kind, tokens, pinned=draw(st.booleans()) and draw(st.booleans())))
    return turns


rules = st.builds(
    lambda least, more, first, recent, result: TrimRule(
        least=least, most=least + more, first=first, recent=recent, result_tokens=result
    ),
    st.integers(0, 800),
    st.integers(0, 600),
    st.integers(0, 3),
    st.integers(0, 6),
    st.integers(0, 60),
)


@given(conversations(), rules)
@settings(deadline=None)
def test_calls_and_results_stay_together_and_the_report_adds_up(turns, rule):
    trimmed = trim(turns, rule)
    kept = {part.index for part in trimmed.kept}
    calling = {name: place for place, made in enumerate(turns) for name in made.calls}
    for place, made in enumerate(turns):
        if made.answers is not None:
            assert (place in kept) == (calling[made.answers] in kept)
        if made.role == "system" or made.pinned:
            assert place in kept
            assert place not in trimmed.shortened
    assert kept.isdisjoint(trimmed.dropped)
    assert len(kept) + len(trimmed.dropped) == len(turns)
    assert trimmed.tokens == sum(part.tokens for part in trimmed.kept) <= trimmed.tokens_before
    assert trimmed.fits == (trimmed.tokens <= rule.most)
    if trimmed.tokens_before <= rule.most:
        assert trimmed.steps == 0


@given(conversations(), rules)
@settings(deadline=None)
def test_trimming_what_stays_changes_nothing(turns, rule):
    trimmed = trim(turns, rule)
    left = applied(turns, trimmed)
    again = trim(left, rule)
    assert applied(left, again) == left


@given(conversations(), rules)
@settings(deadline=None, max_examples=60)
def test_the_next_turn_keeps_the_cut_unless_a_step_is_due(turns, rule):
    before: Trimmed = trim([], rule)
    for size in range(1, len(turns) + 1):
        after = trim(turns[:size], rule)
        if after.steps == before.steps:
            assert after.kept[: len(before.kept)] == before.kept
        assert set(before.dropped) <= set(after.dropped)
        before = after
