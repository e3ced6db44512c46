"""The chain: one request's life as a pure machine over events.

It owns the meter, asks its rules about every event they listen to, and turns what they want into what a driver can
do: open a segment or a probe with an exact allowance, abort one, declare a sample or the request done. Rules never
see each other; where two want different things of one event, the stronger wins:

    EndRequest > StopSample > CloseThought > ThinkOn > TakeProbe > DrawSamples > Continue

Everything that decides whether a request goes on lives here or in a rule. What must not be here: I/O, clocks, text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, assert_never

from suffice.policies.budget import PROBES, Meter
from suffice.policies.decisions import (
    CONTINUE,
    Abort,
    Action,
    CloseThought,
    Complete,
    Continue,
    DrawSamples,
    EndRequest,
    Finish,
    Open,
    Probe,
    ReadVote,
    RuleDecision,
    SampleDone,
    Signal,
    StopSample,
    TakeProbe,
    ThinkOn,
)
from suffice.policies.errors import IllegalEvent
from suffice.policies.events import (
    AnyEvent,
    Chunk,
    ClientGone,
    Draining,
    EndReason,
    EngineClosed,
    Event,
    Phase,
    Probed,
    PromptCounted,
    SegmentEnded,
    Started,
    Tick,
    Voted,
)
from suffice.policies.plan import Plan, ThinkingCap
from suffice.policies.sample import Sample, Stop

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
    _samples: list[Sample] = field(init=False, default_factory=list)
    _ending: EndRequest | None = field(init=False, default=None)
    _complete: bool = field(init=False, default=False)
    _started: bool = field(init=False, default=False)
    _waiting: int = field(init=False, default=0)
    """Segments, probes and votes that are still to be reported."""
    _listeners: dict[type[Event], tuple[Rule, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.meter = Meter(self.plan.total_tokens)
        self.meter.allot(PROBES, self.plan.probe_tokens)
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

    @property
    def cut_samples(self) -> frozenset[int]:
        """Samples that were ended before they ended by themselves."""
        return frozenset(index for index, sample in enumerate(self._samples) if sample.cut)

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
            if isinstance(event, Chunk | SegmentEnded | Started | Probed | Voted):
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
                self._count_prompt(event)
                actions = ()
            case SegmentEnded():
                actions = self._ended(event)
            case Probed():
                self._probed(event)
                actions = ()
            case EngineClosed():
                self._note(event.sample, event.rule, "engine", at=event.at_token)
                actions = ()
            case Voted():
                self._voted(event)
                actions = ()
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
        if listeners and self._ending is None:
            actions += self._apply(self._strongest(listeners, event))
        if isinstance(event, SegmentEnded):
            actions += self._answer_paused(event.sample)
        if self._waiting == 0 and (self._started or self._ending is not None):
            self._complete = True
            actions += (Complete(),)
        return actions

    @staticmethod
    def _strongest(rules: tuple[Rule, ...], event: AnyEvent) -> RuleDecision:
        """The strongest wish of the rules; the earlier rule wins a tie."""
        best: RuleDecision = CONTINUE
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
            case TakeProbe():
                return self._take_probe(decision)
            case ThinkOn():
                return self._think_on(decision)
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
        if self.plan.close_by is ThinkingCap.ENGINE:
            sample.closing = decision
            self._note(decision.sample, decision.rule, "engine")
            return (Signal(sample=decision.sample),)
        if self.meter.room(decision.sample) < ABORT_LAG_TOKENS + self._answer_reserve:
            # Resuming would take the answer's tokens; the cap on the thought is about to close it anyway.
            return ()
        sample.closing = decision
        return (Abort(sample=decision.sample),)

    def _take_probe(self, decision: TakeProbe) -> tuple[Action, ...]:
        sample = self._samples[decision.sample]
        if not sample.open or sample.probe or sample.phase is not Phase.THINKING:
            return ()
        sample.probe = self.meter.grant(PROBES, decision.max_tokens)
        if not sample.probe:
            return ()
        self._waiting += 1
        return (Probe(sample=decision.sample, at_token=sample.thinking, max_tokens=sample.probe),)

    def _probed(self, event: Probed) -> None:
        sample = self._samples[event.sample] if event.sample < len(self._samples) else None
        if sample is None or not sample.probe:
            raise IllegalEvent(f"sample {event.sample} has no open probe")
        self.meter.use(PROBES, event.tokens)
        self.meter.release(PROBES, sample.probe - event.tokens)
        sample.probe = 0
        self._waiting -= 1

    def _voted(self, event: Voted) -> None:
        sample = self._samples[event.sample] if event.sample < len(self._samples) else None
        if sample is None or not sample.voting:
            raise IllegalEvent(f"sample {event.sample} is not to vote")
        if event.judge_tokens or sample.judging:
            self.meter.use(PROBES, event.judge_tokens)
            self.meter.release(PROBES, sample.judging - event.judge_tokens)
        sample.voting, sample.judging = False, 0
        self._waiting -= 1

    def _end_all(self, decision: EndRequest) -> tuple[Action, ...]:
        if self._ending is not None:
            return ()
        self._ending = decision
        return tuple(Abort(sample=index) for index, sample in enumerate(self._samples) if sample.open or sample.voting)

    def _launch(self, count: int) -> tuple[Action, ...]:
        """Open new samples while the budget has anything for them; those of one launch share what is left."""
        opened: list[Action] = []
        # Of what earlier waves left, a sample needs enough to answer at all.
        least = self._answer_reserve + 1 if self._samples else 1
        count = min(count, self.meter.left // least)
        for position in range(count):
            index = len(self._samples)
            self.meter.allot(index, min(self.plan.sample_tokens, self.meter.left // (count - position)))
            phase = Phase.ANSWER if self.plan.thinking_cap is ThinkingCap.NONE else Phase.THINKING
            self._samples.append(Sample(phase=phase))
            opened.append(self._open(index))
        return tuple(opened)

    def _open(self, index: int, *, close_thought: bool = False, think_on: bool = False) -> Open:
        sample = self._samples[index]
        want = self.meter.available(index)
        cap = self._thought_cap(index)
        thinking = sample.phase is Phase.THINKING and not close_thought
        if self.plan.thinking_cap is ThinkingCap.GATEWAY and cap is not None and thinking:
            # The thought can be no longer than the segments that hold it.
            want = min(want, max(1, cap - sample.thinking))
        allowance = self.meter.grant(index, want)
        sample.open = True
        sample.closing = None
        self._waiting += 1
        engine_cap = self.plan.thinking_cap is ThinkingCap.ENGINE and thinking
        return Open(
            sample=index,
            segment=sample.segment,
            max_tokens=allowance,
            thinking_tokens=cap if engine_cap else None,
            close_thought=close_thought,
            think_on=think_on,
            # A thought that is resumed in its middle ends its own segment, so that thought and answer stay apart.
            pause_at_close=thinking and (self.plan.pause_at_close or sample.segment > 0),
        )

    def _thought_cap(self, index: int) -> int | None:
        """The plan's cap, lowered where a sample got less than the plan's share, so that its answer still fits."""
        cap = self.plan.thinking_tokens
        if cap is None:
            return None
        size = self.meter.room(index) + self.meter.sample_used(index) - self._samples[index].reopened
        return max(0, min(cap, size - self._answer_reserve - self.plan.close_tokens))

    def assume_prompt(self, tokens: int) -> None:
        """Take the prompt's length on trust where upstream's stream was cut before it told; changes nothing it told."""
        self._prompts = self._prompts or {0: tokens}

    def _count_prompt(self, event: PromptCounted) -> None:
        self._prompts.setdefault(self.plan.prompt_of(event.sample), event.prompt_tokens)
        if event.sample < len(self._samples):
            self._samples[event.sample].thought_before = event.thinking

    def _book(self, event: Chunk) -> None:
        if event.sample >= len(self._samples) or not self._samples[event.sample].open:
            raise IllegalEvent(f"chunk of sample {event.sample}, which has no open segment")
        self.meter.use(event.sample, event.tokens)
        sample = self._samples[event.sample]
        if event.phase is Phase.THINKING:
            sample.thinking += event.tokens
        elif sample.phase is Phase.THINKING:
            cap = self._thought_cap(event.sample)
            if self.plan.thinking_cap is ThinkingCap.ENGINE and cap is not None and sample.thought_filled(cap):
                self._note(event.sample, "thinking_tokens", "engine", at=sample.thinking)
        sample.phase = event.phase

    def _ended(self, event: SegmentEnded) -> tuple[Action, ...]:
        if event.sample >= len(self._samples) or not self._samples[event.sample].open:
            raise IllegalEvent(f"segment of sample {event.sample} ended twice or was never opened")
        sample = self._samples[event.sample]
        sample.open = False
        sample.phase = event.phase
        self._waiting -= 1
        unused = self.meter.release(event.sample)
        if event.reason is EndReason.FAILED:
            self.failed = True
            return self._done(event.sample, "error") + self._end_all(EndRequest(rule="upstream_failed"))
        if self._ending is not None:
            return self._cut(event.sample, self._ending.rule, self._ending.finish.value)
        if sample.stopped is not None:
            return self._cut(event.sample, sample.stopped.rule, sample.stopped.finish.value)
        if event.reason is EndReason.ABORTED and sample.closing is not None:
            # No more than the stream was still allowed, and not what is left for the answer: chunks that came together
            # with the one that decided may have taken the room that there was then.
            spare = max(0, self.meter.available(event.sample) - self._answer_reserve)
            self.meter.hold_back(event.sample, min(ABORT_LAG_TOKENS, unused, spare))
            self._note(event.sample, sample.closing.rule, "gateway")
            return (self._go_on(event.sample, close_thought=event.phase is Phase.THINKING),)
        room = self.meter.available(event.sample)
        if event.reason is EndReason.REPETITION and event.phase is Phase.THINKING and self.plan.resumes and room > 0:
            # The engine ends whole samples; of a thought that loops only the thought is over.
            self._note(event.sample, "repetition", "engine")
            return (self._go_on(event.sample, close_thought=True),)
        if event.reason is EndReason.THOUGHT_END and room > 0:
            # Rules listen to this very event and may have the sample think on; otherwise it answers.
            sample.paused = True
            return ()
        if event.reason is EndReason.LENGTH:
            if room > 0 and unused == 0:
                return (self._resume(event),)
            # With tokens left in its allowance, the model's context was what ended it.
            self._note(event.sample, "context" if unused else self._binding_limit(), "engine")
        if event.reason is EndReason.REPETITION:
            self._note(event.sample, "repetition", "engine")
        return self._done(event.sample, _FINISH[event.reason])

    def _cut(self, index: int, rule: str, finish: str) -> tuple[Action, ...]:
        self._samples[index].cut = True
        self._note(index, rule, "gateway")
        return self._done(index, finish)

    def _resume(self, event: SegmentEnded) -> Open:
        """A segment was shorter than the sample may be: go on, closing the thought if it is still open."""
        thinking = event.phase is Phase.THINKING
        if thinking:
            closing = self._samples[event.sample].closing
            self._note(event.sample, "thinking_tokens" if closing is None else closing.rule, "gateway")
        return self._go_on(event.sample, close_thought=thinking)

    def _think_on(self, decision: ThinkOn) -> tuple[Action, ...]:
        sample = self._samples[decision.sample]
        cap = self._thought_cap(decision.sample)
        spare = self.meter.room(decision.sample) - self._answer_reserve - self.plan.close_tokens
        full = spare < 1 or (cap is not None and sample.thinking >= cap)
        if not sample.paused or full or sample.closing is not None:
            # A thought that was closed on purpose, or has nothing left to go on with, stays closed.
            return ()
        sample.paused = False
        # The token that closed the thought is taken back.
        sample.phase = Phase.THINKING
        sample.reopened += 1
        self._note(decision.sample, decision.rule, "gateway")
        return (self._go_on(decision.sample, think_on=True),)

    def _answer_paused(self, index: int) -> tuple[Action, ...]:
        """Nobody wanted a paused sample to think on: it answers, unless a rule ended it in its pause."""
        sample = self._samples[index]
        if not sample.paused:
            return ()
        sample.paused = False
        stopped = self._ending or sample.stopped
        if stopped is not None:
            return self._cut(index, stopped.rule, stopped.finish.value)
        return (self._go_on(index, close_thought=True),)

    def _go_on(self, index: int, *, close_thought: bool = False, think_on: bool = False) -> Open:
        self._samples[index].segment += 1
        return self._open(index, close_thought=close_thought, think_on=think_on)

    def _done(self, index: int, finish: str) -> tuple[Action, ...]:
        sample = self._samples[index]
        sample.done = True
        self.meter.close(index)
        done = SampleDone(sample=index, finish=finish)
        if not self.plan.votes or self._ending is not None:
            return (done,)
        sample.voting = True
        if self.plan.judge_tokens:
            sample.judging = self.meter.grant(PROBES, self.plan.judge_tokens)
        self._waiting += 1
        return (done, ReadVote(sample=index, judge_tokens=sample.judging))

    @property
    def _answer_reserve(self) -> int:
        reserve = self.plan.limits.get("answer_reserve")
        return 1 if reserve is None else reserve.value

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
    TakeProbe: 2,
    ThinkOn: 3,
    CloseThought: 4,
    StopSample: 5,
    EndRequest: 6,
}

ABORT_LAG_TOKENS = 16
"""Tokens of a sample that are never granted again once a stream of it was closed early.

Between the last chunk that was read and the engine's noticing the closed connection it may generate some more. They
are allowed for, so that the sum of all that upstream was ever allowed to generate still keeps the limit.
"""

_FINISH = {
    EndReason.STOP: Finish.STOP.value,
    EndReason.LENGTH: Finish.LENGTH.value,
    EndReason.TOOL_CALLS: "tool_calls",
    EndReason.REPETITION: Finish.STOP.value,
    EndReason.ABORTED: Finish.LENGTH.value,
    EndReason.THOUGHT_END: Finish.LENGTH.value,
}
