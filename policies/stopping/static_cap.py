"""A thought ends at a fixed number of tokens: what every adaptive rule is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.policies.decisions import CONTINUE, CloseThought, RuleDecision
from suffice.policies.events import Chunk, Event, Phase
from suffice.policies.rules import Kind, Parameter

if TYPE_CHECKING:
    from suffice.policies.stopping.family import Need, Setting, StoppingRule


class StaticCap:
    """Closes each thought at the first chunk that ends at or after ``cap`` tokens of it."""

    name = "static_cap"
    listens: frozenset[type[Event]] = frozenset({Chunk})
    needs: frozenset[Need] = frozenset()

    def __init__(self, *, cap: int, setting: Setting) -> None:  # noqa: ARG002 - what the family passes
        self._cap = cap
        self._thoughts: dict[int, int] = {}

    def observe(self, event: Event, /) -> RuleDecision:
        """Count a chunk. O(1)."""
        if not isinstance(event, Chunk) or event.phase is not Phase.THINKING:
            return CONTINUE
        thought = self._thoughts[event.sample] = self._thoughts.get(event.sample, 0) + event.tokens
        return CloseThought(sample=event.sample, rule=self.name) if thought >= self._cap else CONTINUE


KIND: Kind[StoppingRule] = Kind(
    name="static_cap",
    make=StaticCap,
    parameters={"cap": Parameter(default=4096, least=1, most=10_000_000, what="tokens of a thought")},
    what="ends the thought at a fixed length; for comparison",
    guarantee="no thought is longer than cap and the chunk that reaches it",
)
