"""The price that a replay runs at, as it is named on the command line.

A recording knows neither batch nor blocks, so each sample is taken to have the engine to itself, at the pace of the
recordings' clock and in blocks of vLLM's usual size. What must not be here: what a price does.
"""

from __future__ import annotations

import math

from suffice.policies.errors import InvalidBudget
from suffice.policies.events import Priced
from suffice.policies.replay_traces import SECONDS_A_TOKEN

BLOCK_SIZE = 16
"""Tokens of a KV block."""


def constant_price(text: str) -> Priced:
    """Prices in force all along.

    Args:
        text: ``SECOND`` or ``SECOND:BLOCK_SECOND``, both in gain.

    Raises:
        InvalidBudget: It is not of that form, or a price is negative or not finite.
    """
    second, _, block_second = text.partition(":")
    try:
        prices = float(second), float(block_second or 0)
    except ValueError:
        prices = (math.nan, math.nan)
    if not all(math.isfinite(price) and price >= 0 for price in prices):
        raise InvalidBudget(f"a price is SECOND or SECOND:BLOCK_SECOND, from 0 up, not {text[:64]!r}", param="price")
    return Priced(
        at=0.0,
        second=prices[0],
        block_second=prices[1],
        token_s=SECONDS_A_TOKEN,
        step_s=SECONDS_A_TOKEN,
        block_size=BLOCK_SIZE,
    )
