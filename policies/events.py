"""Facts that the driver reports to the chain of rules, one frozen record each.

Everything a rule may know arrives here: time, token counts, phases, log-probability summaries. Events that carry
text do so only for the moment of deciding; ``to_loggable`` leaves it out, so an event log never holds a prompt
or an answer. What must not be here: I/O, clocks, randomness.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import ClassVar, TypeAlias

Loggable: TypeAlias = "str | int | float | bool | list[Loggable] | dict[str, Loggable] | None"


class Phase(StrEnum):
    """Where in a sample a token stands."""

    THINKING = "thinking"
    ANSWER = "answer"


class EndReason(StrEnum):
    """Why a segment (one upstream generation) ended."""

    STOP = "stop"
    """The model ended by itself, or a stop string of the client's was met."""
    LENGTH = "length"
    """The segment used all it was allowed."""
    TOOL_CALLS = "tool_calls"
    """The model ended with tool calls."""
    REPETITION = "repetition"
    """The engine found a loop."""
    ABORTED = "aborted"
    """The driver closed the upstream stream, by a decision or because the client left."""
    FAILED = "failed"
    """Upstream broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One fact.

    Attributes:
        at: Seconds since the request was received.
    """

    private: ClassVar[frozenset[str]] = frozenset()
    """Fields that hold text and stay out of every log."""

    at: float

    def to_loggable(self) -> dict[str, Loggable]:
        """The event as JSON-ready values, without the fields that hold text."""
        record: dict[str, Loggable] = {"event": type(self).__name__}
        for field in fields(self):
            if field.name not in self.private:
                value = getattr(self, field.name)
                record[field.name] = list(value) if isinstance(value, tuple) else value
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The request is planned, its worst case reserved, and it may begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCounted(Event):
    """Upstream told the exact length of a sample's prompt, in tokens."""

    sample: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Event):
    """New tokens of one sample.

    Attributes:
        sample: Index of the sample, in launch order.
        tokens: Tokens generated since the sample's previous chunk; may be 0.
        phase: Where the last of them stands.
        text: The text of the chunk; never logged.
        logprobs: Log-probabilities of the chunk's tokens, where they were asked for.
    """

    private: ClassVar[frozenset[str]] = frozenset({"text"})

    sample: int
    tokens: int
    phase: Phase
    text: str = ""
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentEnded(Event):
    """One upstream generation ended; no more tokens of it will come.

    Attributes:
        sample: Index of the sample.
        reason: Why it ended.
        phase: Where the sample stood at its end.
    """

    sample: int
    reason: EndReason
    phase: Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick(Event):
    """A moment that a rule asked to be woken at has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientGone(Event):
    """The client closed its connection before the answer was complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draining(Event):
    """The server is shutting down and its grace period is over."""


AnyEvent: TypeAlias = Started | PromptCounted | Chunk | SegmentEnded | Tick | ClientGone | Draining
