"""The lower threshold: giving up a thought that does not get anywhere.

An upper threshold ends thoughts whose answer is good enough. This one ends those whose answer is still poor when it
should be good by now. It rises along a sigmoid of how much of the cap is used, so that early doubt costs nothing (the
parametric lower threshold of Conformal Thinking, arXiv 2602.03814). It is off until calibration has set it: giving up
loses every answer that would have come later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from suffice.policies.rules import Parameter

HOPELESS = "hopeless"
"""The rule's name in receipts: a thought that was given up is not one that was finished early."""

HOPELESS_PARAMETERS = {
    "hopeless": Parameter(default=None, least=0.0, most=1.0, what="confidence that a thought should have at its cap"),
    "hopeless_middle": Parameter(default=0.7, least=0.0, most=1.0, what="share of the cap where half of it is asked"),
    "hopeless_slope": Parameter(default=12.0, least=0.0, most=1000.0, what="how steeply what is asked rises there"),
}


@dataclass(frozen=True, slots=True)
class Hopeless:
    """``high * sigmoid(slope * (share - middle))``, the confidence asked at a share of the cap.

    Attributes:
        high: What is asked at the end; None never gives up.
        middle: Share of the cap at which half of it is asked.
        slope: Steepness.
        cap: Tokens of the longest thought; without one there are no shares, and nothing is given up.
    """

    high: float | None
    middle: float
    slope: float
    cap: int | None

    def asked_at(self, position: int) -> float:
        """The confidence below which a thought of ``position`` tokens is given up. Never falls with ``position``."""
        if self.high is None or not self.cap:
            return 0.0
        # The share is cut at 1, and the slope at 1000: the exponent stays where exp is finite.
        exponent = self.slope * (self.middle - min(max(position, 0) / self.cap, 1.0))
        return self.high / (1.0 + math.exp(min(exponent, 700.0)))

    def gives_up(self, position: int, confidence: float | None) -> bool:
        """Whether a thought is hopeless whose probe at ``position`` had this confidence; never where it is unknown."""
        return confidence is not None and confidence < self.asked_at(position)
