"""Means with 95 % intervals, by resampling questions; one set of resamples for all, so that comparisons are paired.

Questions are the unit: permutations of one question say nothing about another, so more of them narrow the mean of a
question and not the number of questions. What must not be here: what is measured.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

RESAMPLES = 1000
_TAIL = 0.025


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and the percentile interval that holds 95 % of its resamples."""

    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """The three numbers by name."""
        return asdict(self)


class Bootstrap:
    """Resamples of a number of questions, drawn once.

    Args:
        questions: How many questions there are, at least 1.
        seed: Seed of the resampling.
        resamples: How many resamples.
    """

    def __init__(self, questions: int, seed: int, resamples: int = RESAMPLES) -> None:
        chance = random.Random(f"bootstrap/{seed}")  # noqa: S311 - a reproducible resampling, not a secret
        everyone = range(questions)
        self._picks = [chance.choices(everyone, k=questions) for _ in range(resamples)]

    def ratio(self, parts: Sequence[float], wholes: Sequence[float]) -> Interval | None:
        """The ratio of two totals over questions; None where the whole is nothing.

        Args:
            parts: A number for each question.
            wholes: Another one, not negative; with equal ones this is a mean.
        """
        if sum(wholes) <= 0:
            return None
        ratios = []
        for picks in self._picks:
            whole = sum(map(wholes.__getitem__, picks))
            if whole > 0:
                ratios.append(sum(map(parts.__getitem__, picks)) / whole)
        mean = sum(parts) / sum(wholes)
        if not ratios:
            return Interval(mean=mean, low=mean, high=mean)
        ratios.sort()
        last = len(ratios) - 1
        return Interval(mean=mean, low=ratios[round(_TAIL * last)], high=ratios[round((1 - _TAIL) * last)])
