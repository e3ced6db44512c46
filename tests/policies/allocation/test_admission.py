import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suffice.policies.allocation import projection
from suffice.policies.allocation.admission import Admission, Admit, Ask, NeverFits, Wait
from suffice.policies.allocation.projection import Projection, reference_peak
from suffice.policies.errors import IllegalEvent


def test_the_peak_of_a_known_flight():
    # Ends after 10, 5 and 1 steps: 110 alone, then 205 + 105 with two, then 101 + 201 + 301 with three.
    flight = [(100, 10, True), (200, 5, True), (300, 1, True)]
    assert reference_peak(flight) == 603
    assert reference_peak([]) == 0


steps = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.integers(0, 60), st.integers(0, 30), st.booleans()),
        st.tuples(st.just("remove"), st.integers(0, 10_000)),
        st.tuples(st.just("pass"), st.integers(0, 4)),
    ),
    max_size=150,
)


@given(steps)
@settings(deadline=None)
def test_the_incremental_peak_is_the_definitions(actions):
    structure, live, now = Projection(), {}, 0
    for action, *rest in actions:
        if action == "insert":
            held, remaining, grows = rest
            live[structure.insert(now, held, remaining, grows=grows)] = (now, held, remaining, grows)
        elif action == "remove" and live:
            number = sorted(live)[rest[0] % len(live)]
            structure.remove(number)
            structure.remove(number)
            del live[number]
        elif action == "pass":
            now += rest[0]
            late = {number for number, (at, _, remaining, _) in live.items() if at + remaining < now}
            assert set(structure.ends_before(now)) == late
            for number in late:
                structure.remove(number)
                del live[number]
        flight = [(held + (now - at) * grows, at + left - now, grows) for at, held, left, grows in live.values()]
        assert structure.peak() == reference_peak(flight)
        assert structure.held(now) == sum(held for held, _, _ in flight)
        assert len(structure) == len(flight)


def test_it_stays_exact_when_chunks_are_cut_and_emptied(monkeypatch):
    monkeypatch.setattr(projection, "_LEAST", 3)
    chance = random.Random(5)
    structure, live = Projection(), {}
    for step in range(600):
        if chance.random() < (0.7 if step < 300 else 0.3) or not live:
            held, remaining = chance.randrange(100), chance.randrange(50)
            live[structure.insert(0, held, remaining)] = (held, remaining, True)
        else:
            number = chance.choice(list(live))
            structure.remove(number)
            del live[number]
        assert structure.peak() == reference_peak(list(live.values()))


def ask(name, prompt=100, limit=100, remaining=50, samples=1):
    return Ask(id=name, prompt_tokens=prompt, limit=limit, remaining=remaining, samples=samples)


def keep(_request, _index, _generated):
    return 20


def test_requests_are_admitted_up_to_the_projected_peak():
    machine = Admission(usable_blocks=100, block_size=10, headroom=0.1)
    verdicts = [machine.admit(ask(name)) for name in range(7)]
    assert [type(verdict) for verdict in verdicts] == [Admit] * 5 + [Wait] * 2
    assert machine.peak == 5 * (100 + 9 + 50)
    machine.ended(0)
    assert isinstance(machine.decide(ask("more")), Admit)
    assert len(machine) == 4


def test_deciding_changes_nothing():
    machine = Admission(usable_blocks=100, block_size=10)
    machine.admit(ask("a"))
    before = machine.peak
    machine.decide(ask("b", samples=3))
    assert machine.peak == before
    assert "b" not in machine


def test_deciding_tells_what_admitting_would():
    machine = Admission(usable_blocks=100, block_size=10, headroom=0.1)
    for name in range(7):
        told = machine.decide(ask(name))
        assert told == machine.admit(ask(name))
    machine.ended(0, 5)
    assert 0 in machine


def test_what_can_never_fit_is_told_with_the_limit_that_would():
    machine = Admission(usable_blocks=10, block_size=10)
    never = machine.admit(ask("big", prompt=60, limit=50))
    assert never == NeverFits(needed=11, usable=10, most_tokens=40)
    assert "at most 40 tokens" in never.reason
    assert "prompt alone" in machine.decide(ask("huge", prompt=200)).reason
    assert isinstance(machine.decide(ask("fits", prompt=60, limit=40, remaining=40)), Admit)


def test_an_empty_engine_takes_what_is_projected_beyond_the_headroom():
    machine = Admission(usable_blocks=10, block_size=10, headroom=0.5)
    assert isinstance(machine.admit(ask("a", prompt=60, limit=40, remaining=40)), Admit)
    assert isinstance(machine.admit(ask("b", prompt=10, limit=10, remaining=10)), Wait)


def test_samples_share_the_prompts_full_blocks():
    apart = Admission(usable_blocks=1000, block_size=10, prefix_caching=False)
    shared = Admission(usable_blocks=1000, block_size=10)
    for machine in (apart, shared):
        machine.admit(ask("a", prompt=101, samples=4))
    assert apart.peak - shared.peak == 3 * 100


def test_what_is_shared_is_held_until_the_last_sample_ends():
    machine = Admission(usable_blocks=1000, block_size=10)
    machine.admit(ask("a", prompt=101, samples=2, remaining=50))
    machine.ended("a", 0)
    assert machine.peak == 100 + 1 + 9 + 50
    machine.progress("a", 1, 10, 90)
    assert machine.peak == 100 + 1 + 9 + 10 + 90
    machine.ended("a", 1)
    assert machine.peak == 0
    assert "a" not in machine


def test_time_moves_nothing_and_outliving_the_expectation_renews_it():
    machine = Admission(usable_blocks=1000, block_size=10)
    machine.admit(ask("a", prompt=101, samples=2, remaining=50, limit=1000))
    before = machine.peak
    machine.advance(30, keep)
    assert machine.peak == before
    asked = []

    def renew(request, index, generated):
        asked.append((request, index, generated))
        return 20

    machine.advance(60, renew)
    assert asked == [("a", 0, 60), ("a", 1, 60)]
    assert machine.peak == 100 + 2 * (1 + 9 + 80)
    machine.advance(10, keep)
    assert machine.now == 60


def test_progress_corrects_the_steps_assumed():
    machine = Admission(usable_blocks=1000, block_size=10)
    machine.admit(ask("a", limit=1000))
    machine.advance(40, keep)
    machine.progress("a", 0, 5, 45)
    assert machine.peak == 100 + 9 + 50
    machine.progress("gone", 0, 5, 45)
    machine.progress("a", 7, 5, 45)
    assert machine.peak == 100 + 9 + 50


def test_further_samples_are_counted_in():
    machine = Admission(usable_blocks=1000, block_size=10)
    machine.admit(ask("a", prompt=101, samples=2))
    one = machine.peak
    machine.draw("a", 2, prompt_tokens=101, limit=100, remaining=50)
    assert machine.peak == one + 1 + 9 + 50
    with pytest.raises(IllegalEvent):
        machine.draw("a", 2, prompt_tokens=101, limit=100, remaining=50)
    with pytest.raises(IllegalEvent):
        machine.admit(ask("a"))


def test_pressure_follows_the_pool():
    machine = Admission(usable_blocks=100, block_size=10)
    machine.admit(ask("a"))
    assert machine.pressure == pytest.approx(0.159)
    machine.resize(50)
    assert machine.pressure == pytest.approx(0.318)
    assert machine.peak_blocks == 15


@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.integers(1, 200), st.integers(1, 5), st.integers(0, 40)),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from([1, 16, 128]),
)
@settings(deadline=None)
def test_the_real_blocks_never_pass_the_projected_peak(requests, block):
    """Where every answer is as long as expected, the blocks held at each step stay below what was projected."""
    machine = Admission(usable_blocks=10**6, block_size=block)
    flight = []
    for name, (prompt, length, samples, wait) in enumerate(requests):
        machine.advance(machine.now + wait, keep)
        for old, (at, _, its_length, _) in enumerate(flight):
            if at + its_length < machine.now:
                machine.ended(old)
        machine.admit(ask(name, prompt=prompt, limit=length, remaining=length, samples=samples))
        flight.append((machine.now, prompt, length, samples))
    peak = machine.peak
    for step in range(machine.now, machine.now + 201, 7):
        blocks = 0
        for at, prompt, length, samples in flight:
            if step <= at + length:
                shared = (prompt - 1) // block if samples > 1 else 0
                blocks += shared + samples * (-(-(prompt + step - at) // block) - shared)
        assert blocks * block <= peak
