"""How long an answer will be: distributions of past lengths by key, route and model, and what remains of a running one.

Lengths are counted in buckets of a twentieth of an octave's width and more, so that each distribution takes bounded
memory. Answers that a limit cut off are known only to be at least so long; they count as such (the product-limit
estimate of Kaplan and Meier), so that a limit does not teach its own value. Old counts fade. What must not be here:
requests in flight, decisions.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PER_OCTAVE = 20
_LONGEST = 1 << 20


def _edges() -> tuple[int, ...]:
    """Upper ends of the buckets: every length up to 29, then 20 an octave."""
    edges: list[int] = []
    step = 0
    while not edges or edges[-1] < _LONGEST:
        edge = max(math.ceil(2 ** (step / _PER_OCTAVE)), edges[-1] + 1 if edges else 1)
        if not edges or 2 ** (step / _PER_OCTAVE) > edges[-1]:
            edges.append(edge)
        step += 1
    return tuple(edges)


EDGES = _edges()
"""Bucket ``i`` holds the lengths above ``EDGES[i - 1]`` up to ``EDGES[i]``."""


class Lengths:
    """One distribution.

    Args:
        most: Weight of all answers together beyond which all counts are halved, so that the past fades.
    """

    __slots__ = ("_cut", "_ended", "_most", "_survival", "_weight")

    def __init__(self, most: float = 4096) -> None:
        self._most = most
        self._ended: dict[int, float] = {}
        self._cut: dict[int, float] = {}
        self._weight = 0.0
        self._survival: tuple[list[int], list[float], list[float]] | None = None

    @property
    def weight(self) -> float:
        """Answers seen, faded."""
        return self._weight

    def observe(self, tokens: int, *, cut: bool = False) -> None:
        """An answer was over.

        Args:
            tokens: Its length.
            cut: Whether a limit, a rule or the client ended it, so that it would have been longer.
        """
        bucket = _bucket(tokens)
        counts = self._cut if cut else self._ended
        counts[bucket] = counts.get(bucket, 0.0) + 1
        self._weight += 1
        self._survival = None
        if self._weight > self._most:
            self._fade()

    def _fade(self) -> None:
        for counts in (self._ended, self._cut):
            for bucket in list(counts):
                counts[bucket] /= 2
                if counts[bucket] < 1 / 64:
                    del counts[bucket]
        self._weight = sum(self._ended.values()) + sum(self._cut.values())

    def surviving(self, tokens: int) -> float:
        """Weight of the answers that are known to have been longer than so many tokens."""
        return self._standing(tokens)[2]

    def quantile(self, quantile: float, generated: int = 0) -> int | None:
        """The length that an answer of ``generated`` tokens so far will not exceed, with this probability.

        The probability is held with the finite number of answers taken into account: of n answers the one of rank
        ``ceil((n + 1) * quantile)`` counts. Within a bucket lengths are taken as evenly spread.

        Returns:
            The length, above ``generated``; None where the answers seen do not reach that far.
        """
        buckets, survival, _ = self._curve()
        start, share, weight = self._standing(generated)
        if weight <= 0:
            return None
        target = share * (1 - quantile * (1 + 1 / weight))
        for index in range(start, len(buckets)):
            if survival[index] <= target + 1e-12:
                before = survival[index - 1] if index else 1.0
                low, high = _extent(buckets[index])
                part = (before - target) / (before - survival[index]) if before > survival[index] else 1.0
                return max(math.ceil(low + min(part, 1.0) * (high - low)), generated + 1)
        return None

    def mean(self, generated: int = 0) -> float | None:
        """The mean length of answers longer than ``generated``; None where none was seen.

        Where the longest were cut off, what lies beyond is not known and the mean is that up to there.
        """
        buckets, survival, _ = self._curve()
        start, share, weight = self._standing(generated)
        if weight <= 0 or share <= 0:
            return None
        before, total = share, 0.0
        for index in range(start, len(buckets)):
            low, high = _extent(buckets[index])
            total += (before - survival[index]) * (max(low, generated) + 1 + high) / 2
            before = survival[index]
        return (total + before * EDGES[buckets[-1]]) / share

    def _standing(self, generated: int) -> tuple[int, float, float]:
        """Where an answer of so many tokens stands: its bucket's place, the share that got so far, and its weight."""
        buckets, survival, at_risk = self._curve()
        index = bisect_left(buckets, _bucket(generated)) if generated > 0 else 0
        if index >= len(buckets):
            return index, 0.0, 0.0
        share, weight = survival[index - 1] if index else 1.0, at_risk[index]
        low, high = _extent(buckets[index])
        passed = (generated - low) / (high - low)
        if passed > 0:
            share -= (share - survival[index]) * passed
            later = at_risk[index + 1] if index + 1 < len(at_risk) else 0.0
            weight -= (weight - later) * passed
        return index, share, weight

    def _curve(self) -> tuple[list[int], list[float], list[float]]:
        """Buckets that hold anything, the share that survives each, and the weight still at risk before each."""
        if self._survival is None:
            buckets = sorted(self._ended.keys() | self._cut.keys())
            survival: list[float] = []
            at_risk: list[float] = []
            left, share = self._weight, 1.0
            for bucket in buckets:
                at_risk.append(left)
                ended = self._ended.get(bucket, 0.0)
                share *= max(1 - ended / left, 0.0) if left > 0 else 0.0
                survival.append(share)
                left -= ended + self._cut.get(bucket, 0.0)
            self._survival = buckets, survival, at_risk
        return self._survival

    def to_json(self) -> dict[str, Any]:
        """The distribution as JSON-ready values."""
        return {
            "ended": {str(EDGES[bucket]): count for bucket, count in sorted(self._ended.items())},
            "cut": {str(EDGES[bucket]): count for bucket, count in sorted(self._cut.items())},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Mapping[str, float]], most: float = 4096) -> Lengths:
        """What ``to_json`` gave."""
        lengths = cls(most)
        for counts, stored in ((lengths._ended, record["ended"]), (lengths._cut, record["cut"])):
            for edge, count in stored.items():
                bucket = _bucket(int(edge))
                counts[bucket] = counts.get(bucket, 0.0) + float(count)
        lengths._weight = sum(lengths._ended.values()) + sum(lengths._cut.values())
        return lengths


def _extent(bucket: int) -> tuple[int, int]:
    """The lengths of a bucket: above the first, up to the second."""
    return EDGES[bucket - 1] if bucket else 0, EDGES[bucket]


def _bucket(tokens: int) -> int:
    index = bisect_right(EDGES, tokens - 1)
    return min(index, len(EDGES) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """What remains of an answer.

    Attributes:
        tokens: Tokens still to come.
        source: Which distribution told: ``key``, ``route``, ``model``, ``prior`` or ``limit``.
        weight: Answers that it rests on.
    """

    tokens: int
    source: str
    weight: float


class LengthBook:
    """Distributions by key, route and model, the most specific with enough answers first.

    Args:
        enough: Answers longer than what is generated so far that a distribution must have seen.
        most_books: Distributions kept; the one that was used longest ago goes first.
        prior: What is thought of answers before any was seen.
    """

    __slots__ = ("_books", "_enough", "_most_books", "_prior")

    def __init__(self, *, enough: int = 30, most_books: int = 2048, prior: Lengths | None = None) -> None:
        self._enough = enough
        self._most_books = most_books
        self._prior = prior
        self._books: OrderedDict[tuple[str, str], Lengths] = OrderedDict()

    def observe(self, *, key: str, route: str, model: str, tokens: int, cut: bool = False) -> None:
        """An answer was over; see ``Lengths.observe``."""
        for name in _names(key, route, model):
            book = self._books.pop(name, None) or Lengths()
            book.observe(tokens, cut=cut)
            self._books[name] = book
        while len(self._books) > self._most_books:
            self._books.popitem(last=False)

    def remaining(
        self, *, key: str, route: str, model: str, limit: int, generated: int = 0, quantile: float = 0.9
    ) -> Remaining:
        """Tokens still to come that an answer will not exceed with this probability.

        Args:
            key: Whose request it is.
            route: Where it came in.
            model: Who answers.
            limit: Tokens that it may generate in all; no answer is longer.
            generated: Tokens generated so far.
            quantile: The probability.
        """
        left = max(limit - generated, 0)
        for source, book in self._sources(key, route, model, generated):
            told = book.quantile(quantile, generated)
            if told is None:
                break  # what is known best does not reach so far: only the limit holds
            return Remaining(tokens=min(told - generated, left), source=source, weight=book.surviving(generated))
        return Remaining(tokens=left, source="limit", weight=0.0)

    def mean_remaining(self, *, key: str, route: str, model: str, limit: int, generated: int = 0) -> Remaining:
        """Tokens still to come on average, as far as the limit lets them."""
        left = max(limit - generated, 0)
        for source, book in self._sources(key, route, model, generated):
            mean = book.mean(generated)
            if mean is None:
                break
            tokens = min(max(math.ceil(mean - generated), 1), left)
            return Remaining(tokens=tokens, source=source, weight=book.surviving(generated))
        return Remaining(tokens=left, source="limit", weight=0.0)

    def _sources(self, key: str, route: str, model: str, generated: int) -> Iterator[tuple[str, Lengths]]:
        for name in _names(key, route, model):
            book = self._books.get(name)
            if book is not None and book.surviving(generated) >= self._enough:
                yield name[0], book
        if self._prior is not None:
            yield "prior", self._prior

    def to_json(self) -> dict[str, Any]:
        """All distributions as JSON-ready values."""
        return {"books": [[*name, book.to_json()] for name, book in self._books.items()]}

    def load_json(self, record: Mapping[str, Any]) -> None:
        """Take over what ``to_json`` gave; distributions of the same names are replaced."""
        for kind, name, stored in record["books"]:
            self._books[kind, name] = Lengths.from_json(stored)
        while len(self._books) > self._most_books:
            self._books.popitem(last=False)


def unknown_lengths(shortest: int = 32, longest: int = 4096) -> Lengths:
    """What is thought of answers before any was seen: every order of magnitude within the bounds is equally likely.

    Args:
        shortest: Least length, in tokens; above 29, from where on all buckets are equally wide in logarithms.
        longest: Greatest length.
    """
    lengths = Lengths()
    for edge in EDGES:
        if shortest <= edge <= longest:
            lengths.observe(edge)
    return lengths


def _names(key: str, route: str, model: str) -> tuple[tuple[str, str], ...]:
    """Names of the distributions that an answer belongs to, the most specific first."""
    return ("key", f"{key}\n{route}\n{model}"), ("route", f"{route}\n{model}"), ("model", model)


@dataclass(slots=True)
class Coverage:
    """How often predicted lengths held.

    Attributes:
        held: Answers no longer than predicted.
        answers: Answers in all.
    """

    held: int = 0
    answers: int = 0

    def observe(self, predicted: int, actual: int) -> None:
        """An answer was over."""
        self.answers += 1
        self.held += actual <= predicted

    def interval(self) -> tuple[float, float, float]:
        """The share that held, and its 95 % interval (Wilson): ``(share, low, high)``."""
        if not self.answers:
            return 0.0, 0.0, 1.0
        n, share, z = self.answers, self.held / self.answers, 1.959964
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return share, middle - half, middle + half
