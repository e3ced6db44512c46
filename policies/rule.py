"""What a rule is to the chain, and which of several rules' wishes counts.

What must not be here: any rule, and what becomes of a wish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from suffice.policies.decisions import (
    CONTINUE,
    CloseThought,
    Continue,
    DrawSamples,
    EndRequest,
    RuleDecision,
    StopSample,
    TakeProbe,
    ThinkOn,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from suffice.policies.events import AnyEvent, Event


class Rule(Protocol):
    """A stopping or sampling rule: total, deterministic, and after a stop it keeps answering stop."""

    name: str
    listens: frozenset[type[Event]]
    """Kinds of events that the rule wants to see; nothing is spent on the others."""

    def observe(self, event: Event, /) -> RuleDecision:
        """What the rule wants after this event. Never raises on an event of a kind it listens to."""
        ...


def strongest(rules: Iterable[Rule], event: AnyEvent) -> RuleDecision:
    """The strongest wish of the rules after an event; the earlier rule wins a tie."""
    best: RuleDecision = CONTINUE
    best_rank = 0
    for rule in rules:
        decision = rule.observe(event)
        rank = _RANK[type(decision)]
        if rank > best_rank:
            best, best_rank = decision, rank
    return best


_RANK: dict[type[RuleDecision], int] = {
    Continue: 0,
    DrawSamples: 1,
    TakeProbe: 2,
    ThinkOn: 3,
    CloseThought: 4,
    StopSample: 5,
    EndRequest: 6,
}
