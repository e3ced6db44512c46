"""Stop with a certificate that the leader is the model's most likely answer, valid however often one looks.

Claim: whatever the true distribution of answers, whatever rule ends the drawing and whoever peeks, the probability that
an answer is ever certified which is not the only most likely one is at most ``alpha``.

Proof sketch. Let answers be drawn independently with probabilities ``p``. For a target ``t`` and a rival ``u`` that
were fixed beforehand, bet on every vote: a bettor with ``q`` in [1/2, 1] multiplies its wealth by ``2 q`` on a vote
for ``t``, by ``2 (1 - q)`` on one for ``u``, and leaves it on any other. If ``p_t <= p_u`` the factor's mean is ``1 +
(2 q - 1) (p_t - p_u) <= 1``, so wealth is a non-negative supermartingale that starts at 1, and so is its average over
``q`` uniform on [1/2, 1], which is ``odds.evidence(x, y)`` after ``x`` votes for ``t`` and ``y`` for ``u``. By
Ville's inequality it ever reaches ``1/a`` with probability at most ``a``. If ``t`` is not the only most likely answer
there is some ``u`` with ``p_t <= p_u``; asking every rival's process to pass needs no correction, since the one of
this ``u`` must pass too, seen or unseen. Targets are not fixed beforehand but discovered; so the bets on the ``j``-th
answer met begin with the vote after its discovery, where the future is independent of its having been chosen, and it
is given a level of its own, ``0.9 alpha`` for the first and ``0.1 alpha 2^(1-j)`` for the others, which add up to at
most ``alpha``. Ville's bound holds at all times together, so ending early, at any moment and for any reason, keeps
it.

The evidence falls with ``y``, so the hardest rival is the one with most votes since the target's discovery.
What must not be here: levels that depend on the votes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.policies.sampling.odds import evidence, evidence_table
from suffice.policies.sampling.rule import VoteRule

if TYPE_CHECKING:
    from suffice.policies.events import Voted

TARGETS = 8
"""Answers, in order of discovery, that can be certified.

Later ones would have so small a level that they would hardly ever pass; leaving them out keeps a vote's work constant
when all answers differ, and costs nothing of the guarantee.
"""


class _Target:
    """One answer that may be certified: the votes since its discovery, its own and its strongest rival's."""

    __slots__ = ("answer", "level", "needed", "own", "rival", "rivals")

    def __init__(self, answer: int, level: float, most: int) -> None:
        self.answer = answer
        self.level = level
        self.needed = evidence_table(most, level)
        self.own = 0
        self.rival = 0
        self.rivals: dict[int, int] = {}

    def vote(self, answer: int) -> bool:
        """Count a vote; whether it certifies this answer."""
        if answer != self.answer:
            count = self.rivals[answer] = self.rivals.get(answer, 0) + 1
            self.rival = max(self.rival, count)
            return False
        self.own += 1
        return self.rival < len(self.needed) and self.own >= self.needed[self.rival]

    def missing(self) -> int | None:
        """Votes for it in a row that would certify it."""
        return self.needed[self.rival] - self.own if self.rival < len(self.needed) else None


class Certificate(VoteRule):
    """Stops once an answer is certified as the only most likely one, at level ``alpha``.

    Args:
        alpha: Bound on the probability of ever certifying another answer.
        most: Samples drawn at most.
    """

    name = "certificate"

    def __init__(self, *, alpha: float, most: int) -> None:
        super().__init__(most=most)
        self._alpha = alpha
        self._targets: list[_Target] = []
        self._known: set[int] = set()
        self._certified: int | None = None

    def _enough(self, event: Voted) -> bool:
        answer = event.answer
        if answer is None:
            return False
        for target in self._targets:
            if target.vote(answer):
                self._certified = answer
                return True
        if answer not in self._known and len(self._targets) < TARGETS:
            self._known.add(answer)
            self._targets.append(_Target(answer, self._level(len(self._targets) + 1), self.most))
        return False

    def _level(self, discovered: int) -> float:
        return 0.9 * self._alpha if discovered == 1 else 0.1 * self._alpha * 2.0 ** (1 - discovered)

    def fewest(self, limit: int) -> int:
        """What the nearest target misses, or a first target would from its discovery on."""
        needs = [missing for target in self._targets if (missing := target.missing()) is not None]
        if not self._targets:
            first = evidence_table(self.most, self._level(1))
            needs = [first[0] + 1] if first else []
        return max(1, min([limit, *needs]))

    @property
    def winner(self) -> int | None:
        """The certified answer's first sample; the leader's while nothing is certified."""
        return self.tally.winner if self._certified is None else self.tally.first_of(self._certified)

    @property
    def confidence(self) -> float | None:
        """One minus the smallest ``alpha`` at which the votes as they stand certify the winner: an anytime p-value."""
        answer = self.tally.leader if self._certified is None else self._certified
        if answer is None:
            return None
        for target in self._targets:
            if target.answer == answer:
                return max(0.0, 1.0 - self._alpha / (target.level * evidence(target.own, target.rival)))
        return 0.0

    @property
    def certified(self) -> bool:
        """Whether an answer was certified."""
        return self._certified is not None
