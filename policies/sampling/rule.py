"""What every vote rule has in common: it counts, and once it has had enough it says stop for ever.

A rule sees ``Voted`` events one by one and says whether further samples would still be worth drawing. It knows nothing
of waves, order or the budget: those are ``draw``'s. What must not be here: any particular rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from suffice.policies.decisions import CONTINUE, EndRequest, Finish, RuleDecision
from suffice.policies.events import Event, Voted
from suffice.policies.sampling.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from suffice.policies.stopping.family import Need

VOTES: frozenset[type[Event]] = frozenset({Voted})


class VoteRule:
    """Base of the vote rules; by itself it never stops.

    ``observe`` is total and never raises. After a stop the rule is frozen: it keeps answering with the same
    ``EndRequest`` and counts nothing more. Its state grows by at most a constant a vote.

    Args:
        most: Samples drawn at most.

    Attributes:
        name: Its name in requests, configurations and receipts.
        order: Whether votes must come to it in launch order, or as they arrive.
        listens: Kinds of events that it wants to see.
        at_once: Whether all samples are launched at the start, because no vote could change how many are.
        plain: Whether its winner is the plain majority, so that a vote which is decided may end it.
        priced: Whether the drawing may end because the next vote is not worth its price.
        needs: What its events must carry that costs upstream work.
        scored: Whether it lives on ``Voted.score``.
        tally: The votes it has counted.
    """

    name: str = ""
    order: Literal["launch", "arrival"] = "launch"
    listens: frozenset[type[Event]] = VOTES
    at_once: ClassVar[bool] = False
    plain: ClassVar[bool] = True
    priced: ClassVar[bool] = True
    needs: frozenset[Need] = frozenset()
    scored: ClassVar[bool] = False

    def __init__(self, *, most: int) -> None:
        self.most = most
        self.tally = Tally()
        self._stop: EndRequest | None = None

    def observe(self, event: Event, /) -> RuleDecision:
        """Take in one event; O(1) amortised."""
        if self._stop is not None:
            return self._stop
        if isinstance(event, Voted):
            self._count(event)
            if self._enough(event):
                self._stop = EndRequest(rule=self._ended_by(), finish=Finish.STOP)
                return self._stop
        return CONTINUE

    def _count(self, event: Voted) -> None:
        self.tally.vote(event.sample, event.answer)

    def _enough(self, event: Voted) -> bool:  # noqa: ARG002 - rules override it
        """Whether this vote, which is counted already, was the last one needed."""
        return False

    def _ended_by(self) -> str:
        """What ended the drawing, for the receipt, once there was enough."""
        return self.name

    def fewest(self, limit: int) -> int:  # noqa: ARG002 - rules override it
        """Fewest further votes after which the rule could stop, or ``limit`` if it could not within so many.

        Drawing this many at once costs no sample that drawing one by one would have spared.

        Args:
            limit: Largest answer of interest, at least 1.
        """
        return 1

    @property
    def left(self) -> int:
        """Votes that are still to come if nothing stops them."""
        return max(0, self.most - self.tally.drawn)

    @property
    def stopped(self) -> bool:
        """Whether the rule has said stop."""
        return self._stop is not None

    @property
    def winner(self) -> int | None:
        """Index of the sample that wins as things stand; None while no sample has an answer."""
        return self.tally.winner

    @property
    def confidence(self) -> float | None:
        """How sure the rule is of the winner, from 0 to 1, by its own measure; None where it has none."""
        return None

    @property
    def certified(self) -> bool:
        """Whether a valid certificate of the winner was reached."""
        return False

    @property
    def counts(self) -> tuple[int, ...]:
        """Votes by answer class."""
        return self.tally.counts


def least_gain(needed: Sequence[int], second: int) -> int | None:
    """Votes that a leader needs when the second has ``second``, by a table; None beyond the table's end."""
    return needed[second] if second < len(needed) else None
