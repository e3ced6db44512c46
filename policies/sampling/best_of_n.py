"""Best of N by a verifier's score: stop when one more sample is not worth its tokens (Weitzman's index).

With a reward distribution F and a cost c a sample, the optimal policy draws while the best reward so far is below the
reservation value z that solves ``E[(X - z)+] = c`` (Weitzman 1979). F is not known, so its upper tail is fitted with an
exponential and z taken with an upper confidence bound on the tail's scale (UCB-Pandora, arXiv 2510.01394).
"""

from __future__ import annotations

import heapq
from math import inf, isfinite, log, sqrt
from typing import TYPE_CHECKING

from suffice.policies.allocation.effort import PRICE
from suffice.policies.events import Event, Voted
from suffice.policies.sampling.price import PRICE_EVENTS, SamplePrice
from suffice.policies.sampling.rule import VoteRule

if TYPE_CHECKING:
    from suffice.policies.decisions import RuleDecision


class _UpperHalf:
    """The larger half of the scores so far, with its sum; O(log n) a score."""

    __slots__ = ("_lower", "_upper", "total")

    def __init__(self) -> None:
        self._upper: list[float] = []
        self._lower: list[float] = []
        self.total = 0.0

    def add(self, score: float) -> None:
        # A score enters the upper half by way of the lower one, so that the halves stay ordered.
        if len(self._upper) <= len(self._lower):
            entering = -heapq.heappushpop(self._lower, -score)
            heapq.heappush(self._upper, entering)
            self.total += entering
        else:
            leaving = heapq.heappushpop(self._upper, score)
            heapq.heappush(self._lower, -leaving)
            self.total += score - leaving

    @property
    def size(self) -> int:
        return len(self._upper)

    @property
    def floor(self) -> float:
        return self._upper[0]

    @property
    def share(self) -> float:
        return len(self._upper) / (len(self._upper) + len(self._lower))


class BestOfN(VoteRule):
    """Draws while the best score is below the reservation value of one more sample; the best score wins.

    Samples with an answer but no score take part only where none has a score; then the first answer wins.

    What a sample costs is its own ``cost`` and, where prices are told, what it takes at them: a point of the score is
    then taken to be worth as much as a wrong answer turned right, so scores should run from 0 to 1 there.

    Args:
        cost: Price of a thousand generated tokens, in units of the score.
        least: Scored samples before it may stop, since a tail must be seen to be fitted.
        optimism: Standard errors by which the tail's scale is raised; 0 trusts the fit.
        most: Samples drawn at most.
    """

    name = "best_of_n"
    plain = False
    priced = False  # Its own way: the odds that a vote is turned say nothing of scores.
    scored = True
    listens = frozenset({Voted, *PRICE_EVENTS})

    def __init__(self, *, cost: float, least: int, optimism: float, most: int) -> None:
        super().__init__(most=most)
        self._cost = cost
        self._least = least
        self._optimism = optimism
        self._half = _UpperHalf()
        self._price = SamplePrice()
        self._scored = 0
        self._best: float | None = None
        self._best_sample: int | None = None

    def observe(self, event: Event, /) -> RuleDecision:
        """Take in one event; O(log n) a score."""
        if self._stop is None:
            self._price.take(event)
        return super().observe(event)

    def _count(self, event: Voted) -> None:
        super()._count(event)
        score = event.score
        if score is None or not isfinite(score) or event.answer is None:
            return
        self._scored += 1
        self._half.add(score)
        if self._best is None or score > self._best:
            self._best, self._best_sample = score, event.sample

    def _enough(self, event: Voted) -> bool:  # noqa: ARG002
        if self._best is None or self._scored < self._least:
            return False
        return self._best >= self._reservation(self._own_cost + self._price.cost)

    def _ended_by(self) -> str:
        return self.name if self._best is None or self._best >= self._reservation(self._own_cost) else PRICE

    @property
    def _own_cost(self) -> float:
        return self._cost * self._price.tokens / self._price.samples / 1000

    @property
    def reservation_value(self) -> float | None:
        """The score from which on one more sample costs more than it is expected to gain; None before any score."""
        return None if self._best is None else self._reservation(self._own_cost + self._price.cost)

    def _reservation(self, cost: float) -> float:
        """The reservation value where one more sample costs ``cost``, in units of the score.

        With a tail ``P(X > x) = share * exp(-(x - floor) / scale)`` above the floor, ``E[(X - z)+]`` is
        ``scale * share * exp(-(z - floor) / scale)``, so ``z = floor + scale * log(share * scale / cost)``.
        """
        half = self._half
        above = half.total - half.size * half.floor
        # The floor is a score itself, so one excess fewer than scores was seen.
        scale = above / max(1, half.size - 1) * (1 + self._optimism / sqrt(half.size))
        if scale <= 0:
            return half.floor  # All scores alike: nothing better is to be expected.
        if not cost > 0:
            return inf
        ratio = half.share * scale / cost
        return half.floor + scale * log(ratio) if ratio > 0 else -inf

    def fewest(self, limit: int) -> int:
        """What is missing of the least number; after that any sample may be the last."""
        return max(1, min(limit, self._least - self._scored))

    @property
    def winner(self) -> int | None:
        """The sample of the best score; without scores the first with an answer."""
        if self._best_sample is not None:
            return self._best_sample
        firsts = [self.tally.first_of(answer) for answer in self.tally.answers]
        return min(firsts, default=None)
