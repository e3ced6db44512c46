"""The chain: one request's life as a pure machine over events.

It owns the meter, asks its rules about every event they listen to, and turns what they want into what a driver can
do: open a segment or a probe with an exact allowance, abort one, declare a sample or the request done. Rules never
see each other; where two want different things of one event, the stronger wins:

    EndRequest > StopSample > CloseThought > ThinkOn > TakeProbe > DrawSamples > Continue

Everything that decides whether a request goes on lives here or in a rule. What must not be here: I/O, clocks, text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from suffice.policies.budget import PROBES, Meter
from suffice.policies.decisions import (
    Abort,
    Action,
    CloseThought,
    Complete,
    Continue,
    DrawSamples,
    EndRequest,
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
    MemoryHeld,
    Paused,
    Phase,
    Priced,
    Probed,
    PromptCounted,
    Resumed,
    SegmentEnded,
    Started,
    Tick,
    Voted,
)
from suffice.policies.plan import Plan, ThinkingCap
from suffice.policies.rule import Rule, strongest
from suffice.policies.sample import FINISH, GoOn, Sample, Stop

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    """Segments, probes and votes that are still to be reported, and samples that wait for memory."""
    _held: bool = field(init=False, default=False)  # Memory is short: what would open waits.
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
    def ending(self) -> bool:
        """Whether all of the request is being ended, so that no rule is asked any more."""
        return self._ending is not None

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

    def listens_to(self, kind: type[Event]) -> bool:
        """Whether a rule wants to see events of a kind."""
        return kind in self._listeners

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
        actions: tuple[Action, ...] = ()
        match event:
            case Chunk():
                self._book(event)
            case Started():
                if self._started:
                    raise IllegalEvent("Started twice")
                self._started = True
                actions = self._launch(self.plan.samples)
            case PromptCounted():
                self._count_prompt(event)
            case SegmentEnded():
                actions = self._ended(event)
            case Probed():
                self._probed(event)
            case EngineClosed():
                self._note(event.sample, event.rule, "engine", at=event.at_token)
            case Voted():
                self._voted(event)
            case Priced():
                pass  # Rules listen to it.
            case _:
                actions = self._from_outside(event)
        listeners = self._listeners.get(type(event))
        if listeners and self._ending is None:
            actions += self._apply(strongest(listeners, event))
        if isinstance(event, SegmentEnded):
            actions += self._answer_paused(event.sample)
        if self._waiting == 0 and (self._started or self._ending is not None):
            self._complete = True
            actions += (Complete(),)
        return actions

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
                if self._unpark(decision.sample):
                    return self._cut(decision.sample, decision.rule, decision.finish.value)
                return (Abort(sample=decision.sample),) if sample.open else ()
            case EndRequest():
                return self._end_all(decision)
            case _:
                assert_never(decision)

    def _close_thought(self, decision: CloseThought) -> tuple[Action, ...]:
        sample = self._samples[decision.sample]
        ending = sample.closing or sample.stopped or sample.parking
        if not sample.open or ending or sample.answering or sample.phase is not Phase.THINKING:
            return ()
        if self.plan.close_by is ThinkingCap.ENGINE:
            sample.closing = decision
            self._note(decision.sample, decision.rule, "engine")
            return (Signal(sample=decision.sample),)
        if self.meter.room(decision.sample) < ABORT_LAG_TOKENS + self.plan.answer_reserve:
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
        self.meter.settle(PROBES, event.tokens, sample.probe)
        sample.probe = 0
        self._waiting -= 1

    def _voted(self, event: Voted) -> None:
        sample = self._samples[event.sample] if event.sample < len(self._samples) else None
        if sample is None or not sample.voting:
            raise IllegalEvent(f"sample {event.sample} is not to vote")
        self.meter.settle(PROBES, event.judge_tokens, sample.judging)
        sample.voting, sample.judging = False, 0
        self._waiting -= 1

    def _end_all(self, decision: EndRequest) -> tuple[Action, ...]:
        if self._ending is not None:
            return ()
        self._ending = decision
        actions: list[Action] = []
        for index, sample in enumerate(self._samples):
            if self._unpark(index):
                actions += self._cut(index, decision.rule, decision.finish.value)
            elif sample.open or sample.voting:
                actions.append(Abort(sample=index))
        return tuple(actions)

    def _from_outside(self, event: Tick | MemoryHeld | Paused | Resumed | ClientGone | Draining) -> tuple[Action, ...]:
        """What does not come from the samples: the clock, the engine's memory, the client, the server."""
        match event:
            case Tick():
                rule, due = "deadline_ms", self.plan.deadline_s is not None and event.at >= self.plan.deadline_s
            case MemoryHeld():
                most = self.plan.limits.get("kv_block_seconds")
                rule, due = "kv_block_seconds", most is not None and event.block_seconds >= most.value
            case ClientGone():
                rule, due = "client_gone", True
            case Draining():
                rule, due = "shutdown", True
            case Paused():
                return self._pause()
            case Resumed():
                return self._unpause()
            case _:
                assert_never(event)
        return self._apply(EndRequest(rule=rule)) if due else ()

    def _pause(self) -> tuple[Action, ...]:
        """Give memory back: what runs and can go on from its own tokens is aborted, what would open waits."""
        if self._held or self._ending is not None or not self.plan.resumes:
            return ()
        self._held = True
        for index, sample in enumerate(self._samples):
            # One that has told no token yet could only start anew; one that ends already gives its memory back anyway.
            begun = sample.open and self.meter.sample_used(index) > 0
            sample.parking = begun and sample.closing is None and sample.stopped is None
        return tuple(Abort(sample=index) for index, sample in enumerate(self._samples) if sample.parking)

    def _unpause(self) -> tuple[Action, ...]:
        self._held = False
        opened: list[Action] = []
        for index, sample in enumerate(self._samples):
            parked = sample.parked
            if parked is not None and self._unpark(index):
                opened += self._start(index, parked)
        return tuple(opened)

    def _unpark(self, index: int) -> bool:
        """Whether a sample waited for memory, which it no longer does."""
        sample = self._samples[index]
        if sample.parked is None:
            return False
        sample.parked = None
        self._waiting -= 1
        return True

    def _launch(self, count: int) -> tuple[Action, ...]:
        """Open new samples while the budget has anything for them; those of one launch share what is left."""
        opened: list[Action] = []
        # Of what earlier waves left, a sample needs enough to answer at all.
        least = self.plan.answer_reserve + 1 if self._samples else 1
        count = min(count, self.meter.left // least)
        for position in range(count):
            index = len(self._samples)
            self.meter.allot(index, min(self.plan.sample_tokens, self.meter.left // (count - position)))
            phase = Phase.ANSWER if self.plan.thinking_cap is ThinkingCap.NONE else Phase.THINKING
            self._samples.append(Sample(phase=phase))
            opened += self._start(index, GoOn(fresh=True))
        return tuple(opened)

    def _start(self, index: int, go_on: GoOn) -> tuple[Action, ...]:
        """Open a sample's next segment, or have it wait where memory is short."""
        sample = self._samples[index]
        if self._held:
            sample.parked = go_on
            self._waiting += 1
            return ()
        if not go_on.fresh:
            sample.segment += 1
        return (self._open(index, close_thought=go_on.close_thought, think_on=go_on.think_on),)

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
        sample.answering = close_thought
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
        return max(0, min(cap, size - self.plan.answer_reserve - self.plan.close_tokens))

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
            spare = max(0, self.meter.available(event.sample) - self.plan.answer_reserve)
            self.meter.hold_back(event.sample, min(ABORT_LAG_TOKENS, unused, spare))
            self._note(event.sample, sample.closing.rule, "gateway")
            return self._start(event.sample, GoOn(close_thought=event.phase is Phase.THINKING))
        room = self.meter.available(event.sample)
        if event.reason is EndReason.ABORTED and sample.parking and room > 0:
            # What the engine generated unseen meanwhile is the gateway's to bear: the answer must not become shorter.
            sample.parking = False
            return self._start(event.sample, GoOn())
        sample.parking = False
        if event.reason is EndReason.REPETITION and event.phase is Phase.THINKING and self.plan.resumes and room > 0:
            # The engine ends whole samples; of a thought that loops only the thought is over.
            self._note(event.sample, "repetition", "engine")
            return self._start(event.sample, GoOn(close_thought=True))
        if event.reason is EndReason.THOUGHT_END and room > 0:
            # Rules listen to this very event and may have the sample think on; otherwise it answers.
            sample.paused = True
            return ()
        if event.reason is EndReason.LENGTH:
            if room > 0 and unused == 0:
                return self._resume(event)
            # With tokens left in its allowance, the model's context was what ended it.
            self._note(event.sample, "context" if unused else self.plan.binding_limit, "engine")
        if event.reason is EndReason.REPETITION:
            self._note(event.sample, "repetition", "engine")
        return self._done(event.sample, FINISH[event.reason])

    def _cut(self, index: int, rule: str, finish: str) -> tuple[Action, ...]:
        self._samples[index].cut = True
        self._note(index, rule, "gateway")
        return self._done(index, finish)

    def _resume(self, event: SegmentEnded) -> tuple[Action, ...]:
        """A segment was shorter than the sample may be: go on, closing the thought if it is still open."""
        thinking = event.phase is Phase.THINKING
        if thinking:
            closing = self._samples[event.sample].closing
            self._note(event.sample, "thinking_tokens" if closing is None else closing.rule, "gateway")
        return self._start(event.sample, GoOn(close_thought=thinking))

    def _think_on(self, decision: ThinkOn) -> tuple[Action, ...]:
        sample = self._samples[decision.sample]
        cap = self._thought_cap(decision.sample)
        spare = self.meter.room(decision.sample) - self.plan.answer_reserve - self.plan.close_tokens
        full = spare < 1 or (cap is not None and sample.thinking >= cap)
        if not sample.paused or full or sample.closing is not None:
            # A thought that was closed on purpose, or has nothing left to go on with, stays closed.
            return ()
        sample.paused = False
        # The token that closed the thought is taken back.
        sample.phase = Phase.THINKING
        sample.reopened += 1
        self._note(decision.sample, decision.rule, "gateway")
        return self._start(decision.sample, GoOn(think_on=True))

    def _answer_paused(self, index: int) -> tuple[Action, ...]:
        """Nobody wanted a paused sample to think on: it answers, unless a rule ended it in its pause."""
        sample = self._samples[index]
        if not sample.paused:
            return ()
        sample.paused = False
        stopped = self._ending or sample.stopped
        if stopped is not None:
            return self._cut(index, stopped.rule, stopped.finish.value)
        return self._start(index, GoOn(close_thought=True))

    def _done(self, index: int, finish: str) -> tuple[Action, ...]:
        sample = self._samples[index]
        sample.done = True
        self.meter.close(index)
        done = SampleDone(sample=index, finish=finish)
        if not self.plan.votes or self._ending is not None:
            return (done,)
        sample.voting = True
        sample.judging = self.meter.grant(PROBES, self.plan.judge_tokens)
        self._waiting += 1
        return (done, ReadVote(sample=index, judge_tokens=sample.judging))

    def _note(self, sample: int, rule: str, by: str, *, at: int | None = None) -> None:
        used = self.meter.sample_used(sample) if at is None else at
        self.stops.append(Stop(sample=sample, rule=rule, by=by, at_token=used))


ABORT_LAG_TOKENS = 16
"""Tokens of a sample that are never granted again once a stream of it was closed early: between the last chunk that
was read and the engine's noticing the closed connection it may generate some more. They are allowed for, so that the
sum of all that upstream was ever allowed to generate still keeps the limit."""
