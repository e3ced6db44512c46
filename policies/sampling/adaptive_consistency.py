"""Adaptive-Consistency: stop when the leader is very probably the more likely answer (arXiv 2305.11860)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.policies.sampling.odds import chance_of_lead, lead_table
from suffice.policies.sampling.rule import VoteRule, least_gain

if TYPE_CHECKING:
    from suffice.policies.events import Voted


class AdaptiveConsistency(VoteRule):
    """Stops once ``1 - I_{1/2}(lead + 1, second + 1) >= threshold``, the Beta criterion of the paper.

    It looks at the leader and the runner-up only and not at how many votes are left. Looked at after every vote, its
    threshold is no error rate: on a tie it names a winner far more often than ``1 - threshold`` suggests.

    Args:
        threshold: Posterior probability at which to stop.
        most: Samples drawn at most.
    """

    name = "adaptive_consistency"

    def __init__(self, *, threshold: float, most: int) -> None:
        super().__init__(most=most)
        self._needed = lead_table(most, threshold)

    def _enough(self, event: Voted) -> bool:  # noqa: ARG002
        needed = least_gain(self._needed, self.tally.second)
        return needed is not None and self.tally.lead >= max(needed, 1)

    def fewest(self, limit: int) -> int:
        """What the leader misses."""
        needed = least_gain(self._needed, self.tally.second)
        return limit if needed is None else max(1, min(limit, needed - self.tally.lead))

    @property
    def confidence(self) -> float | None:
        """The posterior probability that the leader is the more likely of the two."""
        return None if self.tally.leader is None else chance_of_lead(self.tally.lead, self.tally.second)
