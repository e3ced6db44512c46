"""One price for engine time and one for KV memory, moved by load.

A price is the multiplier of its resource's limit in the allocation problem, found by dual ascent: it rises while the
resource is asked for beyond its target and falls while it is not. A proportional part damps the swing that a queue,
itself an integrator, would otherwise give it. Prices move on a logarithmic scale from zero, where everything is worth
doing, up to a limit. What must not be here: what to do at a price; measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from suffice.policies.allocation.flip import vote_gain
from suffice.policies.errors import InvalidBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What was seen of the engine and of the budgets at one moment.

    Attributes:
        at: Seconds, on any clock that does not go back.
        queue_s: Seconds that a request waits before it starts.
        kv_pressure: The projected peak of KV memory as a share of what is usable.
        burn: Spending over the rate that would just last to the end of its window; 1 is on course, 0 where there is no
            budget.
    """

    at: float
    queue_s: float
    kv_pressure: float
    burn: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceRule:
    """How prices move.

    Attributes:
        queue_s: The wait that is aimed at.
        kv_pressure: The pressure that is aimed at.
        rate: Steps of the logarithmic price a second at an error of 1.
        damping: How much of an error shows in the price at once, in the same unit.
        unit: Price at which the logarithmic scale is 1 nat above nothing, in gain a second or a block-second.
        steps: Height of the scale, in nats: the highest price is ``unit * (e^steps - 1)``.
        longest_s: Seconds of silence that count at most, so that a gap moves no price by more than this.
    """

    queue_s: float = 1.0
    kv_pressure: float = 0.85
    rate: float = 0.2
    damping: float = 1.0
    unit: float = 1e-5
    steps: float = 14.0
    longest_s: float = 1.0

    def __post_init__(self) -> None:
        if (
            min(self.queue_s, self.kv_pressure, self.rate, self.unit, self.steps, self.longest_s) <= 0
            or self.damping < 0
        ):
            raise InvalidBudget("a price rule needs positive targets, rates and scales", param="price")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices now, in gain: the probability that a unit of work changes an answer for the better.

    Attributes:
        second: Gain that a second of engine time must bring.
        block_second: Gain that a KV block held for a second must bring.
    """

    second: float = 0.0
    block_second: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceState:
    """Where the ascent stands; JSON-ready by its fields.

    Attributes:
        at: When it was last moved; None before the first time.
        time_level: Logarithmic level of the price of engine time.
        memory_level: Logarithmic level of the price of memory.
    """

    at: float | None = None
    time_level: float = 0.0
    memory_level: float = 0.0


def update(state: PriceState, load: Load, rule: PriceRule) -> tuple[PriceState, Prices]:
    """Move the prices by one observation. Pure: more load never gives a lower price, and no price leaves its range.

    Args:
        state: Where the ascent stands.
        load: What was seen.
        rule: How prices move.
    """
    elapsed = 0.0 if state.at is None else min(max(load.at - state.at, 0.0), rule.longest_s)
    over_time = _error(max(load.queue_s / rule.queue_s, load.burn))
    over_memory = _error(max(load.kv_pressure / rule.kv_pressure, load.burn))
    time_level = _within(state.time_level + rule.rate * elapsed * over_time, rule.steps)
    memory_level = _within(state.memory_level + rule.rate * elapsed * over_memory, rule.steps)
    moved = PriceState(
        at=load.at if state.at is None else max(load.at, state.at), time_level=time_level, memory_level=memory_level
    )
    prices = Prices(
        second=_price(time_level + rule.damping * over_time, rule),
        block_second=_price(memory_level + rule.damping * over_memory, rule),
    )
    return moved, prices


def _error(ratio: float) -> float:
    """How far the load is from its target, from -1 (none) to 1 (twice the target and beyond)."""
    return min(max(ratio - 1, -1.0), 1.0)


def _within(level: float, most: float) -> float:
    return min(max(level, 0.0), most)


def _price(level: float, rule: PriceRule) -> float:
    return rule.unit * math.expm1(_within(level, rule.steps))


def worth(gain: float, cost_seconds: float, cost_block_seconds: float, prices: Prices) -> bool:
    """Whether a unit of work is worth its price.

    Args:
        gain: What it is expected to bring: the probability that it changes the outcome for the better.
        cost_seconds: Engine time that it takes: its share of the batch, in seconds.
        cost_block_seconds: KV blocks that it holds, times seconds.
        prices: Prices now.
    """
    return gain >= cost(cost_seconds, cost_block_seconds, prices)


def cost(cost_seconds: float, cost_block_seconds: float, prices: Prices) -> float:
    """What a unit of work costs, in gain."""
    return cost_seconds * prices.second + cost_block_seconds * prices.block_second


def next_vote_worth(
    leader: int,
    runner_up: int,
    cost_seconds: float,
    cost_block_seconds: float,
    prices: Prices,
    *,
    waiting: int = 0,
    value: float = 1.0,
) -> bool:
    """Whether one more vote is worth its price.

    Args:
        leader: Votes of the leading answer.
        runner_up: Votes of the strongest other.
        cost_seconds: Engine time that a sample takes.
        cost_block_seconds: Block-seconds that a sample takes.
        prices: Prices now.
        waiting: Votes that are being drawn.
        value: What a right answer of this request is worth against others'.
    """
    return worth(value * vote_gain(leader, runner_up, waiting), cost_seconds, cost_block_seconds, prices)
