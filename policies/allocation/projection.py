"""The projected peak: the most memory that the requests in flight will hold before each has ended.

All running requests grow by one token a step, and each gives everything back at its end. So the peak falls just
before one of the ends: with remaining lengths ``r`` sorted downwards and ``h`` held, ``M* = max_i (h_1 + .. + h_i + i
* r_i)`` (Past-Future scheduling, arXiv 2507.10150).

Time moves all remaining lengths alike. Against a running count of steps, a request's end stays where it is, and so
does what it holds less the steps gone by; with ``b`` for the latter and ``e`` for the end, ``M* = max_i (b_1 + .. +
b_i + i * e_i)`` does not change while time passes. The requests are kept sorted by their ends, in chunks; a chunk is
summed up by the upper envelope of the lines that tell its own maximum as a function of how many requests end later. A
change rebuilds one chunk, a question looks at each chunk once: both grow with the square root of the requests, and
the answer is exact. What must not be here: predictions, blocks of particular models, decisions.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from math import isqrt

_LEAST = 32
"""Entries that a chunk may always have; beyond, it is cut in two at the square root of all."""

Entry = tuple[int, int, int, int]
"""Its end in steps, its number, what it holds less its growth so far, and its growth a step (0 or 1)."""


@dataclass(slots=True)
class _Chunk:
    """Some entries with neighbouring ends."""

    entries: list[Entry]
    base: int = 0
    growth: int = 0
    first: tuple[int, int] = (0, 0)
    starts: list[int] = field(default_factory=list)
    """From how many later requests on each line of the envelope is the highest."""
    lines: list[tuple[int, int]] = field(default_factory=list)
    """Each as its value with no later request, and its slope: the end that it stands for."""

    def __post_init__(self) -> None:
        self.sum_up()

    def sum_up(self) -> None:
        """Rebuild the sums and the envelope."""
        self.first = self.entries[0][:2]
        base = growth = 0
        lines: list[tuple[int, int]] = []
        slope = None
        for end, _, held, grows in reversed(self.entries):
            base += held
            growth += grows
            if end == slope:
                # Of equal ends the line that counts them all is the highest.
                lines.pop()
            lines.append((base + growth * end, end))
            slope = end
        self.base, self.growth = base, growth
        # From the flattest line to the steepest, keep those that are the highest somewhere.
        starts: list[int] = []
        hull: list[tuple[int, int]] = []
        for value, slope in reversed(lines):
            start = 0
            while hull:
                last_value, last_slope = hull[-1]
                # The first count of later requests at which the steeper line is no lower.
                start = (last_value - value + slope - last_slope - 1) // (slope - last_slope)
                if start > starts[-1]:
                    break
                hull.pop()
                starts.pop()
                start = 0
            hull.append((value, slope))
            starts.append(start)
        self.starts, self.lines = starts, hull


class Projection:
    """What is in flight, as numbers. All units are tokens, and steps of decoding."""

    __slots__ = ("_chunks", "_entries", "_firsts", "_next")

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []
        self._firsts: list[tuple[int, int]] = []
        self._entries: dict[int, Entry] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def insert(self, now: int, held: int, remaining: int, *, grows: bool = True) -> int:
        """Something starts to hold memory.

        Args:
            now: The step.
            held: Tokens that it holds now.
            remaining: Steps until it gives them back, at least 0.
            grows: Whether it takes one token more each step.

        Returns:
            Its number, to remove it with.
        """
        number = self._next
        self._next += 1
        entry = (now + max(remaining, 0), number, held - now if grows else held, int(grows))
        self._entries[number] = entry
        if not self._chunks:
            self._chunks.append(_Chunk([entry]))
            self._firsts.append(entry[:2])
            return number
        place = max(bisect_right(self._firsts, entry[:2]) - 1, 0)
        chunk = self._chunks[place]
        insort(chunk.entries, entry)
        if len(chunk.entries) > max(_LEAST, isqrt(len(self._entries))):
            half = len(chunk.entries) // 2
            later = _Chunk(chunk.entries[half:])
            del chunk.entries[half:]
            self._chunks.insert(place + 1, later)
            self._firsts.insert(place + 1, later.first)
        chunk.sum_up()
        self._firsts[place] = chunk.first
        return number

    def remove(self, number: int) -> None:
        """It gives back what it holds. Idempotent."""
        entry = self._entries.pop(number, None)
        if entry is None:
            return
        place = max(bisect_right(self._firsts, entry[:2]) - 1, 0)
        chunk = self._chunks[place]
        del chunk.entries[bisect_left(chunk.entries, entry)]
        if chunk.entries:
            chunk.sum_up()
            self._firsts[place] = chunk.first
        else:
            del self._chunks[place]
            del self._firsts[place]

    def ends_before(self, now: int) -> list[int]:
        """Numbers of those whose end has passed though they are still here; a new end is due for each."""
        late: list[int] = []
        for chunk in self._chunks:
            for end, number, _, _ in chunk.entries:
                if end >= now:
                    return late
                late.append(number)
        return late

    def end(self, number: int) -> int:
        """The step at which it is projected to end."""
        return self._entries[number][0]

    def peak(self) -> int:
        """``M*``: tokens held at the projected peak; 0 with nothing in flight."""
        base = growth = highest = 0
        for chunk in reversed(self._chunks):
            value, slope = chunk.lines[bisect_right(chunk.starts, growth) - 1]
            point = base + value + growth * slope
            highest = max(highest, point)
            base += chunk.base
            growth += chunk.growth
        return highest

    def held(self, now: int) -> int:
        """Tokens held now."""
        return sum(chunk.base + chunk.growth * now for chunk in self._chunks)


def reference_peak(flight: list[tuple[int, int, bool]]) -> int:
    """``M*`` by its definition, in time ``n log n``: the measure that ``Projection`` is tested against.

    Args:
        flight: Of each: tokens held, remaining steps, whether it grows.
    """
    highest = base = growth = 0
    for held, remaining, grows in sorted(flight, key=lambda each: -each[1]):
        base += held
        growth += grows
        highest = max(highest, base + growth * remaining)
    return highest
