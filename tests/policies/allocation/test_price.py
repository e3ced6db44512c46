import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suffice.policies.allocation.flip import flip_probability, vote_gain
from suffice.policies.allocation.price import (
    Load,
    PriceRule,
    Prices,
    PriceState,
    cost,
    next_vote_worth,
    update,
    worth,
)
from suffice.policies.allocation.token_price import TokenPrice
from suffice.policies.errors import InvalidBudget

RULE = PriceRule()
loads = st.builds(
    Load, at=st.floats(0, 1e6), queue_s=st.floats(0, 1e4), kv_pressure=st.floats(0, 5), burn=st.floats(0, 10)
)


@pytest.mark.parametrize(("leader", "runner_up", "odds"), [(0, 0, 1 / 2), (1, 0, 1 / 4), (2, 0, 1 / 8), (2, 1, 5 / 16)])
def test_the_odds_of_a_flip(leader, runner_up, odds):
    assert flip_probability(leader, runner_up) == odds


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_odds_of_a_flip_are_the_beta_tail(leader, runner_up):
    # The same tail by numerical integration of the density.
    parts = 2000
    weight = math.factorial(leader + runner_up + 1) / (math.factorial(leader) * math.factorial(runner_up))
    points = ((index + 0.5) / parts / 2 for index in range(parts))
    tail = weight * sum(x**leader * (1 - x) ** runner_up for x in points) / parts / 2
    assert flip_probability(leader, runner_up) == pytest.approx(tail, abs=1e-3)
    assert flip_probability(leader, runner_up) + flip_probability(runner_up, leader) == pytest.approx(1)


def test_a_vote_is_worth_less_the_clearer_the_lead_and_the_more_are_coming():
    gains = [vote_gain(lead, 0) for lead in range(10)]
    assert gains == sorted(gains, reverse=True)
    assert vote_gain(3, 2, waiting=2) == vote_gain(3, 2) * 2 / 4


def walk(load, seconds, state=None, rule=RULE):
    state = state or PriceState(at=0.0)
    prices = Prices()
    start = state.at
    for step in range(1, int(seconds * 10) + 1):
        state, prices = update(state, replace(load, at=start + step / 10), rule)
    return state, prices


def test_an_idle_engine_gives_everything_away_and_a_full_one_reaches_the_highest_price():
    _, idle = walk(Load(at=0, queue_s=0, kv_pressure=0.1), 10)
    assert idle == Prices()
    state, full = walk(Load(at=0, queue_s=100, kv_pressure=2), 200)
    top = RULE.unit * math.expm1(RULE.steps)
    assert full.second == full.block_second == pytest.approx(top)
    _, calm = walk(Load(at=0, queue_s=0, kv_pressure=0.1), 200, state)
    assert calm == Prices()


def test_a_budget_that_burns_too_fast_raises_both_prices():
    _, prices = walk(Load(at=0, queue_s=0, kv_pressure=0, burn=3), 5)
    assert min(prices.second, prices.block_second) > 0


def test_a_gap_in_time_counts_for_no_more_than_its_limit():
    state = PriceState(at=0.0)
    moved, _ = update(state, Load(at=1e9, queue_s=100, kv_pressure=0), RULE)
    assert moved.time_level == RULE.rate * RULE.longest_s
    back, _ = update(moved, Load(at=5.0, queue_s=100, kv_pressure=0), RULE)
    assert back.at == 1e9


@given(st.lists(loads, max_size=40))
@settings(deadline=None)
def test_prices_stay_in_their_range(observed):
    state, top = PriceState(), RULE.unit * math.expm1(RULE.steps)
    for load in observed:
        state, prices = update(state, load, RULE)
        assert 0 <= prices.second <= top
        assert 0 <= prices.block_second <= top


@given(
    st.builds(PriceState, at=st.just(0.0), time_level=st.floats(0, RULE.steps), memory_level=st.floats(0, RULE.steps)),
    loads,
    st.floats(0, 100),
    st.floats(0, 2),
    st.floats(0, 3),
)
def test_more_load_never_lowers_a_price(state, load, queue, pressure, burn):
    more = replace(load, queue_s=load.queue_s + queue, kv_pressure=load.kv_pressure + pressure, burn=load.burn + burn)
    lower_state, lower = update(state, load, RULE)
    higher_state, higher = update(state, more, RULE)
    assert higher.second >= lower.second
    assert higher.block_second >= lower.block_second
    assert higher_state.time_level >= lower_state.time_level
    assert higher_state.memory_level >= lower_state.memory_level


@pytest.mark.parametrize("arrivals", [3.0, 6.0, 12.0], ids=["slightly", "clearly", "far"])
def test_the_price_steers_an_overloaded_queue_to_its_target(arrivals):
    """Work comes faster than it is served; who comes asks for less the higher the price is, and the queue settles."""
    rule = PriceRule(queue_s=2.0)
    state, waiting, price, waits = PriceState(at=0.0), 0.0, 0.0, []
    for step in range(1, 30_001):
        units = 8.0 / (1 + price / 1e-3)  # samples that a request still finds worth their price
        waiting = max(waiting + (arrivals * units - 20.0) * 0.02, 0.0)
        state, prices = update(state, Load(at=step * 0.02, queue_s=waiting / 20.0, kv_pressure=0), rule)
        price = prices.second
        waits.append(waiting / 20.0)
    late = waits[len(waits) // 2 :]
    assert sum(late) / len(late) == pytest.approx(2.0, rel=0.1)
    assert max(late) - min(late) < 1.0


def test_a_unit_of_work_goes_ahead_while_it_is_worth_its_price():
    prices = Prices(second=0.01, block_second=0.0001)
    assert cost(2.0, 100.0, prices) == pytest.approx(0.03)
    assert worth(0.03, 2.0, 99.0, prices)
    assert not worth(0.03, 2.0, 101.0, prices)
    assert next_vote_worth(1, 1, 2.0, 100.0, prices)
    assert not next_vote_worth(8, 0, 2.0, 100.0, prices)
    assert next_vote_worth(2, 0, 2.0, 100.0, prices)
    assert not next_vote_worth(2, 0, 2.0, 100.0, prices, value=0.5)
    assert not next_vote_worth(2, 0, 2.0, 100.0, prices, waiting=4)
    assert worth(0.0, 5.0, 5.0, Prices())


@pytest.mark.parametrize("wrong", [{"queue_s": 0}, {"rate": -1}, {"damping": -1}, {"steps": 0}])
def test_a_rule_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InvalidBudget):
        PriceRule(**wrong)


def test_the_token_price_meets_its_target():
    """Samples of one token length and falling gain: what is spent ends up near what came in."""
    price = TokenPrice(target=400.0)
    spent = 0
    for _ in range(2000):
        price.arrived()
        for drawn in range(40):
            if drawn >= 2 and 0.5 / (drawn + 1) ** 2 / 100 < price.price:
                break
            price.spent(100)
            spent += 100
    assert spent / 2000 == pytest.approx(400, rel=0.03)


def test_the_token_price_is_monotone_and_bounded():
    prices = [TokenPrice(target=100.0, balance=balance).price for balance in (-1e9, -10, 0, 10, 1e9)]
    assert prices == sorted(prices)
    assert prices[-1] < float("inf")
