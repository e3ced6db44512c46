"""How long to go on with what fails: some pauses, each longer than the one before, then no more.

Failures that come while a pause lasts are of the same trouble and do not count again, so that many streams that break
together are one failure. What must not be here: what failed, and clocks.
"""

from __future__ import annotations

MOST_FAILURES = 4
"""Failures in a row after which nothing more is tried."""
FIRST_PAUSE_S = 0.1
GROWTH = 2.0


class Patience:
    """Counts the troubles of one upstream, or of one question, as a batch meets them.

    Args:
        first_pause_s: Seconds of the first pause.

    Attributes:
        resumes_at: Moment from which to try again, in seconds of the caller's clock.
        over: Whether there were too many failures in a row.
    """

    __slots__ = ("_failures", "_first_pause_s", "over", "resumes_at")

    def __init__(self, first_pause_s: float = FIRST_PAUSE_S) -> None:
        self._first_pause_s = first_pause_s
        self._failures = 0
        self.resumes_at = 0.0
        self.over = False

    def failed(self, at: float) -> None:
        """Something failed. Once it is over, it stays over."""
        if at < self.resumes_at:
            return
        self._failures += 1
        self.over = self.over or self._failures >= MOST_FAILURES
        self.resumes_at = at + self._first_pause_s * GROWTH ** (self._failures - 1)

    def succeeded(self) -> None:
        """Something came to its end, so that the next failure is the first in a row."""
        self._failures = 0
