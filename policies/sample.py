"""What the chain remembers of one sample, and why it stopped.

What must not be here: any decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from suffice.policies.decisions import Finish
from suffice.policies.events import EndReason, Phase

if TYPE_CHECKING:
    from suffice.policies.decisions import CloseThought, StopSample


FINISH = {
    EndReason.STOP: Finish.STOP.value,
    EndReason.LENGTH: Finish.LENGTH.value,
    EndReason.TOOL_CALLS: "tool_calls",
    EndReason.REPETITION: Finish.STOP.value,
    EndReason.ABORTED: Finish.LENGTH.value,
    EndReason.THOUGHT_END: Finish.LENGTH.value,
}
"""The finish of a sample that ends with a segment, by why that ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Why a sample ended where it ended, for the receipt.

    Attributes:
        sample: Index of the sample.
        rule: The rule or the limit.
        by: Who carried it out: ``engine`` or ``gateway``.
        at_token: Tokens that the sample had generated.
    """

    sample: int
    rule: str
    by: str
    at_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GoOn:
    """How a sample goes on once there is memory for it.

    Attributes:
        fresh: It has not begun.
        close_thought: With its thought closed.
        think_on: With its thought reopened.
    """

    fresh: bool = False
    close_thought: bool = False
    think_on: bool = False


@dataclass(slots=True)
class Sample:
    """State of one sample."""

    segment: int = 0
    phase: Phase = Phase.ANSWER
    thinking: int = 0
    thought_before: int | None = None
    """Tokens of the thought that stand in the prompt; None where the prompt leaves no thought open."""
    open: bool = False
    answering: bool = False
    """Its last segment was opened with the thought closed, whether or not a token of the answer has come."""
    done: bool = False
    cut: bool = False
    closing: CloseThought | None = None
    """A rule closed the thought; the aborted segment is to be resumed, or the engine was told."""
    stopped: StopSample | None = None
    """A rule ended the sample; it waits for its segment to end."""
    probe: int = 0
    """Tokens that its open probe was granted; 0 without one."""
    voting: bool = False
    """Its vote is still to be reported."""
    judging: int = 0
    """Tokens that a judge of its vote was granted."""
    reopened: int = 0
    """Times that its thought was reopened, each of which took the token that had closed it."""
    paused: bool = False
    """It ended at the close of its thought, where a rule may have it think on."""

    parking: bool = False
    """It is being aborted because memory is short, and goes on later."""
    parked: GoOn | None = None
    """It waits for memory."""

    def thought_filled(self, cap: int) -> bool:
        """Whether the thought took all of an engine's cap, which counts what stands of it in the prompt."""
        if self.thought_before is None:
            return self.thinking >= cap > 0
        return self.thought_before + self.thinking >= cap
