"""What more tokens of a request take of the engine, and what that costs at the prices in force.

Time is the tokens' share of the batch's steps. Memory is the KV blocks of everything that the sample holds while it
generates them. What must not be here: what more tokens may bring, and whether to spend them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from suffice.policies.allocation.price import Prices, cost
from suffice.policies.memory.block_seconds import closed_form

if TYPE_CHECKING:
    from suffice.policies.events import Priced

PRICE = "price"
"""Name in decisions and receipts of what ended because going on was not worth its price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What some tokens take.

    Attributes:
        seconds: Engine time.
        block_seconds: KV blocks held, times seconds.
    """

    seconds: float
    block_seconds: float


def effort(priced: Priced, held: int, tokens: float) -> Effort:
    """What it takes to generate more tokens of one sample.

    ``tokens * token_s`` seconds and ``step_s / B * (held * tokens + tokens^2 / 2)`` block-seconds, with block size B;
    none of the latter where the block size is unknown. The prompt is taken to be in the prefix cache.

    Args:
        priced: What the engine is like now.
        held: Tokens that the sample holds in the cache already, its prompt included.
        tokens: Tokens to generate; none below 0.
    """
    tokens = max(tokens, 0)
    held_for = 0.0
    if priced.block_size > 0:
        held_for = closed_form(held, tokens, priced.block_size, prefill_s=0.0, seconds_per_token=priced.step_s)
    return Effort(seconds=tokens * priced.token_s, block_seconds=held_for)


def prices_of(priced: Priced) -> Prices:
    """The two prices alone."""
    return Prices(second=priced.second, block_second=priced.block_second)


def tokens_cost(priced: Priced | None, held: int, tokens: float) -> float:
    """What more tokens of one sample cost, in gain; nothing where no price was told. Arguments as in ``effort``."""
    if priced is None:
        return 0.0
    needed = effort(priced, held, tokens)
    return cost(needed.seconds, needed.block_seconds, prices_of(priced))
