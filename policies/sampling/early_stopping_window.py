"""Early-Stopping Self-Consistency: stop when a whole window of samples agrees (arXiv 2401.10480)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.policies.sampling.rule import VoteRule

if TYPE_CHECKING:
    from suffice.policies.events import Voted


class EarlyStoppingWindow(VoteRule):
    """Takes the votes in windows of a fixed size, one after another, and stops after one that is unanimous.

    The winner is the majority of all votes so far. A sample without an answer agrees with nobody.

    Args:
        window: Votes a window.
        most: Samples drawn at most.
    """

    name = "early_stopping_window"

    def __init__(self, *, window: int, most: int) -> None:
        super().__init__(most=most)
        self._window = window
        self._filled = 0
        self._answer: int | None = None
        self._unanimous = True

    def _enough(self, event: Voted) -> bool:
        if self._filled == 0:
            self._answer = event.answer
            self._unanimous = event.answer is not None
        elif event.answer != self._answer:
            self._unanimous = False
        self._filled += 1
        if self._filled < self._window:
            return False
        self._filled = 0
        return self._unanimous

    def fewest(self, limit: int) -> int:
        """The rest of the window, and another one where this one is split already."""
        rest = self._window - self._filled
        split = self._filled > 0 and not self._unanimous
        return max(1, min(limit, rest + self._window if split else rest))
