"""The probe schedule keeps the bounds that its page proves."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.policies.stopping.price import worth
from suffice.policies.stopping.schedule import Even, Geometric, useful

firsts = st.integers(1, 500)
growths = st.floats(1.05, 4)
lengths = st.integers(1, 100_000)


def places(schedule, until):
    due = schedule.first
    while due <= until:
        yield due
        due = schedule.after(due, due)


@given(first=firsts, growth=growths, length=lengths)
def test_the_number_of_probes_is_logarithmic(first, growth, length):
    count = sum(1 for _ in places(Geometric(first, growth), length))
    most = 0 if length < first else 1 + math.log(length / first) / math.log(growth)
    assert count <= most + 1e-9


@given(first=firsts, growth=growths, exitable=lengths)
def test_the_first_exitable_place_is_overshot_by_the_growth_at_most(first, growth, exitable):
    schedule = Geometric(first, growth)
    at = next(place for place in places(schedule, 10**9) if place >= exitable)
    assert at <= max(first, growth * exitable * (1 + 1e-12))


@given(first=firsts, growth=growths, exitable=lengths, window=st.integers(1, 4))
def test_several_probes_in_a_row_keep_the_wider_bound(first, growth, exitable, window):
    schedule = Geometric(first, growth)
    after = [place for place, _ in zip(places(schedule, 10**12), range(2000), strict=False) if place >= exitable]
    early = list(zip(places(schedule, 10**12), range(window), strict=False))[-1][0]
    assert after[window - 1] <= max(early, growth**window * (exitable + 1 / (growth - 1)) * (1 + 1e-12))


def test_sixteen_thousand_tokens_take_nineteen_probes():
    assert sum(1 for _ in places(Geometric(256, 1.25), 16_384)) == 19


@pytest.mark.parametrize("schedule", [Geometric(10, 1.5), Even(10)], ids=["geometric", "even"])
@given(position=st.integers(10, 5000))
def test_a_long_chunk_skips_places_and_stays_on_the_schedule(schedule, position):
    due = schedule.after(schedule.first, position)
    assert due > position
    assert due in set(places(schedule, due))
    assert not [place for place in places(schedule, due - 1) if place > position]


@pytest.mark.parametrize(
    ("position", "longest", "expected"),
    [(10, 31, True), (11, 31, False), (40, 31, False), (10**9, None, True)],
    ids=["saves-one", "saves-none", "beyond-the-cap", "no-cap"],
)
def test_no_probe_is_taken_that_could_not_save_its_cost(position, longest, expected):
    assert useful(position, longest, probe_tokens=20) is expected


@pytest.mark.parametrize(
    ("gain", "cost", "price", "expected"),
    [(3, 2, 1, True), (2, 2, 1, False), (3, 2, 2, False), (math.nan, 1, 1, False), (1, math.nan, 1, False)],
    ids=["dear", "even", "price-doubled", "gain-unknown", "cost-unknown"],
)
def test_a_unit_of_work_is_worth_it_only_above_its_price(gain, cost, price, expected):
    assert worth(gain, cost, price) is expected
