"""What rules and the chain can ask for. The driver carries these out and invents nothing.

Rules return ``Continue``, ``CloseThought``, ``StopSample``, ``DrawSamples`` or ``Finish``. The chain turns them into
the three things a driver can do: ``Open`` a segment with an exact allowance, ``Abort`` one, ``Finish`` the request.
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
        thinking_tokens: The part of it that the engine may spend on thinking; None where it need not watch.
        close_thought: Resume with the thought closed, so that an answer follows.
    """

    sample: int
    segment: int
    max_tokens: int
    thinking_tokens: int | None = None
    close_thought: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort(Decision):
    """Close the upstream stream of one sample; ``SegmentEnded`` follows."""

    sample: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleDone(Decision):
    """A sample is complete; its finish reason can go to the client."""

    sample: int
    finish: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete(Decision):
    """The whole request is complete; settle and answer."""


RuleDecision: TypeAlias = Continue | CloseThought | StopSample | DrawSamples | EndRequest
Action: TypeAlias = Open | Abort | SampleDone | Complete
