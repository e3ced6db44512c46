"""No rule: draw all samples and take the majority."""

from __future__ import annotations

from suffice.policies.sampling.rule import VoteRule


class DrawAll(VoteRule):
    """Launches everything at once and never stops: the full vote."""

    name = "all"
    at_once = True
    plain = False  # Not even a decided vote ends it: whoever asks for all wants all.
    priced = False

    def fewest(self, limit: int) -> int:
        """It never stops, so there is nothing to wait for."""
        return limit
