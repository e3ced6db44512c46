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
    THOUGHT_END = "thought_end"
    """The model closed its thought, where it was asked to pause."""
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
    """Upstream told the exact length of a sample's prompt, in tokens.

    Attributes:
        sample: Index of the sample.
        prompt_tokens: All of the prompt.
        thinking: Tokens of a thought that the prompt leaves open, its opening mark aside; None where it leaves none.
            A template may open the thought and start a line, and engines count that line towards the thought's cap.
    """

    sample: int
    prompt_tokens: int
    thinking: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Event):
    """New tokens of one sample.

    What is known of single tokens comes as one value a token, in order, or not at all: each tuple is empty where no
    rule of the request asked for it.

    Attributes:
        sample: Index of the sample, in launch order.
        tokens: Tokens generated since the sample's previous chunk; may be 0.
        phase: Where the last of them stands.
        text: The text of the chunk; never logged.
        token_ids: Ids of its tokens; never logged, since they are the text.
        logprobs: Natural log-probabilities of its tokens.
        confidences: Of each token's position, minus the mean log-probability of the most likely tokens (nats).
        close_logprobs: At each token's position, the log-probability of the token that closes a thought.
        entropies: Of each token's position, the entropy of the whole distribution (nats); only known in the engine.
    """

    private: ClassVar[frozenset[str]] = frozenset({"text", "token_ids"})

    sample: int
    tokens: int
    phase: Phase
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    confidences: tuple[float, ...] = ()
    close_logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()


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
class Probed(Event):
    """What a sample would answer if its thought were closed where the probe was taken.

    Attributes:
        sample: Index of the sample.
        at_token: Tokens of the sample's thought when the probe was taken.
        tokens: Tokens that the probe generated.
        answer: The answer's equivalence class within the request (0 for the first answer met, and so on); None where
            no answer could be read or the probe failed.
        confidence: Geometric mean of the answer tokens' probabilities, from 0 to 1; None where unknown.
        entropy: Entropy of the first token after the closed thought, over the most likely tokens (nats).
    """

    sample: int
    at_token: int
    tokens: int
    answer: int | None = None
    confidence: float | None = None
    entropy: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineClosed(Event):
    """A rule that runs inside the engine closed a sample's thought.

    Attributes:
        sample: Index of the sample.
        rule: The rule.
        at_token: Tokens that the sample had generated.
    """

    sample: int
    rule: str
    at_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Voted(Event):
    """A sample is over and its answer was read.

    Attributes:
        sample: Index of the sample, in launch order.
        answer: The answer's equivalence class within the request (0 for the first answer met, and so on), so that
            rules compare answers without seeing any; None where there is no answer, which never wins.
        tokens: Tokens that the sample generated.
        score: A verifier's reward; None where none was asked.
        confidence: The sample's own confidence, from 0 to 1 or in nats as the rule in force defines it.
        judge_tokens: Tokens that a judge of answers' equality generated for this vote.
    """

    sample: int
    answer: int | None
    tokens: int
    score: float | None = None
    confidence: float | None = None
    judge_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced(Event):
    """What work costs from now on: the prices of engine time and of memory, and how much of either a token takes.

    Prices are in gain, the probability that a unit of work changes an answer for the better. They hold until the next
    event of this kind; before the first one everything is free.

    Attributes:
        second: Gain that a second of engine time must bring.
        block_second: Gain that a KV block held for a second must bring.
        token_s: Engine time of one token of one more sample, in seconds: its share of the batch's step.
        step_s: Seconds from one token of a sample to its next.
        block_size: Tokens of a KV block; 0 where unknown, which leaves memory unpriced.
    """

    second: float
    block_second: float
    token_s: float
    step_s: float
    block_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick(Event):
    """A moment that a rule asked to be woken at has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryHeld(Event):
    """What the request has held of the KV cache so far.

    Attributes:
        block_seconds: Blocks times seconds.
    """

    block_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(Event):
    """Memory is short: samples that can go on from their own tokens give theirs back until ``Resumed``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """There is memory for the request again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientGone(Event):
    """The client closed its connection before the answer was complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draining(Event):
    """The server is shutting down and its grace period is over."""


AnyEvent: TypeAlias = (
    Started
    | PromptCounted
    | Chunk
    | SegmentEnded
    | Probed
    | EngineClosed
    | Voted
    | Priced
    | Tick
    | MemoryHeld
    | Paused
    | Resumed
    | ClientGone
    | Draining
)
