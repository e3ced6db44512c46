"""When what the probes of one sample showed is enough to end its thought.

A criterion is the memory of one sample: it takes in each probe and tells whether the probes so far satisfy it. What
must not be here: when probes are taken, and what follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from suffice.policies.stopping.moving import MovingMoments

if TYPE_CHECKING:
    from suffice.policies.events import Probed


class Criterion(Protocol):
    """Memory of one sample's probes."""

    def satisfied_by(self, probe: Probed) -> bool:
        """Take in the next probe; whether the probes up to it are enough. O(1), total."""
        ...


@dataclass(slots=True)
class Converged:
    """The last ``window`` probes gave one and the same answer. A probe without an answer begins anew."""

    window: int
    _answer: int | None = None
    _streak: int = 0

    def satisfied_by(self, probe: Probed) -> bool:
        """Take in the next probe."""
        if probe.answer is None:
            self._streak = 0
        elif self._streak and probe.answer == self._answer:
            self._streak += 1
        else:
            self._streak = 1
        self._answer = probe.answer
        return self._streak >= self.window


@dataclass(slots=True)
class Confident:
    """The last probe gave an answer whose tokens' geometric mean probability is high enough (DEER)."""

    threshold: float

    def satisfied_by(self, probe: Probed) -> bool:
        """Take in the next probe."""
        return probe.answer is not None and probe.confidence is not None and probe.confidence >= self.threshold


@dataclass(slots=True)
class Settled:
    """The first answer token's entropy no longer moves: its moving variance fell below a threshold (EAT)."""

    rate: float
    variance: float
    least: int
    _moments: MovingMoments = field(init=False)

    def __post_init__(self) -> None:
        self._moments = MovingMoments(self.rate)

    def satisfied_by(self, probe: Probed) -> bool:
        """Take in the next probe; one without an entropy tells nothing."""
        if probe.entropy is None or not math.isfinite(probe.entropy):
            return False
        self._moments.add(probe.entropy)
        return self._moments.count >= self.least and self._moments.variance < self.variance


@dataclass(slots=True)
class Never:
    """Nothing is enough; for a rule that only gives up."""

    def satisfied_by(self, probe: Probed) -> bool:  # noqa: ARG002 - what every criterion is given
        """Take in the next probe."""
        return False


@dataclass(slots=True)
class ConvergedAndSure:
    """Equal answers, and the last of them confident or the entropy settled."""

    converged: Converged
    confident: Confident
    settled: Settled

    def satisfied_by(self, probe: Probed) -> bool:
        """Take in the next probe; all three see every probe."""
        converged = self.converged.satisfied_by(probe)
        confident = self.confident.satisfied_by(probe)
        settled = self.settled.satisfied_by(probe)
        return converged and (confident or settled)
