"""Thinking on: a thought that ended too soon, or in doubt, is reopened."""

from __future__ import annotations

from dataclasses import dataclass

from suffice.policies.decisions import CONTINUE, RuleDecision, ThinkOn
from suffice.policies.events import Chunk, EndReason, Event, Phase, Probed, SegmentEnded
from suffice.policies.rules import Kind, Parameter
from suffice.policies.stopping.family import Need, Setting, StoppingRule


@dataclass(slots=True)
class _Sample:
    thought: int = 0
    confidence: float | None = None
    reopened: int = 0


class Extend:
    """Reopens a thought that ended below ``least`` tokens, or whose last probe was below ``doubt``; ``most`` times.

    It takes no probes of its own; doubt is known where a probing rule is on.
    """

    name = "extend"
    listens: frozenset[type[Event]] = frozenset({Chunk, Probed, SegmentEnded})
    needs: frozenset[Need] = frozenset({Need.PAUSE_AT_CLOSE})

    def __init__(self, *, least: int, doubt: float | None, most: int, setting: Setting) -> None:  # noqa: ARG002
        self._least = least
        self._doubt = doubt
        self._most = most
        self._samples: dict[int, _Sample] = {}

    def observe(self, event: Event, /) -> RuleDecision:
        """Follow a thought; answer its end. O(1)."""
        if not isinstance(event, Chunk | Probed | SegmentEnded):
            return CONTINUE
        sample = self._samples.setdefault(event.sample, _Sample())
        match event:
            case Chunk(phase=Phase.THINKING):
                sample.thought += event.tokens
            case Probed(confidence=float() | int()):
                sample.confidence = event.confidence
            case SegmentEnded(reason=EndReason.THOUGHT_END) if sample.reopened < self._most and self._early(sample):
                sample.reopened += 1
                return ThinkOn(sample=event.sample, rule=self.name)
        return CONTINUE

    def _early(self, sample: _Sample) -> bool:
        doubtful = self._doubt is not None and sample.confidence is not None and sample.confidence < self._doubt
        return sample.thought < self._least or doubtful


KIND: Kind[StoppingRule] = Kind(
    name="extend",
    make=Extend,
    parameters={
        "least": Parameter(default=256, least=0, most=10_000_000, what="tokens below which a thought is reopened"),
        "doubt": Parameter(default=None, least=0.0, most=1.0, what="confidence of the last probe below which it is"),
        "most": Parameter(default=1, least=1, most=16, what="times that a thought is reopened"),
    },
    what="has a sample think on whose thought ended too soon",
    guarantee="at most most times a sample; the caps on thought and sample hold as before",
)
