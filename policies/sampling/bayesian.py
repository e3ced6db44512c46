"""Stop when the leader will very probably win, judged by what earlier votes of the same kind taught."""

from __future__ import annotations

from suffice.policies.sampling.curtailment import Curtailment
from suffice.policies.sampling.prior import Prior, forecast

ENOUGH_LEARNED = 200
"""Full votes from which on a learned prior is trusted; with fewer the rule is curtailment."""


class Bayesian(Curtailment):
    """Curtailment with a learned prior on (leader, second, rest) in place of a conservative one.

    Looks at three counts only, which loses little (arXiv 2602.05395, L = 3). Its risk is that of traffic like the
    traffic the prior was learned from; on other traffic it promises nothing.

    Args:
        delta: Probability of another winner that is put up with when stopping.
        pseudo_votes: Pseudo-votes of curtailment, which stands in while too little was learned.
        most: Samples drawn at most.
        prior: What was learned, if anything.
    """

    name = "bayesian"

    def __init__(self, *, delta: float, pseudo_votes: float, most: int, prior: Prior | None) -> None:
        super().__init__(delta=delta, pseudo_votes=pseudo_votes, most=most)
        trusted = prior is not None and prior.learned >= ENOUGH_LEARNED
        self._forecast = forecast(prior, most) if prior is not None and trusted else None

    @property
    def falls_back(self) -> bool:
        """Whether too little was learned, so that this is plain curtailment."""
        return self._forecast is None

    def _safe(self, lead: int, second: int, left: int) -> bool:
        if self._forecast is None:
            return super()._safe(lead, second, left)
        return lead > 0 and self._forecast.chance(lead, second, left) >= 1 - self._delta

    @property
    def confidence(self) -> float | None:
        """Probability that the leader wins the full vote."""
        if self._forecast is None or self.tally.leader is None:
            return super().confidence
        return self._forecast.chance(self.tally.lead, self.tally.second, self.left)
