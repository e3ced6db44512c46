"""One request inside the engine: where its thought stands, what its rules say, and which token comes next by force.

A pure machine, fed one generated token at a time; the logits processor carries it out. What it is told: the prompt,
each token, what was measured of the position that the token was drawn from, and signals from the gateway. What it
tells: the one token that may come next, or nothing. What must not be here: torch, vLLM, shared memory.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from suffice.policies.decisions import CloseThought, EndRequest, StopSample
from suffice.policies.events import Chunk, Phase
from suffice.server.engine.plugin.table import Action, Fired

if TYPE_CHECKING:
    from collections.abc import Sequence

    from suffice.policies.stopping import StoppingRule

CAP = "thinking_tokens"
"""Names the cap on the thought where a rule's name is told."""
SIGNAL = "signal"
"""Names a decision of the gateway's where a rule's name is told."""


class Measured(NamedTuple):
    """What the engine's distribution was like where a token was drawn; see ``Chunk`` for the units."""

    entropy: float
    close_logprob: float
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Token ids around a thought, each at least one.

    Attributes:
        start: They open it.
        end: They close it, however they come.
        force: They are put in its place where it is closed by force; they hold ``end``.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]
    force: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class Steering:
    """State of one request.

    Attributes:
        marks: Around its thought; None where nobody knows them, so that no thought is ever seen.
        rules: They hear of every token.
        stop_id: The token that ends the generation; None where nothing does, so that it cannot be stopped here.
        cap: Most tokens of the thought; None where there is none.
        measures: Whether a rule lives on ``Measured``.
        tokens: Tokens taken in.
        thinking: Those of them that belong to the thought, its opening token included, its closing token not.
        phase: Where the last token stood.
        closed: What closed the thought first.
        stopped: What stopped the generation first.
        failed: Name of a rule that raised and was put aside; one that raises must not end the engine.
    """

    marks: Marks | None
    rules: tuple[StoppingRule, ...] = ()
    stop_id: int | None = None
    cap: int | None = None
    measures: bool = False
    tokens: int = 0
    thinking: int = 0
    phase: Phase = Phase.ANSWER
    closed: Fired | None = None
    stopped: Fired | None = None
    failed: str | None = None
    _closing: bool = False
    _stopping: bool = False
    _done: int = 0
    """How many of the forced tokens have come."""
    _tail: deque[int] = field(init=False)

    def __post_init__(self) -> None:
        longest = 1 if self.marks is None else max(len(self.marks.start), len(self.marks.end), len(self.marks.force))
        self._tail = deque(maxlen=longest)

    def read_prompt(self, prompt: Sequence[int]) -> None:
        """Find out whether the prompt leaves a thought open. O(its length), once a request."""
        marks = self.marks
        if marks is None:
            return
        opened = _last(prompt, marks.start)
        if opened >= 0 and opened >= _last(prompt, marks.end):
            self.phase = Phase.THINKING
        self._tail.extend(prompt[-(self._tail.maxlen or 1) :])
        self._check_cap()

    def take(self, token: int, measured: Measured | None = None) -> None:
        """Take in the next generated token. O(1) amortised besides what the rules take."""
        self.tokens += 1
        self._place(token)
        self.thinking += self.phase is Phase.THINKING
        self._check_cap()
        if self.rules:
            self._ask(token, measured)

    def obey(self, action: Action, value: int) -> None:
        """Take in a signal of the gateway's."""
        match action:
            case Action.CAP:
                self.cap = value
                self._check_cap()
            case Action.CLOSE_THOUGHT:
                self._close(SIGNAL)
            case Action.STOP:
                self._stop(SIGNAL)

    def forced(self) -> int | None:
        """The only token that may come next; None where any may."""
        if self._stopping:
            return self.stop_id
        if self._closing and self.marks is not None:
            return self.marks.force[self._done]
        return None

    def _place(self, token: int) -> None:
        marks = self.marks
        if marks is None:
            return
        self._tail.append(token)
        if self._ends_with(marks.end):
            self.phase = Phase.ANSWER
        elif self._ends_with(marks.start):
            self.phase = Phase.THINKING
        if not self._closing:
            return
        if token == marks.force[self._done]:
            self._done += 1
            self._closing = self._done < len(marks.force)
        elif self.phase is Phase.ANSWER:
            self._closing = False
        else:
            self._done = self._begun()

    def _ask(self, token: int, measured: Measured | None) -> None:
        # Ranks that compute one request must decide alike, so that a rule sees no clock here.
        event = Chunk(
            at=0.0, sample=0, tokens=1, phase=self.phase, token_ids=(token,),
            entropies=() if measured is None else (measured.entropy,),
            close_logprobs=() if measured is None else (measured.close_logprob,),
            confidences=() if measured is None else (measured.confidence,),
        )  # fmt: skip
        for rule in self.rules:
            try:
                decision = rule.observe(event)
            except Exception:  # noqa: BLE001 - whatever a rule does wrong, the engine and its other requests live on
                self.failed = rule.name
                self.rules = tuple(other for other in self.rules if other is not rule)
                continue
            match decision:
                case CloseThought():
                    self._close(decision.rule)
                case StopSample() | EndRequest():
                    self._stop(decision.rule)
                case _:
                    pass

    def _check_cap(self) -> None:
        if self.cap is not None and self.thinking >= self.cap:
            self._close(CAP)

    def _close(self, rule: str) -> None:
        if self._closing or self.phase is not Phase.THINKING or self.marks is None:
            return
        self._closing = True
        self._done = self._begun()
        if self.closed is None:
            self.closed = Fired(rule=rule, at_token=self.tokens)

    def _stop(self, rule: str) -> None:
        if self._stopping or self.stop_id is None:
            return
        self._stopping = True
        self.stopped = Fired(rule=rule, at_token=self.tokens)

    def _begun(self) -> int:
        """How many of the forced tokens the model has just written by itself."""
        if self.marks is None:
            return 0
        force = self.marks.force
        return next((size for size in range(len(force) - 1, 0, -1) if self._ends_with(force[:size])), 0)

    def _ends_with(self, ids: tuple[int, ...]) -> bool:
        tail = self._tail
        if not tail or tail[-1] != ids[-1]:
            return False
        return len(tail) >= len(ids) and all(tail[-size] == ids[-size] for size in range(2, len(ids) + 1))


def _last(tokens: Sequence[int], ids: tuple[int, ...]) -> int:
    """Where a sequence of ids begins for the last time; -1 where it does not occur."""
    size = len(ids)
    for start in range(len(tokens) - size, -1, -1):
        if tokens[start] == ids[0] and tuple(tokens[start : start + size]) == ids:
            return start
    return -1
