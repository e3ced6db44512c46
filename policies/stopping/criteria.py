"""When what the probes of one sample showed is enough to end its thought.

A criterion is the memory of one sample: it takes in each probe and tells whether the probes so far satisfy it, and how
probable it is, by what it looks at, that the answer still changes. What must not be here: when probes are taken, and
what follows.
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

    @property
    def doubt(self) -> float:
        """The most that thinking on can bring: the probability that the answer changes, 1 where nothing is known."""
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

    @property
    def doubt(self) -> float:
        """By the rule of succession: after k equal answers, k - 1 repeats and no change, ``1 / (k + 1)``."""
        return 1 / (self._streak + 1)


@dataclass(slots=True)
class Confident:
    """The last probe gave an answer whose tokens' geometric mean probability is high enough (DEER)."""

    threshold: float
    doubt: float = field(default=1.0, init=False)
    """One minus the last probe's confidence."""

    def satisfied_by(self, probe: Probed) -> bool:
        """Take in the next probe."""
        self.doubt = doubt_of(probe)
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

    @property
    def doubt(self) -> float:
        """``1 - exp(-H)`` with the moving mean H of the entropy: no less than the odds against the likeliest token."""
        return 1 - math.exp(-max(self._moments.mean, 0.0)) if self._moments.count else 1.0


@dataclass(slots=True)
class Never:
    """Nothing is enough; for a rule that only gives up."""

    doubt: float = field(default=1.0, init=False)
    """One minus the last probe's confidence."""

    def satisfied_by(self, probe: Probed) -> bool:
        """Take in the next probe."""
        self.doubt = doubt_of(probe)
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

    @property
    def doubt(self) -> float:
        """As the verdict: the converged answer's, and the lesser of the two others'; the greater of these."""
        return max(self.converged.doubt, min(self.confident.doubt, self.settled.doubt))


def doubt_of(probe: Probed) -> float:
    """One minus a probe's confidence, from 0 to 1; 1 where it has no answer or tells no confidence."""
    if probe.answer is None or probe.confidence is None or math.isnan(probe.confidence):
        return 1.0
    return min(max(1 - probe.confidence, 0.0), 1.0)
