"""What all stopping rules share: what they are told before the first token, and what they need of upstream.

What must not be here: any rule, and anything that changes while a request runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from suffice.policies.decisions import RuleDecision
    from suffice.policies.events import Event
    from suffice.policies.stopping.lengths import RouteLengths


class Need(StrEnum):
    """Something that costs upstream work, so that it is asked for only where a rule lives on it."""

    PROBES = "probes"
    """``Probed`` events in answer to ``TakeProbe``."""
    TOKEN_IDS = "token_ids"  # noqa: S105 - the name of a field
    """``Chunk.token_ids``."""
    LOGPROBS = "logprobs"
    """``Chunk.logprobs``."""
    TOP_LOGPROBS = "top_logprobs"
    """``Chunk.confidences``."""
    CLOSE_LOGPROB = "close_logprob"
    """``Chunk.close_logprobs``."""
    ENTROPIES = "entropies"
    """``Chunk.entropies``; only the engine has them."""
    PAUSE_AT_CLOSE = "pause_at_close"
    """``SegmentEnded`` with ``THOUGHT_END``: generation pauses where the model closes its thought."""


class StoppingRule(Protocol):
    """A rule inside one sample, for all samples of one request.

    Total, deterministic, O(1) amortised a token. After it has ended a thought or a sample it repeats that decision
    at every later event of the same thought or sample.
    """

    name: str
    listens: frozenset[type[Event]]
    needs: frozenset[Need]

    def observe(self, event: Event, /) -> RuleDecision:
        """What the rule wants after this event. Never raises."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a rule is told of its request before the first token; a rule that misses what it needs stays silent.

    Attributes:
        thinking_tokens: The cap on one sample's thought; None where there is none.
        sample_tokens: The cap on one sample.
        answer_reserve: Tokens that an answer may need.
        deadline_s: Seconds from receipt to the end of the answer.
        lengths: How long thoughts and answers of the same route were.
        usual_tokens: The usual length of a thought, where it is known already and not to be read off ``lengths``.
        step_ids: Ids of the tokens that end a sentence or a line, for rules that see no text.
    """

    thinking_tokens: int | None = None
    sample_tokens: int | None = None
    answer_reserve: int = 0
    deadline_s: float | None = None
    lengths: RouteLengths | None = None
    usual_tokens: int | None = None
    step_ids: frozenset[int] = frozenset()

    @property
    def longest_thought(self) -> int | None:
        """Tokens that a thought can take at most; None where nothing bounds it."""
        if self.thinking_tokens is not None:
            return self.thinking_tokens
        return None if self.sample_tokens is None else max(0, self.sample_tokens - self.answer_reserve)

    @property
    def usual_thought(self) -> int | None:
        """A length that half of the route's thoughts keep to, in tokens; None where too little is known of them.

        A median and not a mean, since of thoughts that were cut only a least length is known.
        """
        if self.usual_tokens is not None or self.lengths is None:
            return self.usual_tokens
        return self.lengths.thoughts.upper(0.5)


def needs_of(rules: Iterable[StoppingRule]) -> frozenset[Need]:
    """Everything that any of the rules needs of upstream."""
    return frozenset().union(*(rule.needs for rule in rules))
