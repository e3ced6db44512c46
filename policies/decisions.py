"""What rules and the chain can ask for. The driver carries these out and invents nothing.

Rules return a ``RuleDecision``. The chain turns it into what a driver can do, an ``Action``: open a segment or a probe
with an exact allowance, abort a segment, have the engine close a thought, read a vote, declare a sample or the whole
request done.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from suffice.policies.events import Loggable


class Finish(StrEnum):
    """How a sample ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One request of a rule or of the chain."""

    def to_loggable(self) -> dict[str, Loggable]:
        """The decision as JSON-ready values; decisions never hold text."""
        return {"decision": type(self).__name__, **{f.name: getattr(self, f.name) for f in fields(self)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Continue(Decision):
    """Nothing to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseThought(Decision):
    """End the thinking of one sample and let it answer from the thought so far."""

    sample: int
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeProbe(Decision):
    """Look, beside the running stream, at what a sample would answer now."""

    sample: int
    rule: str
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkOn(Decision):
    """Resume a sample whose thought has just ended by itself, with the thought reopened."""

    sample: int
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSample(Decision):
    """End one sample as it stands."""

    sample: int
    rule: str
    finish: Finish = Finish.LENGTH


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawSamples(Decision):
    """Launch more samples, as far as the budget reaches."""

    count: int
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRequest(Decision):
    """End all samples that still run, as they stand."""

    rule: str
    finish: Finish = Finish.LENGTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Open(Decision):
    """Start one upstream generation.

    Attributes:
        sample: Index of the sample, in launch order.
        segment: 0 for a fresh generation; counts up each time the sample is resumed.
        max_tokens: All that upstream may generate in this segment. The hard limits hold because the sum of these,
            less what ended segments left unused, never exceeds them.
        thinking_tokens: Tokens that the sample's whole thought may take, with what earlier segments generated, as vLLM
            counts it; None where the engine need not watch.
        close_thought: Resume with the thought closed, so that an answer follows.
        think_on: Resume with the thought that has just ended reopened.
        pause_at_close: End the segment where the model closes its thought, so that rules may have it think on.
    """

    sample: int
    segment: int
    max_tokens: int
    thinking_tokens: int | None = None
    close_thought: bool = False
    think_on: bool = False
    pause_at_close: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe(Decision):
    """Generate, beside a sample's stream, what it would answer with its thought closed here; ``Probed`` follows.

    Attributes:
        sample: Index of the sample.
        at_token: Tokens of its thought so far.
        max_tokens: All that the probe may generate.
    """

    sample: int
    at_token: int
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal(Decision):
    """Have the engine close the thought of a running sample; its stream goes on."""

    sample: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadVote(Decision):
    """Read the answer of a sample that is done, and its score where a rule wants one; ``Voted`` follows.

    Attributes:
        sample: Index of the sample.
        judge_tokens: All that a judge of answers' equality may generate for it.
    """

    sample: int
    judge_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort(Decision):
    """Close the upstream stream of one sample, or give up reading its vote; ``SegmentEnded`` or ``Voted`` follows."""

    sample: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleDone(Decision):
    """A sample is complete; its finish reason can go to the client."""

    sample: int
    finish: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete(Decision):
    """The whole request is complete; settle and answer."""


RuleDecision: TypeAlias = Continue | DrawSamples | TakeProbe | ThinkOn | CloseThought | StopSample | EndRequest
Action: TypeAlias = Open | Probe | Signal | Abort | ReadVote | SampleDone | Complete

CONTINUE = Continue()
"""What nearly every event is answered with; one object for all."""
