import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.policies.budget import Bound, Budget, Meter, tightest
from suffice.policies.errors import IllegalEvent


def test_the_tightest_limit_wins_and_the_first_source_at_a_tie():
    limits = tightest(
        ("key", Budget(total_tokens=100, samples=4)),
        ("request", Budget(total_tokens=50, samples=4, deadline_ms=9)),
        ("preset", Budget(total_tokens=70)),
    )
    assert limits == {
        "total_tokens": Bound(value=50, source="request"),
        "samples": Bound(value=4, source="key"),
        "deadline_ms": Bound(value=9, source="request"),
    }


def test_a_request_cannot_raise_a_ceiling():
    limits = tightest(("key", Budget(total_tokens=100)), ("request", Budget(total_tokens=10_000)))
    assert limits["total_tokens"] == Bound(value=100, source="key")


def test_the_largest_reserve_wins():
    limits = tightest(("gateway", Budget(answer_reserve=10)), ("request", Budget(answer_reserve=20)))
    assert limits["answer_reserve"] == Bound(value=20, source="request")


steps = st.lists(
    st.tuples(
        st.sampled_from(["allot", "grant", "use", "release", "hold_back", "close"]),
        st.integers(0, 3),
        st.integers(-1, 40),
    ),
    max_size=80,
)


@given(total=st.integers(0, 100), steps=steps)
def test_no_sequence_of_steps_passes_a_limit(total, steps):
    meter = Meter(total)
    used: dict[int, int] = {}
    granted: dict[int, int] = {}
    pots: dict[int, int] = {}
    for step, sample, tokens in steps:
        before = (meter.used, meter.left, [meter.available(i) for i in range(4)])
        try:
            match step:
                case "allot":
                    pots[sample] = meter.allot(sample, tokens)
                case "grant":
                    granted[sample] = granted.get(sample, 0) + meter.grant(sample, tokens)
                case "use":
                    meter.use(sample, tokens)
                    used[sample] = used.get(sample, 0) + tokens
                    granted[sample] = granted.get(sample, 0) - tokens
                case "release":
                    assert meter.release(sample) == granted.pop(sample, 0)
                case "hold_back" if sample in pots and tokens >= 0:
                    meter.hold_back(sample, tokens)
                case "close":
                    meter.close(sample)
        except IllegalEvent:
            assert (meter.used, meter.left, [meter.available(i) for i in range(4)]) == before
        promised = sum(used.values()) + sum(granted.values())
        assert promised <= total
        assert meter.used == sum(used.values())
        assert meter.left + promised + sum(meter.available(i) for i in range(4)) <= total
        assert all(meter.sample_used(i) + granted.get(i, 0) <= pots.get(i, 0) for i in range(4))


def test_a_sample_that_is_done_gives_back_the_rest_of_its_pot():
    meter = Meter(100)
    assert meter.allot(0, 60) == 60
    assert meter.allot(1, 60) == 40
    meter.grant(0, 60)
    meter.use(0, 10)
    meter.release(0)
    meter.close(0)
    meter.close(0)
    assert meter.left == 50
    assert meter.room(0) == 0


def test_generating_beyond_the_grant_is_an_illegal_event():
    meter = Meter(10)
    meter.allot(0, 10)
    assert meter.grant(0, 5) == 5
    with pytest.raises(IllegalEvent):
        meter.use(0, 6)
    assert meter.used == 0


def test_an_estimate_never_lowers_nor_passes_the_limit():
    meter = Meter(10)
    meter.allot(0, 10)
    meter.grant(0, 5)
    meter.use(0, 4)
    meter.charge_estimate(3, 10)
    assert meter.used == 4
    meter.charge_estimate(30, 10)
    assert meter.used == 10


@pytest.mark.parametrize(("sample", "tokens"), [(0, 5), (1, -1)], ids=["twice", "negative"])
def test_an_impossible_allotment_is_an_illegal_event(sample, tokens):
    meter = Meter(10)
    meter.allot(0, 5)
    with pytest.raises(IllegalEvent, match="cannot be allotted"):
        meter.allot(sample, tokens)
    assert meter.left == 5
