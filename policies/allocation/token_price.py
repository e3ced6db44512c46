"""The price of a token where questions arrive without end: found by dual ascent so that spending meets a target.

Each question brings tokens to spend; each sample spends some. The price rises while more was spent than came in and
falls while less was, on a logarithmic scale. With ``BatchAllocation`` it decides which samples are drawn. What must
not be here: clocks, questions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class TokenPrice:
    """The machine; JSON-ready by its fields.

    Attributes:
        target: Tokens that a question may take on average.
        price: Gain a token that a sample must bring now.
        rate: How strongly an imbalance of one question's target moves the logarithm of the price.
        fade: Share of the imbalance that each new question leaves, so that the distant past does not rule.
        least: The lowest price.
        highest: The highest.
        balance: Tokens spent beyond what came in, in questions' targets, faded.
    """

    target: float
    price: float = 1e-4
    rate: float = 0.02
    fade: float = 0.995
    least: float = 1e-9
    highest: float = 1.0
    balance: float = 0.0

    def arrived(self) -> None:
        """A question came and brought its target."""
        self.balance = self.balance * self.fade - 1.0
        self._move()

    def spent(self, tokens: int) -> None:
        """A sample took tokens."""
        self.balance += tokens / self.target

    def _move(self) -> None:
        step = self.rate * min(max(self.balance, -25.0), 25.0)
        self.price = min(max(self.price * math.exp(step), self.least), self.highest)
