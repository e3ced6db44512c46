"""The price of a token where questions arrive without end: moved by dual ascent so that spending meets a target.

Each question brings tokens to spend; each sample spends some. The logarithm of the price is the balance of the two,
scaled: what was spent beyond what came in raises it, what was saved lowers it. As the balance adds up what each step
of an ascent would add, this is dual ascent on the budget, and the overspending stays bounded whatever the traffic:
once the balance has driven the price beyond what any sample is worth, only first samples are drawn. What must not be
here: clocks, questions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class TokenPrice:
    """The machine; JSON-ready by its fields.

    Attributes:
        target: Tokens that a question may take on average.
        balance: Tokens spent beyond what came in, in questions' targets.
        gain: How much one question's target moves the logarithm of the price.
        anchor: Price times ``target`` at a balance of 0: a sample's typical gain, over its part of a question.
    """

    target: float
    balance: float = 0.0
    gain: float = 0.1
    anchor: float = 0.1

    @property
    def price(self) -> float:
        """Gain a token that a sample must bring now."""
        return self.anchor / self.target * math.exp(min(max(self.gain * self.balance, -30.0), 30.0))

    def arrived(self) -> None:
        """A question came and brought its target."""
        self.balance -= 1.0

    def spent(self, tokens: int) -> None:
        """A sample took tokens."""
        self.balance += tokens / self.target
