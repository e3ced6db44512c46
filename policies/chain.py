"""The chain: one request's life as a pure machine over events.

It owns the meter, asks its rules about every event they listen to, and turns what they want into what a driver can
do: open a segment with an exact allowance, abort one, declare a sample or the request done. Rules never see each
other; where two want different things of one event, the stronger wins:

    EndRequest > StopSample > CloseThought > DrawSamples > Continue

Everything that decides whether a request goes on lives here or in a rule. What must not be here: I/O, clocks, text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, assert_never

from suffice.policies.budget import Meter
from suffice.policies.decisions import (
    Abort,
    Action,
    CloseThought,
    Complete,
    Continue,
    DrawSamples,
    EndRequest,
    Finish,
    Open,
    RuleDecision,
    SampleDone,
    StopSample,
)
from suffice.policies.errors import IllegalEvent
from suffice.policies.events import (
    AnyEvent,
    Chunk,
    ClientGone,
    Draining,
    EndReason,
    Event,
    Phase,
    PromptCounted,
    SegmentEnded,
    Started,
    Tick,
)
from suffice.policies.plan import Plan, ThinkingCap

if TYPE_CHECKING:
    from collections.abc import Sequence


class Rule(Protocol):
    """A stopping or sampling rule: total, deterministic, and after a stop it keeps answering stop."""

    name: str
    listens: frozenset[type[Event]]
    """Kinds of events that the rule wants to see; nothing is spent on the others."""

    def observe(self, event: Event, /) -> RuleDecision:
        """What the rule wants after this event. Never raises on an event of a kind it listens to."""
        ...


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


@dataclass(slots=True)
class _Sample:
    """State of one sample."""

    segment: int = 0
    phase: Phase = Phase.ANSWER
    thinking: int = 0
    open: bool = False
    done: bool = False
    cut: bool = False
    closing: bool = False
    """A rule closed the thought; the aborted segment is to be resumed."""
    stopped: StopSample | None = None
    """A rule ended the sample; it waits for its segment to end."""


@dataclass(slots=True)
class Chain:
    """The machine of one request. Feed it events in order; do what it returns.

    Attributes:
        plan: The limits in force.
        rules: Rules in order of precedence among equals.
        stops: Why samples ended, in order, for the receipt.
        meter: What was granted and used.
    """

    plan: Plan
    rules: Sequence[Rule] = ()
    stops: list[Stop] = field(default_factory=list)
    meter: Meter = field(init=False)
    failed: bool = field(init=False, default=False)
    _prompts: dict[int, int] = field(init=False, default_factory=dict)
    _samples: list[_Sample] = field(init=False, default_factory=list)
    _ending: EndRequest | None = field(init=False, default=None)
    _complete: bool = field(init=False, default=False)
    _started: bool = field(init=False, default=False)
    _running: int = field(init=False, default=0)
    _listeners: dict[type[Event], tuple[Rule, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.meter = Meter(total_tokens=self.plan.total_tokens, sample_tokens=self.plan.sample_tokens)
        for kind in {kind for rule in self.rules for kind in rule.listens}:
            self._listeners[kind] = tuple(rule for rule in self.rules if kind in rule.listens)

    @property
    def complete(self) -> bool:
        """Whether the request is over."""
        return self._complete

    @property
    def prompt_tokens(self) -> int:
        """Length of all prompts that upstream has counted so far."""
        return sum(self._prompts.values())

    @property
    def cancelled_tokens(self) -> int:
        """Tokens of samples that a rule, a deadline or the client's leaving cut off."""
        return sum(self.meter.sample_used(index) for index, sample in enumerate(self._samples) if sample.cut)

    def is_open(self, sample: int) -> bool:
        """Whether a sample has an open segment."""
        return sample < len(self._samples) and self._samples[sample].open

    @property
    def samples(self) -> int:
        """Samples launched so far."""
        return len(self._samples)

    def thinking_tokens(self, sample: int) -> int:
        """Tokens of the sample's thought so far."""
        return self._samples[sample].thinking

    def wakes_at(self) -> float | None:
        """Seconds since receipt at which the chain wants a ``Tick``, or None."""
        return self.plan.deadline_s if self._ending is None and not self._complete else None

    def observe(self, event: AnyEvent) -> tuple[Action, ...]:
        """Take in one event.

        Returns:
            What the driver must do now, in order. Empty for nearly all chunks.

        Raises:
            IllegalEvent: The event cannot follow what came before; nothing was changed.
        """
        if self._complete:
            if isinstance(event, Chunk | SegmentEnded | Started):
                raise IllegalEvent(f"{type(event).__name__} after the request was complete")
            return ()
        match event:
            case Chunk():
                self._book(event)
                actions: tuple[Action, ...] = ()
            case Started():
                if self._started:
                    raise IllegalEvent("Started twice")
                self._started = True
                actions = self._launch(self.plan.samples)
            case PromptCounted():
                prompt = self.plan.prompt_of(event.sample)
                if prompt not in self._prompts:
                    self._prompts[prompt] = event.prompt_tokens
                actions = ()
            case SegmentEnded():
                actions = self._ended(event)
            case Tick():
                overdue = self.plan.deadline_s is not None and event.at >= self.plan.deadline_s
                actions = self._apply(EndRequest(rule="deadline_ms")) if overdue else ()
            case ClientGone():
                actions = self._apply(EndRequest(rule="client_gone"))
            case Draining():
                actions = self._apply(EndRequest(rule="shutdown"))
            case _:
                assert_never(event)
        listeners = self._listeners.get(type(event))
        if listeners:
            wanted = self._strongest(listeners, event)
            if wanted is not None:
                actions += self._apply(wanted)
        if self._running == 0 and (self._started or self._ending is not None):
            self._complete = True
            actions += (Complete(),)
        return actions

    @staticmethod
    def _strongest(rules: tuple[Rule, ...], event: AnyEvent) -> RuleDecision | None:
        """The strongest wish of the rules; the earlier rule wins a tie."""
        best: RuleDecision | None = None
        best_rank = 0
        for rule in rules:
            decision = rule.observe(event)
            rank = _RANK[type(decision)]
            if rank > best_rank:
                best, best_rank = decision, rank
        return best

    def _apply(self, decision: RuleDecision) -> tuple[Action, ...]:
        match decision:
            case Continue():
                return ()
            case DrawSamples():
                return () if self._ending else self._launch(decision.count)
            case CloseThought():
                return self._close_thought(decision)
            case StopSample():
                sample = self._samples[decision.sample]
                if sample.done or sample.stopped:
                    return ()
                sample.stopped = decision
                return (Abort(sample=decision.sample),) if sample.open else ()
            case EndRequest():
                return self._end_all(decision)
            case _:
                assert_never(decision)

    def _close_thought(self, decision: CloseThought) -> tuple[Action, ...]:
        sample = self._samples[decision.sample]
        if not sample.open or sample.closing or sample.stopped or sample.phase is not Phase.THINKING:
            return ()
        sample.closing = True
        self._note(decision.sample, decision.rule, "gateway")
        return (Abort(sample=decision.sample),)

    def _end_all(self, decision: EndRequest) -> tuple[Action, ...]:
        if self._ending is not None:
            return ()
        self._ending = decision
        return tuple(Abort(sample=index) for index, sample in enumerate(self._samples) if sample.open)

    def _launch(self, count: int) -> tuple[Action, ...]:
        """Open new samples while the budget has anything for them."""
        opened: list[Action] = []
        for _ in range(count):
            index = len(self._samples)
            if self.meter.available(index) < 1:
                break
            phase = Phase.ANSWER if self.plan.thinking_cap is ThinkingCap.NONE else Phase.THINKING
            self._samples.append(_Sample(phase=phase))
            opened.append(self._open(index))
        return tuple(opened)

    def _open(self, index: int, *, close_thought: bool = False) -> Open:
        sample = self._samples[index]
        want = self.meter.available(index)
        if self.plan.thinking_cap is ThinkingCap.GATEWAY and sample.segment == 0:
            # The thought can be no longer than the segment that holds it.
            want = min(want, max(1, self.plan.thinking_tokens or 0))
        allowance = self.meter.grant(index, want)
        sample.open = True
        sample.closing = False
        self._running += 1
        engine_cap = self.plan.thinking_cap is ThinkingCap.ENGINE and not close_thought
        return Open(
            sample=index,
            segment=sample.segment,
            max_tokens=allowance,
            thinking_tokens=self.plan.thinking_tokens if engine_cap else None,
            close_thought=close_thought,
        )

    def _book(self, event: Chunk) -> None:
        if event.sample >= len(self._samples) or not self._samples[event.sample].open:
            raise IllegalEvent(f"chunk of sample {event.sample}, which has no open segment")
        self.meter.use(event.sample, event.tokens)
        sample = self._samples[event.sample]
        if event.phase is Phase.THINKING:
            sample.thinking += event.tokens
        elif sample.phase is Phase.THINKING:
            cap = self.plan.thinking_tokens
            if self.plan.thinking_cap is ThinkingCap.ENGINE and cap is not None and sample.thinking >= cap > 0:
                self._note(event.sample, "thinking_tokens", "engine", at=sample.thinking)
        sample.phase = event.phase

    def _ended(self, event: SegmentEnded) -> tuple[Action, ...]:
        if event.sample >= len(self._samples) or not self._samples[event.sample].open:
            raise IllegalEvent(f"segment of sample {event.sample} ended twice or was never opened")
        sample = self._samples[event.sample]
        sample.open = False
        sample.phase = event.phase
        self._running -= 1
        unused = self.meter.release(event.sample)
        if event.reason is EndReason.FAILED:
            self.failed = True
            return self._done(event.sample, "error") + self._end_all(EndRequest(rule="upstream_failed"))
        if self._ending is not None:
            sample.cut = True
            self._note(event.sample, self._ending.rule, "gateway")
            return self._done(event.sample, self._ending.finish.value)
        if sample.stopped is not None:
            sample.cut = True
            self._note(event.sample, sample.stopped.rule, "gateway")
            return self._done(event.sample, sample.stopped.finish.value)
        room = self.meter.available(event.sample)
        if sample.closing and event.reason is EndReason.ABORTED and room > 0:
            sample.segment += 1
            return (self._open(event.sample, close_thought=True),)
        if event.reason is EndReason.LENGTH:
            if room > 0 and unused == 0:
                return (self._resume(event),)
            # With tokens left in its allowance, the model's context was what ended it.
            self._note(event.sample, "context" if unused else self._binding_limit(), "engine")
        return self._done(event.sample, _FINISH[event.reason])

    def _resume(self, event: SegmentEnded) -> Open:
        """A segment was shorter than the sample may be: go on, closing the thought if it is still open."""
        sample = self._samples[event.sample]
        sample.segment += 1
        thinking = event.phase is Phase.THINKING
        if thinking:
            self._note(event.sample, "thinking_tokens", "gateway")
        return self._open(event.sample, close_thought=thinking)

    def _done(self, index: int, finish: str) -> tuple[Action, ...]:
        self._samples[index].done = True
        return (SampleDone(sample=index, finish=finish),)

    def _binding_limit(self) -> str:
        """Which limit a sample that ran to its end ran into."""
        limits = self.plan.limits
        sample = limits.get("sample_tokens")
        if sample is None or sample.value > self.plan.sample_tokens:
            return "total_tokens"
        return "sample_tokens"

    def _note(self, sample: int, rule: str, by: str, *, at: int | None = None) -> None:
        used = self.meter.sample_used(sample) if at is None else at
        self.stops.append(Stop(sample=sample, rule=rule, by=by, at_token=used))


_RANK: dict[type[RuleDecision], int] = {
    Continue: 0,
    DrawSamples: 1,
    CloseThought: 2,
    StopSample: 3,
    EndRequest: 4,
}

_FINISH = {
    EndReason.STOP: Finish.STOP.value,
    EndReason.LENGTH: Finish.LENGTH.value,
    EndReason.TOOL_CALLS: "tool_calls",
    EndReason.REPETITION: Finish.STOP.value,
    EndReason.ABORTED: Finish.LENGTH.value,
}
