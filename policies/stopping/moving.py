"""Exponentially weighted mean and variance of a short series."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class MovingMoments:
    """Mean and variance in which a value's weight falls by ``1 - rate`` with each later value.

    The update is ``m += a (x - m)``, ``v = (1 - a)(v + a (x - m_old)^2)`` (West's incremental form), with the rate
    ``a`` replaced by ``a / (1 - (1 - a)^n)`` for the n-th value: the weights then sum to one from the first value on,
    where a start from zero would call any short series calm.

    Attributes:
        rate: Weight of the newest value in a long series, above 0 and at most 1.
        count: Values so far.
        mean: Their weighted mean; 0 before the first.
        variance: Their weighted variance around it; 0 before the second.
    """

    rate: float
    count: int = 0
    mean: float = 0.0
    variance: float = 0.0
    _old: float = 1.0
    """What the weights of all earlier values would sum to in a series without beginning."""

    def add(self, value: float) -> None:
        """Take in one finite value. O(1)."""
        self.count += 1
        self._old *= 1.0 - self.rate
        weight = self.rate / (1.0 - self._old)
        difference = value - self.mean
        self.mean += weight * difference
        self.variance = (1.0 - weight) * (self.variance + weight * difference * difference)
