"""The first few samples to finish decide, whatever their place in launch order (short-m@k, arXiv 2505.17813)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.policies.sampling.rule import VoteRule

if TYPE_CHECKING:
    from suffice.policies.events import Voted


class FirstFinish(VoteRule):
    """Launches all samples at once and takes the majority of the first ``m`` that come with an answer.

    This is another estimand than the full vote: what finishes first is shorter than the rest, on purpose. So votes come
    as they arrive, and a decided full vote does not end it. With all samples launched there is none left to price.

    Args:
        m: Answers to wait for.
        most: Samples launched.
    """

    name = "first_finish"
    order = "arrival"
    at_once = True
    plain = False
    priced = False

    def __init__(self, *, m: int, most: int) -> None:
        super().__init__(most=most)
        self._m = m
        self._answered = 0

    def _enough(self, event: Voted) -> bool:
        self._answered += event.answer is not None
        return self._answered >= self._m

    def fewest(self, limit: int) -> int:
        """Answers that are missing."""
        return max(1, min(limit, self._m - self._answered))
