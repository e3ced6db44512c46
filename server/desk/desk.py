"""The desk between reserving and driving: who starts now, who waits, who is told that it will not work out.

The machines that decide are pure (``suffice.policies.allocation``, ``suffice.policies.memory``); the desk feeds them
with time, readings of the engine and the progress of requests, and wakes whoever may start. What must not be here:
how the engine is read (``keeper``), and any decision of its own.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from suffice.policies.allocation.admission import Admission, Admit, Ask, NeverFits
from suffice.policies.allocation.pace import Pace
from suffice.policies.allocation.prompts import PromptRatios
from suffice.policies.allocation.queue import FairQueue
from suffice.policies.allocation.tickets import QueueRule, Refusal, Refused, ServiceClass, Ticket
from suffice.policies.memory.block_seconds import closed_form, worst_block_seconds
from suffice.policies.memory.holding import Holding, full_attention
from suffice.server.desk.seat import RunningSample, Seat, Visit
from suffice.server.errors import ClientLeft, ContextExceeded, DeadlineUnreachable, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from suffice.policies.allocation.lengths import LengthBook
    from suffice.server.config import KvSection
    from suffice.server.engine.metrics import EngineState
    from suffice.server.telemetry.metrics import Metrics

_FIRST_RATE = 64.0
"""Blocks that an engine is taken to hold while it is busy, until it was seen."""


class Desk:
    """The desk before one engine.

    Args:
        section: What the operator set.
        metrics: Where it shows what it does.
        lengths: How long answers were.
        clock: Seconds that never go back.

    Attributes:
        state: The last reading of the engine; None before there was one.
        admission: Who fits; None until the engine told the size of its cache.
        pace: How fast the engine goes.
    """

    def __init__(
        self,
        section: KvSection,
        metrics: Metrics,
        lengths: LengthBook,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.section = section
        self.clock = clock
        self.state: EngineState | None = None
        self.admission: Admission | None = None
        self.pace = Pace()
        self._metrics = metrics
        self._lengths = lengths
        rule = QueueRule(most=section.queue, most_per_tenant=section.queue_per_tenant)
        self._queue = FairQueue(rule, rate=_FIRST_RATE)
        self._waiting: dict[Hashable, Seat] = {}
        self._seats: dict[Hashable, Seat] = {}
        self._prompts = PromptRatios()
        self._open = True

    # -- the engine

    def read(self, state: EngineState) -> None:
        """Take in a new reading of the engine."""
        self.state = state
        capacity = state.capacity
        if capacity is not None:
            if self.admission is None:
                self.admission = Admission(
                    usable_blocks=capacity.usable_blocks,
                    block_size=capacity.block_size,
                    headroom=self.section.headroom,
                    prefix_caching=capacity.prefix_caching,
                )
            else:
                self.admission.resize(capacity.usable_blocks)
        held = state.held_blocks
        if held and len(self._queue):
            self._queue.observe_rate(state.at, held)
        self.dispatch()

    @property
    def block_size(self) -> int:
        """Tokens of a KV block; vLLM's default where the engine did not tell."""
        return 16 if self.state is None or self.state.capacity is None else self.state.capacity.block_size

    @property
    def age(self) -> float | None:
        """Seconds since the engine was last read; None before it was."""
        return None if self.state is None else self.clock() - self.state.at

    @property
    def stale(self) -> bool:
        """Whether the last reading is too old to act on by itself."""
        return self.age is None or self.age > self.section.stale_s

    # -- requests

    def seat(self, visit: Visit) -> Seat:
        """A place for a request; nothing is held for it before it waits."""
        return Seat(self, visit)

    async def enter(self, seat: Seat) -> None:
        """Wait until the request may start.

        Raises:
            ContextExceeded: It can never fit into the KV cache.
            Overloaded: The queue is full, the server shuts down, or the engine's state is not known and the operator
                wants nobody to start then.
            DeadlineUnreachable: It could not be done by its deadline.
            ClientLeft: The client left meanwhile.
        """
        admission = self.admission
        off = self.section.admission == "off"
        if off or self._blind() or admission is None:
            self._decided("off" if off else "unknown")
            self._start(seat)
            return
        ask = self._ask(seat)
        # The prompt is only estimated: what it may be less long by must refuse nobody.
        never = admission.never_fits(1, ask.limit)
        if never is not None:
            raise self._never(never)
        if not len(self._queue) and isinstance(admission.admit(ask), Admit):
            self._decided("admitted")
            self._start(seat)
            return
        await self._wait(seat, ask)

    def _blind(self) -> bool:
        """Whether to let everybody through because the engine's state is not known.

        Raises:
            Overloaded: It is not, and the operator wants nobody to start then.
        """
        if not self.stale or self.section.when_stale == "hold_last":
            return False
        if self.section.when_stale == "fail_closed":
            self._decided("unknown")
            raise Overloaded("the engine's state is not known", retry_after_s=1, code="engine_state_unknown")
        return True

    def _never(self, never: NeverFits) -> ContextExceeded:
        self._decided("never_fits")
        return ContextExceeded(never.reason, param="max_tokens", code="kv_cache_exceeded")

    async def _wait(self, seat: Seat, ask: Ask) -> None:
        if not self._open:
            raise _shutting_down()
        now = self.clock()
        visit = seat.visit
        service_s = self.pace.seconds(ask.remaining)
        seat.ticket = Ticket(
            id=visit.id,
            tenant=visit.tenant,
            cost=self._expected_cost(ask),
            service=visit.service,
            deadline=None if visit.deadline_s is None else visit.received + visit.deadline_s,
            service_s=service_s,
        )
        answer = self._queue.offer(seat.ticket, now)
        if isinstance(answer, Refused):
            self._decided(answer.reason.value)
            raise _refusal(answer)
        self._decided("queued")
        seat.ready = asyncio.get_running_loop().create_future()
        self._waiting[visit.id] = seat
        self.dispatch()
        try:
            await seat.ready
        finally:
            # However it ends, also by cancellation: what does not start leaves no trace.
            self._waiting.pop(visit.id, None)
            self._queue.cancel(visit.id)
            seat.queue_s = self.clock() - now
            self._metrics.queue_wait.labels(visit.service.value).observe(seat.queue_s)
            self._metrics.queue_depth.labels(visit.service.value).set(self._queue.waiting(visit.service))

    def give_up(self, seat: Seat) -> None:
        """A client left while its request waited. Idempotent."""
        self._turn_away(seat, ClientLeft("queued"))

    def close(self) -> None:
        """Let nobody wait any more: the server shuts down."""
        self._open = False
        for seat in tuple(self._waiting.values()):
            self._turn_away(seat, _shutting_down())

    def _turn_away(self, seat: Seat, why: Exception) -> None:
        """End a wait; what waits no longer is charged nothing."""
        self._queue.cancel(seat.visit.id)
        if seat.ready is not None and not seat.ready.done():
            seat.ready.set_exception(why)

    def dispatch(self) -> None:
        """Start whoever may start now, and refuse whoever can no longer be done in time."""
        for ticket in self._queue.expire(self.clock()):
            self._decided("deadline_passed")
            late = "the deadline can no longer be met"
            why = DeadlineUnreachable(late, param="suffice.budget.deadline_ms", retry_after_s=1)
            self._turn_away(self._waiting[ticket.id], why)
        while len(self._queue):
            taken = self._queue.take(self._fits)
            if taken is None:
                return
            seat = self._waiting[taken.id]
            if seat.ready is None or seat.ready.done():
                self._queue.settle(taken, 0.0)  # its task was cancelled in this very moment
                continue
            if self.admission is not None:
                self.admission.admit(self._ask(seat))
            self._start(seat)
            seat.ready.set_result(None)

    def _fits(self, ticket: Ticket) -> bool:
        admission = self.admission
        return admission is None or isinstance(admission.decide(self._ask(self._waiting[ticket.id])), Admit)

    def _start(self, seat: Seat) -> None:
        seat.running = True
        self._seats[seat.visit.id] = seat
        if self.state is not None and self.state.capacity is not None:
            capacity = self.state.capacity
            shared = capacity.prefix_caching and seat.visit.prompts == 1
            seat.holding = Holding(full_attention(capacity.block_size, prefix_caching=shared))

    def leave(self, seat: Seat) -> None:
        """A request is over. Idempotent."""
        if not seat.running:
            return
        seat.running = False
        self._seats.pop(seat.visit.id, None)
        for sample in tuple(seat.samples):
            seat.closed(sample)
        if self.admission is not None:
            self.admission.ended(seat.visit.id)
        held = seat.block_seconds
        self._metrics.block_seconds.labels(seat.visit.service.value).inc(held)
        if seat.ticket is not None:
            self._queue.settle(seat.ticket, held)
        self.dispatch()

    # -- samples

    def sample_opened(self, seat: Seat, sample: int, generated: int) -> None:
        """A generation starts; one that was not counted in with its request is, whatever the peak."""
        visit, admission = seat.visit, self.admission
        self.pace.opened()
        start = self.prompt_tokens(visit) + generated
        if seat.holding is not None:
            seat.holding.opened(sample, self.clock(), start, fresh=generated == 0)
        if admission is not None and not admission.holds(visit.id, sample):
            remaining = self.remaining(visit, generated)
            admission.draw(visit.id, sample, prompt_tokens=start, limit=visit.sample_tokens, remaining=remaining)

    def sample_grew(self, seat: Seat, index: int, sample: RunningSample, tokens: int, start: int | None) -> None:
        """A sample has generated more; its projection is renewed only where it drifted by a block."""
        now, first = self.clock(), sample.booked < 0
        self.pace.grew(tokens, now - sample.last, first=first)
        sample.last = now
        if first and start is not None and sample.before == 0:
            visit = seat.visit
            self._prompts.learn(visit.route, visit.model, estimate=visit.prompt_tokens, counted=start)
        if seat.holding is not None:
            if first and start is not None:
                seat.holding.started_from(index, start)
            seat.holding.grew(index, now, tokens)
        admission = self.admission
        if admission is None:
            return
        expected = sample.booked + self.pace.steps - sample.step
        if first or abs(sample.generated - expected) >= self.block_size:
            sample.booked, sample.step = sample.generated, self.pace.steps
            admission.advance(int(self.pace.steps), self._renew)
            remaining = self.remaining(seat.visit, sample.before + sample.generated)
            known = start if first else None
            admission.progress(seat.visit.id, index, sample.generated, remaining, prompt_tokens=known)

    def sample_closed(self, seat: Seat, sample: int) -> None:
        """A generation is over: its memory is free."""
        self.pace.closed()
        if seat.holding is not None:
            seat.holding.closed(sample, self.clock())
        if self.admission is not None:
            self.admission.ended(seat.visit.id, sample)
            self.dispatch()

    def learn(self, visit: Visit, tokens: int, *, cut: bool) -> None:
        """A sample is complete."""
        self._lengths.observe(key=visit.key, route=visit.route, model=visit.model, tokens=tokens, cut=cut)

    def prompt_tokens(self, visit: Visit) -> int:
        """The likely length of a prompt, by how far estimates from above were off before."""
        return self._prompts.likely(visit.route, visit.model, visit.prompt_tokens)

    def remaining(self, visit: Visit, generated: int) -> int:
        """Tokens that a sample is expected to generate yet, as admission counts them."""
        about: dict[str, Any] = {"key": visit.key, "route": visit.route, "model": visit.model}
        about |= {"limit": visit.sample_tokens, "generated": generated}
        quantile = self.section.length_quantile
        if quantile is None:
            return self._lengths.mean_remaining(**about).tokens
        return self._lengths.remaining(quantile=quantile, **about).tokens

    def _renew(self, request: Hashable, index: int, generated: int) -> int:
        seat = self._seats.get(request)
        sample = None if seat is None else seat.samples.get(index)
        if seat is None or sample is None:
            return 1
        return self.remaining(seat.visit, sample.before + generated)

    def _ask(self, seat: Seat) -> Ask:
        visit, prompt = seat.visit, self.prompt_tokens(seat.visit)
        if self.admission is not None:
            # An estimate that is too long by itself must not keep anybody waiting for ever.
            prompt = max(min(prompt, self.admission.usable_blocks * self.block_size - visit.sample_tokens), 1)
        return Ask(
            id=visit.id,
            prompt_tokens=prompt,
            limit=visit.sample_tokens,
            remaining=self.remaining(visit, 0),
            samples=visit.samples,
        )

    def worst_block_seconds(self, prompt_tokens: int, sample_tokens: int, samples: int) -> float:
        """KV-block-seconds of a request whose samples all run to their limit, at half the engine's present speed."""
        kv = full_attention(self.block_size)
        step_s = 2 * self.pace.step_s
        return worst_block_seconds(kv, prompt_tokens, sample_tokens, samples, step_s, step_s)

    def _expected_cost(self, ask: Ask) -> float:
        """KV-block-seconds that a request is expected to take."""
        one = closed_form(ask.prompt_tokens, ask.remaining, self.block_size, 0.0, self.pace.step_s)
        return ask.samples * one

    # -- what the clock does

    def running(self) -> Iterator[Seat]:
        """Requests that run."""
        return iter(tuple(self._seats.values()))

    @property
    def backlog_s(self) -> float:
        """Seconds until all that waits now has been served."""
        return self._queue.backlog_s

    def waiting_blocks(self, most: int = 8) -> int:
        """Blocks that the first requests that wait and are not bulk would hold at their ends."""
        if self.state is None or self.state.capacity is None:
            return 0
        tokens = 0
        for seat in self._waiting.values():
            if seat.visit.service is not ServiceClass.BULK:
                ask = self._ask(seat)
                tokens += ask.prompt_tokens + ask.samples * ask.remaining
                most -= 1
                if most == 0:
                    break
        return -(-tokens // self.block_size)

    def advance(self) -> None:
        """Renew what outlived its prediction, then start whoever may. For a clock."""
        if self.admission is not None:
            self.admission.advance(int(self.pace.steps), self._renew)
        for service in ServiceClass:
            self._metrics.queue_depth.labels(service.value).set(self._queue.waiting(service))
        self.dispatch()

    def _decided(self, verdict: str) -> None:
        self._metrics.admission_decisions.labels(verdict).inc()


def _shutting_down() -> Overloaded:
    return Overloaded("the server is shutting down", retry_after_s=5, code="shutting_down")


def _refusal(refused: Refused) -> Overloaded | DeadlineUnreachable:
    if refused.reason is Refusal.DEADLINE:
        return DeadlineUnreachable(
            f"the wait of about {refused.wait_s:.1f} s leaves no time to answer by the deadline",
            param="suffice.budget.deadline_ms",
            retry_after_s=refused.retry_after_s,
        )
    whose = "this tenant's requests" if refused.reason is Refusal.TENANT_FULL else "requests"
    return Overloaded(f"too many of {whose} wait", retry_after_s=refused.retry_after_s, code=refused.reason.value)
