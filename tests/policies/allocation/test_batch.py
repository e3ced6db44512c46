import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suffice.policies.allocation.batch import BatchAllocation, BatchRule
from suffice.policies.errors import IllegalEvent, InvalidBudget


def batch(questions, total=10_000, **rule):
    machine = BatchAllocation(BatchRule(**rule), total_tokens=total, sample_tokens=100)
    for name in questions:
        machine.add(name)
    return machine


def answer(machine, votes, tokens=10):
    """Draw one by one; each question's samples answer as listed, then as its last."""
    order = []
    while draws := machine.next():
        (draw,) = draws
        order.append(draw.question)
        listed = votes[draw.question]
        machine.observe(draw.question, draw.sample, listed[min(draw.sample, len(listed) - 1)], min(tokens, draw.tokens))
    return order


def test_first_samples_go_round_and_then_to_the_most_doubtful():
    machine = batch("abc", total=100, most=8)
    order = answer(machine, {"a": [0], "b": [0, 1, 0, 1], "c": [0]})
    assert order[:6] == list("abcabc")
    assert set(order[6:]) == {"b"}
    assert machine.spent == 100


def test_a_budget_below_the_first_samples_still_reaches_every_question_once():
    order = answer(batch("abcd", total=50), {name: [0] for name in "abcd"})
    assert order == ["a", "b", "c", "d", "a"]


def test_shorter_samples_come_first_where_the_votes_are_alike():
    machine = batch("ab", total=None)
    for name, tokens in (("a", 90), ("b", 10)):
        for sample in range(2):
            assert machine.launch(name) == sample
            machine.observe(name, sample, sample, tokens)
    assert machine.next()[0].question == "b"
    assert machine.index("b") > machine.index("a")


def test_samples_under_way_make_room_for_other_questions():
    machine = batch("ab", total=None)
    for name in "ab":
        for sample in range(2):
            machine.launch(name)
            machine.observe(name, sample, sample, 10)
    assert sorted(draw.question for draw in machine.next(4)) == ["a", "a", "b", "b"]
    assert machine.under_way == 4


def test_a_price_ends_the_drawing():
    machine = batch("a", total=None)
    for draw in machine.next(2):
        machine.observe(draw.question, draw.sample, 0, 10)
    index = machine.index("a")
    assert machine.next(least_index=index * 1.01) == ()
    assert len(machine.next(least_index=index)) == 1


def test_a_question_ends_with_its_most_samples_or_when_it_is_closed():
    machine = batch("ab", total=None, most=3)
    machine.close("b")
    machine.close("b")
    machine.close("unknown")
    assert answer(machine, {"a": [0, 1, 2]}) == ["a"] * 3
    with pytest.raises(IllegalEvent):
        machine.launch("a")
    with pytest.raises(IllegalEvent):
        machine.launch("b")


def test_winner_and_counts_are_those_of_the_votes():
    machine = batch("a", total=None, most=3)
    assert machine.winner("a") is None
    answer(machine, {"a": [1, 0, 0]})
    assert (machine.winner("a"), machine.winning_sample("a"), machine.drawn("a")) == (0, 1, 3)


def test_what_cannot_be_is_refused_and_changes_nothing():
    machine = batch("a")
    with pytest.raises(IllegalEvent):
        machine.add("a")
    (draw,) = machine.next()
    before = machine.state()
    for wrong in (("b", 0, 0, 1), ("a", 5, 0, 1), ("a", 0, 0, draw.tokens + 1), ("a", 0, 0, -1)):
        with pytest.raises(IllegalEvent):
            machine.observe(*wrong)
    assert machine.state() == before
    with pytest.raises(InvalidBudget):
        BatchRule(least=5, most=4)


@given(st.integers(0, 5000), st.integers(1, 6), st.integers(0, 10_000), st.integers(1, 5))
@settings(deadline=None)
def test_the_total_holds_and_a_stored_batch_goes_on_as_if_nothing_happened(total, questions, seed, wave):
    chance = random.Random(seed)
    names = [f"q{index}" for index in range(questions)]
    machine = BatchAllocation(BatchRule(most=10), total_tokens=total, sample_tokens=200)
    for name in names:
        machine.add(name)
    under_way = []
    for _ in range(200):
        under_way += machine.next(wave - len(under_way))
        assert machine.spent + (total - machine.spent - machine.left) <= total
        if not under_way:
            break
        draw = under_way.pop(chance.randrange(len(under_way)))
        machine.observe(draw.question, draw.sample, chance.choice([None, 0, 1]), chance.randint(0, draw.tokens))
        assert 0 <= machine.spent <= total
    if not under_way:
        again = BatchAllocation.resume(json.loads(json.dumps(machine.state())))
        assert again.spent == machine.spent
        assert again.left == machine.left
        assert [again.winner(name) for name in names] == [machine.winner(name) for name in names]
        assert again.state() == machine.state()


def test_a_long_batch_keeps_only_what_it_needs():
    machine = batch("ab", total=None, most=2000)
    for step in range(1000):
        machine.observe("a", machine.launch("a"), step % 2, 1)
    assert len(machine._heap) < 100


def test_samples_lost_with_a_crash_are_drawn_anew():
    machine = batch("ab")
    draws = machine.next(4)
    machine.observe(draws[0].question, draws[0].sample, 0, 10)
    machine.close("b")
    again = BatchAllocation.resume(machine.state())
    assert (again.spent, again.under_way, again.drawn("a")) == (10, 0, 1)
    assert {draw.question for draw in again.next(3)} == {"a"}


def test_a_lost_samples_number_is_given_out_again():
    machine = batch("a")
    draws = machine.next(3)
    for draw in (draws[2], draws[0]):
        machine.observe("a", draw.sample, draw.sample, 10)
    again = BatchAllocation.resume(machine.state())
    assert again.winner("a") == machine.winner("a") == 2
    assert [draw.sample for draw in again.next(2)] == [1, 3]
