"""DeepConf: end samples that lose their confidence, and weigh the votes of the others by it (arXiv 2508.15260).

A sample's confidence is a sliding mean, over a window of its tokens, of each position's token confidence (minus the
mean log-probability of the most likely tokens, in nats). The lowest such mean of each warm-up sample sets a
threshold; a later sample whose sliding mean falls below it is ended and has no vote. What must not be here: any other
rule.
"""

from __future__ import annotations

from collections import deque
from math import ceil, isfinite
from typing import TYPE_CHECKING

from suffice.policies.decisions import CONTINUE, Finish, RuleDecision, StopSample
from suffice.policies.events import Chunk, Event, Voted
from suffice.policies.sampling.rule import VoteRule
from suffice.policies.stopping.family import Need

if TYPE_CHECKING:
    from collections.abc import Iterable


class _Group:
    """Sliding mean of one sample's token confidences, and the lowest it was with the window full."""

    __slots__ = ("_sum", "_values", "lowest")

    def __init__(self, window: int) -> None:
        self._values: deque[float] = deque(maxlen=window)
        self._sum = 0.0
        self.lowest: float | None = None

    def take(self, values: Iterable[float]) -> None:
        window = self._values
        for value in values:
            if not isfinite(value):
                continue
            if len(window) == window.maxlen:
                self._sum -= window[0]
            window.append(value)
            self._sum += value
            if len(window) == window.maxlen:
                mean = self._sum / len(window)
                if self.lowest is None or mean < self.lowest:
                    self.lowest = mean

    @property
    def confidence(self) -> float | None:
        """The lowest sliding mean; of a sample shorter than the window, its mean; None before the first token."""
        if self.lowest is not None:
            return self.lowest
        return self._sum / len(self._values) if self._values else None


class Confidence(VoteRule):
    """Confidence-weighted voting that ends weak samples, and the request once the weighted vote agrees.

    A vote weighs its sample's lowest group confidence, as far as it is known from ``Chunk.confidences`` or the
    ``Voted`` event, and 1 otherwise. Where nothing is known of any, this is a plain vote with a share to reach.

    Args:
        warm_up: Samples that run to their end and set the threshold.
        window: Tokens of a group.
        eta: Share of warm-up samples, in percent, that the threshold would have kept: 90 ends few samples, 10 most.
        top: Most likely tokens whose log-probabilities make a token's confidence; what the driver must ask upstream.
        consensus: Share of the weight at which the leader's lead is enough.
        most: Samples drawn at most.
    """

    name = "confidence"
    listens = frozenset({Voted, Chunk})
    plain = False
    needs = frozenset({Need.TOP_LOGPROBS})

    def __init__(self, *, warm_up: int, window: int, eta: float, top: int, consensus: float, most: int) -> None:
        super().__init__(most=most)
        self.top = top
        self.threshold: float | None = None
        """Group confidence below which a sample is ended; None while the warm-up lasts or taught nothing."""
        self._warm_up = warm_up
        self._window = window
        self._eta = eta
        self._consensus = consensus
        self._groups: dict[int, _Group] = {}
        self._ended: set[int] = set()
        self._lows: list[float] = []
        self._weights: dict[int, float] = {}
        self._total = 0.0
        self._heaviest: int | None = None

    def observe(self, event: Event, /) -> RuleDecision:
        """Take in one event; O(tokens of the chunk)."""
        if self._stop is None and isinstance(event, Chunk):
            return self._follow(event)
        return super().observe(event)

    def _follow(self, event: Chunk) -> RuleDecision:
        sample = event.sample
        if sample in self._ended:
            return StopSample(sample=sample, rule=self.name, finish=Finish.STOP)
        if not event.confidences:
            return CONTINUE
        group = self._groups.get(sample)
        if group is None:
            group = self._groups[sample] = _Group(self._window)
        group.take(event.confidences)
        low = group.lowest
        if self.threshold is None or sample < self._warm_up or low is None or low >= self.threshold:
            return CONTINUE
        self._ended.add(sample)
        return StopSample(sample=sample, rule=self.name, finish=Finish.STOP)

    def _count(self, event: Voted) -> None:
        group = self._groups.pop(event.sample, None)
        answer = None if event.sample in self._ended else event.answer
        self.tally.vote(event.sample, answer)
        low = event.confidence if group is None or group.confidence is None else group.confidence
        if low is not None and not isfinite(low):
            low = None
        if low is not None and self.tally.drawn <= self._warm_up:
            self._lows.append(low)
        if answer is not None:
            self._weigh(answer, 1.0 if low is None else max(low, 0.0))
        if self.tally.drawn == self._warm_up and self._lows:
            self._lows.sort()
            # Nearest rank: the smallest low below which at most (100 - eta) percent of the warm-up lie.
            rank = ceil((100 - self._eta) / 100 * len(self._lows))
            self.threshold = self._lows[min(max(rank - 1, 0), len(self._lows) - 1)]

    def _weigh(self, answer: int, weight: float) -> None:
        own = self._weights[answer] = self._weights.get(answer, 0.0) + weight
        self._total += weight
        if self._heaviest is None or own > self._weights[self._heaviest]:
            self._heaviest = answer

    def _enough(self, event: Voted) -> bool:  # noqa: ARG002
        share = self.confidence
        return self.tally.drawn >= self._warm_up and share is not None and share >= self._consensus

    def fewest(self, limit: int) -> int:
        """The rest of the warm-up; then votes of mean weight that the leader would need."""
        warming = self._warm_up - self.tally.drawn
        if warming > 0 or self._heaviest is None or self._total <= 0:
            return max(1, min(limit, warming)) if warming > 0 else limit
        mean = self._total / sum(self.tally.answers.values())
        missing = self._consensus * self._total - self._weights[self._heaviest]
        gain = (1 - self._consensus) * mean
        return limit if gain <= 0 or missing > gain * limit else max(1, min(limit, ceil(missing / gain)))

    @property
    def winner(self) -> int | None:
        """The first sample in launch order with the answer of most weight."""
        return None if self._heaviest is None else self.tally.first_of(self._heaviest)

    @property
    def confidence(self) -> float | None:
        """The leader's share of the weight."""
        if self._heaviest is None:
            return None
        return self._weights[self._heaviest] / self._total if self._total > 0 else 0.0
