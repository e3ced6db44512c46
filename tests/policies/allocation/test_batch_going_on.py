"""A batch that goes on where another ended, samples that break off, and grants beside each other."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.policies.allocation.batch import BatchAllocation, BatchRule
from suffice.policies.errors import IllegalEvent, InvalidBudget


def batch(questions, total=10_000, sample_tokens=100, **rule):
    machine = BatchAllocation(BatchRule(**rule), total_tokens=total, sample_tokens=sample_tokens)
    for name in questions:
        machine.add(name)
    return machine


def said(seed, draw):
    """Answer and length of a sample, by its name alone."""
    chance = random.Random(f"{seed}{draw.question}{draw.sample}")
    return chance.choice([None, 0, 1]), chance.randint(0, draw.tokens)


def play(machine, seed, votes):
    """Draw one by one to the end."""
    while draws := machine.next():
        (draw,) = draws
        answer, tokens = said(seed, draw)
        machine.observe(draw.question, draw.sample, answer, tokens)
        votes.append((draw.question, draw.sample, answer, tokens))
    return votes


@given(st.integers(0, 3000), st.integers(1, 5), st.integers(0, 10_000))
def test_votes_restored_in_order_leave_the_machine_as_it_stood(total, questions, seed):
    names = [f"q{index}" for index in range(questions)]
    whole = batch(names, total, most=9)
    votes = play(whole, seed, [])
    for end in {0, len(votes) // 3, len(votes)}:
        again = batch(names, total, most=9)
        for vote in votes[:end]:
            again.restore(*vote)
        assert play(again, seed, votes[:end]) == votes
        assert again.state() == whole.state()


def test_numbers_that_were_not_restored_are_given_out_first():
    machine = batch("a")
    for sample in (4, 1):
        machine.restore("a", sample, 0, 10)
    assert [draw.sample for draw in machine.next(5)] == [0, 2, 3, 5, 6]
    assert machine.drawn("a") == 2
    assert machine.tokens("a") == 20
    assert machine.tally("a").answers == {0: 2}


@pytest.mark.parametrize(
    "vote",
    [
        pytest.param(("b", 0, 0, 1), id="no-question"),
        pytest.param(("a", -1, 0, 1), id="no-number"),
        pytest.param(("a", 1, 0, 1), id="known"),
        pytest.param(("a", 0, 0, 1), id="under-way"),
        pytest.param(("a", 2, 0, -1), id="negative"),
        pytest.param(("a", 2, 0, 10_000), id="beyond-the-total"),
    ],
)
def test_what_cannot_be_restored_changes_nothing(vote):
    machine = batch("a")
    machine.restore("a", 1, 0, 10)
    assert [draw.sample for draw in machine.next()] == [0]
    before = machine.state()
    with pytest.raises(IllegalEvent):
        machine.restore(*vote)
    assert machine.state() == before


def test_a_sample_that_breaks_off_is_no_vote_and_is_drawn_again():
    machine = batch("a", most=2)
    first, second = machine.next(2)
    machine.lose("a", first.sample, 30)
    assert (machine.spent, machine.lost_tokens, machine.drawn("a"), machine.under_way) == (30, 30, 0, 1)
    assert not machine.over("a")
    (again,) = machine.next(2)
    assert again.sample == first.sample
    for draw in (again, second):
        machine.observe("a", draw.sample, 0, 10)
    assert machine.over("a")
    assert machine.next() == ()
    assert (machine.spent, machine.tokens("a")) == (50, 20)
    with pytest.raises(IllegalEvent):
        machine.lose("a", first.sample, 1)


def test_lost_tokens_of_an_earlier_run_are_spent():
    machine = batch("a", total=100)
    machine.write_off(95)
    assert machine.left == 5
    for tokens in (6, -1):
        with pytest.raises(IllegalEvent):
            machine.write_off(tokens)
    again = BatchAllocation.resume(machine.state())
    assert (again.spent, again.lost_tokens) == (95, 95)
    without = batch("a", total=None)
    without.write_off(10**9)
    without.restore("a", 0, None, 10**9)
    assert without.spent == 2 * 10**9


def test_a_closed_question_is_over_once_nothing_of_it_is_under_way():
    machine = batch("ab")
    (draw,) = machine.next()
    machine.close("a")
    machine.close("b")
    assert (machine.over("a"), machine.over("b")) == (False, True)
    machine.observe("a", draw.sample, 0, 1)
    assert machine.over("a")


def test_too_little_for_one_answer_is_not_drawn():
    machine = batch("a", total=50, least_tokens=20)
    for tokens in (25, 4):
        (draw,) = machine.next()
        machine.observe("a", draw.sample, 0, tokens)
    assert [draw.tokens for draw in machine.next()] == [21]
    machine.observe("a", 2, 0, 2)
    assert (machine.left, machine.next()) == (19, ())
    with pytest.raises(InvalidBudget):
        BatchRule(least_tokens=0)


def test_samples_beside_each_other_get_room_for_nearly_every_answer_or_wait():
    machine = batch("abcdef", total=1000, sample_tokens=600, expected_tokens=50)
    # The part of each is above four times what is expected.
    assert [draw.tokens for draw in machine.next(4)] == [250, 250, 250, 250]
    machine = batch("abcdef", total=1000, sample_tokens=600, expected_tokens=100)
    # It is below: two get what suffices for nearly all, and the others wait for what these leave.
    assert [draw.tokens for draw in machine.next(4)] == [400, 400]
    assert machine.next(2) == ()
    machine.observe("a", 0, 0, 30)
    # Samples are shorter than was expected, so that more of them fit beside each other.
    assert [draw.tokens for draw in machine.next(3)] == [190, 190, 190]


def test_a_sample_alone_may_take_all_that_is_left():
    machine = batch("a", total=130, expected_tokens=100)
    (first,) = machine.next(3)
    assert first.tokens == 100
    assert machine.next(2) == ()
    machine.observe("a", 0, 0, 100)
    assert [draw.tokens for draw in machine.next(3)] == [30]


def test_a_question_that_is_held_lets_others_come_first():
    machine = batch("ab")
    machine.hold("a", held=True)
    machine.hold("a", held=True)
    assert {draw.question for draw in machine.next(4)} == {"b"}
    assert not machine.over("a")
    machine.hold("a", held=False)
    assert machine.next()[0].question == "a"
