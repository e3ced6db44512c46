"""The chain's sampling rule: contains one vote rule, brings the votes into order, and draws further samples in waves.

Votes reach the vote rule in launch order, whatever finishes first: short samples finish first and are not a fair
sample of the rest. What must not be here: how a vote rule decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.policies.allocation.effort import PRICE
from suffice.policies.decisions import CONTINUE, DrawSamples, EndRequest, Finish, RuleDecision
from suffice.policies.events import Event, Voted
from suffice.policies.sampling.majority_lock import MajorityLock
from suffice.policies.sampling.price import PRICE_EVENTS, SamplePrice

if TYPE_CHECKING:
    from suffice.policies.sampling.rule import VoteRule


class Draw:
    """Draws samples while its vote rule wants more, ``wave`` beside each other at most.

    Beside every rule whose winner is the plain majority runs ``MajorityLock``, which ends what is decided already and
    never changes a winner. A new wave begins when every launched sample has voted, and is no larger than the fewest
    votes after which the request could be over: waiting for one another costs time, but no wave draws a sample that
    drawing one by one would have spared.

    Before each further wave the next vote must be worth its price (``SamplePrice``), else the drawing ends and the
    winner so far wins. No price touches the first wave or the size of another, so a higher one ends the same drawing
    sooner and changes nothing before.

    It waits for nobody for ever: a sample that failed or was cut votes None, and where the budget launches fewer
    samples than were asked for, the chain completes once those have voted.

    Args:
        rule: The vote rule.
        wave: Samples that may run beside each other.
        most: Samples drawn at most; what the rule was built with.

    Attributes:
        needs: What the vote rule's events must carry that costs upstream work.
        first: Samples to launch at the start.
        launched: Samples launched so far, as far as the rule asked for them.
        stopped_by: Name of the rule that ended the drawing, ``price`` where its price did; None where it was not ended.
    """

    def __init__(self, rule: VoteRule, *, wave: int, most: int) -> None:
        self.rule = rule
        self.name = rule.name
        self.listens: frozenset[type[Event]] = rule.listens | {Voted} | (PRICE_EVENTS if rule.priced else frozenset())
        self.needs = rule.needs
        self.most = most
        self.launched = 0
        self.stopped_by: str | None = None
        self._wave = wave
        self._lock = MajorityLock(most=most) if rule.plain and not isinstance(rule, MajorityLock) else None
        self._price = SamplePrice()
        self._stop: EndRequest | None = None
        self._early: dict[int, Voted] = {}
        self._next = 0
        self._seen: set[int] = set()
        self.first = self._next_wave()
        self.launched = self.first

    def observe(self, event: Event, /) -> RuleDecision:
        """Take in one event; O(1) amortised."""
        if self._stop is not None:
            return self._stop
        if not isinstance(event, Voted):
            self._price.take(event)
            return self.rule.observe(event)
        if event.sample in self._seen:
            return CONTINUE
        self._seen.add(event.sample)
        self._price.take(event)
        if self.rule.order == "arrival":
            self._feed(event)
        else:
            self._early[event.sample] = event
            while self._stop is None and self._next in self._early:
                self._feed(self._early.pop(self._next))
                self._next += 1
        if self._stop is not None:
            self._early.clear()
            return self._stop
        return self._draw_on()

    def _feed(self, event: Voted) -> None:
        decision = self.rule.observe(event)
        if isinstance(decision, EndRequest):
            self._stop, self.stopped_by = decision, decision.rule
            return
        if self._lock is not None:
            decided = self._lock.observe(event)
            if isinstance(decided, EndRequest) and self.drawn < self.most:
                self._stop, self.stopped_by = decided, self._lock.name

    def _draw_on(self) -> RuleDecision:
        if len(self._seen) < self.launched or self.launched >= self.most:
            return CONTINUE
        if self.rule.priced and not self._price.next_vote_worth(*self.lead()):
            self._stop, self.stopped_by = EndRequest(rule=PRICE, finish=Finish.STOP), PRICE
            return self._stop
        count = self._next_wave()
        self.launched += count
        return DrawSamples(count=count, rule=self.name)

    def _next_wave(self) -> int:
        limit = self.most - self.launched
        if self.rule.at_once:
            return limit
        limit = min(self._wave, limit)
        count = self.rule.fewest(limit)
        return count if self._lock is None else min(count, self._lock.fewest(limit))

    @property
    def winner(self) -> int | None:
        """Index of the sample that wins as things stand; None while no sample has an answer."""
        return self.rule.winner

    @property
    def confidence(self) -> float | None:
        """How sure the rule is of the winner; 1 where the vote is decided."""
        return 1.0 if self._lock is not None and self.stopped_by == self._lock.name else self.rule.confidence

    @property
    def certified(self) -> bool:
        """Whether a valid certificate of the winner was reached."""
        return self.rule.certified

    @property
    def counts(self) -> tuple[int, ...]:
        """Votes by answer class, of the votes that were counted."""
        return self.rule.counts

    @property
    def drawn(self) -> int:
        """Votes that were counted."""
        return self.rule.tally.drawn

    @property
    def saved_samples(self) -> int:
        """Samples that were not launched and would have been without a rule."""
        return max(0, self.most - self.launched)

    def lead(self) -> tuple[int, int]:
        """Votes of the leader and of the runner-up."""
        return self.rule.tally.lead, self.rule.tally.second
