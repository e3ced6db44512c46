"""Time: a thought ends while there is still time for the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from suffice.policies.decisions import CONTINUE, CloseThought, RuleDecision
from suffice.policies.events import Chunk, Event, Phase, SegmentEnded
from suffice.policies.rules import Kind, Parameter

if TYPE_CHECKING:
    from suffice.policies.stopping.family import Need, Setting, StoppingRule


@dataclass(slots=True)
class _Pace:
    """Seconds a token of one stream, the recent past counting most.

    Time and tokens decay together by time passed, and the pace is their quotient. A moment counts once the next one has
    come and all its tokens are known. So it does not matter how tokens that arrived together were cut into chunks.
    """

    memory_s: float
    seconds: float = 0.0
    tokens: float = 0.0
    last: float | None = None
    """The latest moment."""
    gap: float | None = None
    """Seconds before it; None for the first, which only starts the clock: what came before was queue and prompt."""
    arrived: int = 0
    """Tokens of it."""

    def read(self, at: float, tokens: int) -> None:
        """Take in a chunk."""
        if not math.isfinite(at):
            return
        if at == self.last:
            self.arrived += tokens
            return
        if self.gap is not None:
            kept = math.exp(-self.gap / self.memory_s)
            self.seconds = self.seconds * kept + self.gap
            self.tokens = self.tokens * kept + self.arrived
        self.gap = None if self.last is None or at < self.last else at - self.last
        self.last = at
        self.arrived = tokens

    def interrupted(self) -> None:
        """The stream ended; the gap before the next one is no decoding."""
        self.last = None

    @property
    def seconds_a_token(self) -> float:
        """The pace; 0 before it is known."""
        return self.seconds / self.tokens if self.tokens > 0 else 0.0


class Deadline:
    """Closes a thought when the time left is what the answer will take at the stream's own pace.

    The answer is taken to need its whole reserve, times ``safety``, plus ``switch_s`` for closing and resuming. What
    an answer does beyond that is cut by the deadline itself.
    """

    name = "deadline"
    listens: frozenset[type[Event]] = frozenset({Chunk, SegmentEnded})
    needs: frozenset[Need] = frozenset()

    def __init__(self, *, safety: float, switch_s: float, memory_s: float, setting: Setting) -> None:
        self._deadline_s = setting.deadline_s
        self._tokens = setting.answer_reserve * safety
        self._switch_s = switch_s
        self._memory_s = memory_s
        self._paces: dict[int, _Pace] = {}
        self._closed: set[int] = set()

    def observe(self, event: Event, /) -> RuleDecision:
        """Follow a stream's pace. O(1)."""
        if self._deadline_s is None:
            return CONTINUE
        match event:
            case SegmentEnded(sample=sample) if sample in self._paces:
                self._paces[sample].interrupted()
            case Chunk(sample=sample):
                pace = self._paces.setdefault(sample, _Pace(self._memory_s))
                pace.read(event.at, event.tokens)
                needed = self._switch_s + self._tokens * pace.seconds_a_token
                if event.phase is Phase.THINKING and event.at + needed >= self._deadline_s:
                    self._closed.add(sample)
                if event.phase is Phase.THINKING and sample in self._closed:
                    return CloseThought(sample=sample, rule=self.name)
        return CONTINUE


KIND: Kind[StoppingRule] = Kind(
    name="deadline",
    make=Deadline,
    parameters={
        "safety": Parameter(default=1.25, least=1.0, most=100.0, what="how much slower the answer may come"),
        "switch_s": Parameter(default=0.1, least=0.0, most=60.0, what="seconds that closing the thought takes"),
        "memory_s": Parameter(default=2.0, least=0.01, most=3600.0, what="seconds after which a pace counts a third"),
    },
    what="closes a thought when the time left is what the answer needs",
    guarantee="the answer gets its reserve before the deadline while the stream is at most safety times slower",
)
