"""Audits: a request runs in full, while its rule is asked all the same, and what it would have changed is noted.

The rule sees every event as it would without the audit; only its wish to end something is kept from the chain. What
must not be here: which requests are audited, and what follows from an audit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from suffice.policies.decisions import CONTINUE, CloseThought, EndRequest, RuleDecision
from suffice.policies.events import Chunk, Event, Phase, Priced, Probed, Voted
from suffice.policies.sampling.price import PRICE_EVENTS
from suffice.policies.sampling.rule import VoteRule

if TYPE_CHECKING:
    from suffice.policies.stopping.family import StoppingRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """Where a rule would have closed a thought.

    Attributes:
        at_token: Tokens of the thought.
        answer: Class of what the last probe before it answered; None where it answered nothing.
    """

    at_token: int
    answer: int | None


class AuditedExit:
    """An early-exit rule that takes its probes and closes nothing.

    It hears of no prices: what is audited is the rule's threshold, and a thought that a price would have closed earlier
    would be held against it.

    Args:
        rule: The rule.

    Attributes:
        exits: Where it would have closed the thought of each sample.
    """

    def __init__(self, rule: StoppingRule) -> None:
        self.name = rule.name
        self.listens = (rule.listens - {Priced}) | {Chunk, Probed}
        self.needs = rule.needs
        self.exits: dict[int, Exit] = {}
        self._rule = rule
        self._thoughts: dict[int, int] = {}
        self._answers: dict[int, int | None] = {}

    def observe(self, event: Event, /) -> RuleDecision:
        """Ask the rule; O(1) beside it."""
        match event:
            case Chunk(phase=Phase.THINKING):
                self._thoughts[event.sample] = self._thoughts.get(event.sample, 0) + event.tokens
            case Probed():
                self._answers[event.sample] = event.answer
        decision = self._rule.observe(event) if type(event) in self._rule.listens else CONTINUE
        if not isinstance(decision, CloseThought):
            return decision
        sample = decision.sample
        if sample not in self.exits:
            self.exits[sample] = Exit(at_token=self._thoughts.get(sample, 0), answer=self._answers.get(sample))
        return CONTINUE

    def loss(self, sample: int, final: int | None) -> float | None:
        """What the rule would have lost of a sample that thought in full.

        Args:
            sample: The sample.
            final: Class of its answer.

        Returns:
            1 where it would have changed the answer, 0 where not; None where there is no answer to compare with.
        """
        if final is None:
            return None
        would = self.exits.get(sample)
        return float(would is not None and would.answer != final)


class AuditedVote(VoteRule):
    """A vote rule that draws all samples, and notes where the rule it stands for would have stopped.

    Its winner is that of the full vote. No price ends it: what is audited is the rule, on full votes.

    Args:
        rule: The rule.
    """

    plain = False
    priced = False

    def __init__(self, rule: VoteRule) -> None:
        super().__init__(most=rule.most)
        self.name = rule.name
        self.listens = rule.listens - PRICE_EVENTS
        self.needs = rule.needs
        self.stopped_at: int | None = None
        """Votes at which the rule would have stopped; None where it would have drawn all."""
        self.would_win: int | None = None
        """Class of the answer that would have won then."""
        self._rule = rule

    def observe(self, event: Event, /) -> RuleDecision:
        """Ask the rule, and never stop."""
        if isinstance(event, Voted):
            self._count(event)
        if self.stopped_at is None and isinstance(self._rule.observe(event), EndRequest):
            self.stopped_at = self.tally.drawn
            self.would_win = self.tally.leader
        return CONTINUE

    def fewest(self, limit: int) -> int:
        """It never stops, so there is nothing to wait for."""
        return limit

    def loss(self) -> float | None:
        """1 where the rule's winner would have been another than the full vote's, 0 where not; None without answers."""
        if self.tally.leader is None or self.tally.drawn < self.most:
            return None
        return float(self.stopped_at is not None and self.would_win != self.tally.leader)
