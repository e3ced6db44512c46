"""Counts of the votes so far: who leads, by how much, and who got there first.

The full vote is by definition this tally after all samples. Ties are broken by who reached the count first, so a
leader stays the leader until somebody has strictly more votes. What must not be here: any decision.
"""

from __future__ import annotations


class Tally:
    """Votes by answer class, kept in constant time a vote.

    Attributes:
        drawn: Votes taken in, those without an answer included.
        leader: The class that leads; None before the first answer.
        lead: Votes of the leader.
        second: Most votes of any other class; 0 where there is none.
        answers: Votes by class, for the classes met.
    """

    __slots__ = ("_first", "answers", "drawn", "lead", "leader", "second")

    def __init__(self) -> None:
        self.drawn = 0
        self.leader: int | None = None
        self.lead = 0
        self.second = 0
        self.answers: dict[int, int] = {}
        self._first: dict[int, int] = {}

    def vote(self, sample: int, answer: int | None) -> None:
        """Count one vote; ``answer=None`` is drawn and counts for nobody."""
        self.drawn += 1
        if answer is None:
            return
        count = self.answers.get(answer, 0) + 1
        self.answers[answer] = count
        if count == 1 or sample < self._first[answer]:
            self._first[answer] = sample
        if answer == self.leader:
            self.lead = count
        elif count > self.lead:
            # Whoever overtakes was at the old leader's count before, so the old leader is second now.
            self.second = self.lead
            self.lead = count
            self.leader = answer
        elif count > self.second:
            self.second = count

    @property
    def winner(self) -> int | None:
        """The first sample in launch order whose answer leads; None while no sample has an answer."""
        return None if self.leader is None else self._first[self.leader]

    @property
    def rest(self) -> int:
        """Votes for neither the leader nor the second, those without an answer included."""
        return self.drawn - self.lead - self.second

    @property
    def counts(self) -> tuple[int, ...]:
        """Votes by answer class, from class 0 to the highest met. O(classes)."""
        if not self.answers:
            return ()
        return tuple(self.answers.get(answer, 0) for answer in range(max(self.answers) + 1))

    def first_of(self, answer: int) -> int:
        """The first sample in launch order that gave an answer which was met."""
        return self._first[answer]
