"""Stop when the full vote is already decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.policies.sampling.rule import VoteRule

if TYPE_CHECKING:
    from suffice.policies.events import Voted


class MajorityLock(VoteRule):
    """Stops once nobody can overtake the leader any more: ``lead - second >= left``.

    Equality suffices. Were every vote to come the runner-up's, it would only draw level, and the leader reached that
    count first, which breaks the tie. So the winner is that of the full vote on every sequence, without exception.
    """

    name = "majority_lock"

    def _enough(self, event: Voted) -> bool:  # noqa: ARG002
        tally = self.tally
        return tally.leader is not None and tally.lead - tally.second >= self.left

    def fewest(self, limit: int) -> int:
        """As many as the leader would need if it got them all: each one gains on both sides."""
        missing = self.left - (self.tally.lead - self.tally.second)
        return max(1, min(limit, (missing + 1) // 2))

    @property
    def confidence(self) -> float | None:
        """1 once the vote is decided; nothing is said before."""
        return 1.0 if self.stopped else None
