"""How long generations of a route are, and a length that all but a chosen share of them keep.

Split-conformal quantiles: of ``n`` past lengths and one new, all exchangeable, the new one is at most the
``ceil((n + 1)(1 - alpha))``-th smallest of the past with probability at least ``1 - alpha``, whatever their
distribution (Vovk et al.; Papadopoulos et al. 2002). What must not be here: what is done with a length.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class LengthQuantiles:
    """The last ``window`` lengths of one kind of generation.

    A generation that was cut did not show its length, only that it is longer than what was seen. It counts as longer
    than any that ended: leaving it out would call long generations rare because they were cut.

    Attributes:
        window: Lengths kept; older ones are forgotten, so that the quantiles follow the traffic.
    """

    window: int = 1024
    _recent: deque[float] = field(default_factory=deque)
    _sorted: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._recent)

    def add(self, tokens: int, *, ended: bool = True) -> None:
        """Take in a generation: its length if it ended by itself, or that it was cut. O(window)."""
        length = float(tokens) if ended else math.inf
        self._recent.append(length)
        insort(self._sorted, length)
        if len(self._recent) > self.window:
            self._sorted.pop(bisect_left(self._sorted, self._recent.popleft()))

    def upper(self, alpha: float, *, already: int = 0) -> int | None:
        """A length that a new generation keeps with probability at least ``1 - alpha``.

        Args:
            alpha: Share that may be longer, between 0 and 1.
            already: Tokens that the generation has already. The past generations that were longer than that are
                exchangeable with it, and the promise then holds among them.

        Returns:
            Tokens in all; None where the past is too short for such a promise (``n < 1/alpha - 1``), or where too many
            of it were cut.
        """
        begin = bisect_right(self._sorted, float(already)) if already > 0 else 0
        survivors = len(self._sorted) - begin
        # A hair below the product: (n + 1)(1 - alpha) that is whole must not be rounded up to the next.
        rank = math.ceil((survivors + 1) * (1.0 - alpha) - 1e-9)
        if not 0.0 < alpha < 1.0 or rank > survivors:
            return None
        length = self._sorted[begin + max(rank, 1) - 1]
        return None if math.isinf(length) else int(length)

    def to_json(self) -> dict[str, Any]:
        """The state as JSON-ready values, oldest length first; a cut generation is None."""
        return {"window": self.window, "lengths": [None if math.isinf(x) else int(x) for x in self._recent]}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> LengthQuantiles:
        """The state that ``to_json`` gave.

        Raises:
            KeyError: A part is missing.
            TypeError: A value is not a number.
        """
        quantiles = cls(state["window"])
        for length in state["lengths"]:
            quantiles.add(0 if length is None else length, ended=length is not None)
        return quantiles


@dataclass(slots=True)
class RouteLengths:
    """Past lengths of one route.

    Attributes:
        thoughts: Of thoughts.
        answers: Of answers.
    """

    thoughts: LengthQuantiles = field(default_factory=LengthQuantiles)
    answers: LengthQuantiles = field(default_factory=LengthQuantiles)

    def to_json(self) -> dict[str, Any]:
        """The state as JSON-ready values."""
        return {"thoughts": self.thoughts.to_json(), "answers": self.answers.to_json()}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> RouteLengths:
        """The state that ``to_json`` gave; raises as ``LengthQuantiles.from_json``."""
        return cls(LengthQuantiles.from_json(state["thoughts"]), LengthQuantiles.from_json(state["answers"]))
