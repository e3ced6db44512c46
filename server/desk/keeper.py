"""What the clock does at the desk: read the engine, move the prices, pause and resume bulk work, watch KV budgets.

What must not be here: who starts next (``desk``).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from suffice.policies.allocation.price import Load, Prices, PriceState, update
from suffice.policies.allocation.tickets import ServiceClass
from suffice.policies.events import MemoryHeld, Paused, Priced, Resumed
from suffice.policies.memory.retraction import Generation, Retraction
from suffice.server.engine.metrics import EngineState, read_state
from suffice.server.errors import ApiError

if TYPE_CHECKING:
    from suffice.server.config import KvSection
    from suffice.server.desk.desk import Desk
    from suffice.server.desk.seat import Seat
    from suffice.server.telemetry.metrics import Metrics

_LOG = logging.getLogger(__name__)


class Pages(Protocol):
    """Where an engine's pages can be read."""

    async def get_text(self, path: str) -> str:
        """Fetch a page.

        Raises:
            ApiError: It cannot be read.
        """
        ...


class Keeper:
    """The clock of one desk.

    Args:
        desk: The desk.
        section: What the operator set.
        upstream: The engine to read.
        metrics: Where it is shown.

    Attributes:
        prices: Prices now.
    """

    def __init__(self, desk: Desk, section: KvSection, upstream: Pages, metrics: Metrics) -> None:
        self._desk = desk
        self._section = section
        self._upstream = upstream
        self._metrics = metrics
        self._level = PriceState()
        self._rule = section.price.rule() if section.price is not None else None
        self.prices = Prices()
        self._retraction = Retraction(section.retraction.rule()) if section.retraction is not None else None
        self._bulk: set[str] = set()

    async def watch(self) -> None:
        """Tick until cancelled. A tick that fails is told and does not end the watch."""
        while True:
            await self._read()
            try:
                self.tick()
            except Exception as error:  # noqa: BLE001 - without a clock whoever waits would wait for ever
                _LOG.error("a tick of the desk failed: %s", type(error).__name__)  # its message may hold names
            await asyncio.sleep(self._section.scrape_s)

    async def _read(self) -> None:
        try:
            page = await self._upstream.get_text("/metrics")
            state = read_state(page, self._desk.clock())
        except (ApiError, ValueError):
            self._metrics.engine_scrapes.labels("failed").inc()
            return
        self._metrics.engine_scrapes.labels("read").inc()
        last = self._desk.state
        if state.capacity is None and last is not None:
            # The pool does not change while an engine lives; a page without it is no reason to forget it.
            state = replace(state, capacity=last.capacity)
        self._desk.read(state)

    def tick(self) -> None:
        """One step of the clock."""
        desk = self._desk
        desk.advance()
        self._move_prices()
        self._watch_budgets()
        if self._retraction is not None and desk.admission is not None:
            self._retract(self._retraction)
        self._show(desk.state)

    def prices_for(self, seat: Seat) -> Priced | None:
        """The prices as an event for a request; None where there are none, or its rules do not listen."""
        capacity = None if self._desk.state is None else self._desk.state.capacity
        if self._rule is None or seat.clock is None or not seat.wants_prices:
            return None
        return Priced(
            at=seat.clock(),
            second=self.prices.second,
            block_second=self.prices.block_second,
            token_s=self._desk.pace.token_s,
            step_s=self._desk.pace.step_s,
            block_size=0 if capacity is None else capacity.block_size,
        )

    def _move_prices(self) -> None:
        if self._rule is None:
            return
        admission = self._desk.admission
        load = Load(
            at=self._desk.clock(),
            queue_s=self._desk.backlog_s,
            kv_pressure=0.0 if admission is None else admission.pressure,
        )
        self._level, prices = update(self._level, load, self._rule)
        changed, self.prices = prices != self.prices, prices
        if not changed:
            return
        for seat in self._desk.running():
            event = self.prices_for(seat)
            if event is not None and seat.interrupt is not None:
                seat.interrupt(event)

    def _watch_budgets(self) -> None:
        for seat in self._desk.running():
            if seat.visit.block_seconds is not None and seat.interrupt is not None and seat.clock is not None:
                seat.interrupt(MemoryHeld(at=seat.clock(), block_seconds=seat.block_seconds))

    def _retract(self, retraction: Retraction) -> None:
        """Pause bulk work that is in the way, resume what has room again."""
        desk = self._desk
        admission, now = desk.admission, desk.clock()
        able = {
            seat.visit.id: seat
            for seat in desk.running()
            if seat.visit.service is ServiceClass.BULK and seat.visit.pausable and seat.interrupt is not None
        }
        for gone in self._bulk - able.keys():
            retraction.ended(gone)
        for new in able.keys() - self._bulk:
            retraction.started(new, now)
        self._bulk = set(able)
        if admission is None or not able:
            return
        running = tuple(self._generation(seat) for seat in able.values() if not seat.paused and seat.samples)
        wanted = admission.peak_blocks + desk.waiting_blocks()
        decided = retraction.decide(now, admission.usable_blocks, wanted, running)
        for name in (*decided.pause, *decided.resume):
            seat = able[name]
            pause = name in decided.pause
            seat.paused = pause
            self._metrics.retractions.labels("pause" if pause else "resume").inc()
            if seat.interrupt is not None and seat.clock is not None:
                seat.interrupt(Paused(at=seat.clock()) if pause else Resumed(at=seat.clock()))
        if decided.pause or decided.resume:
            desk.dispatch()

    def _generation(self, seat: Seat) -> Generation:
        """What a bulk request holds, and will hold at its end."""
        size = self._desk.block_size
        held = peak = 0
        for sample in seat.samples.values():
            generated = sample.before + sample.generated
            now = self._desk.prompt_tokens(seat.visit) + generated
            held += -(-now // size)
            peak += -(-(now + self._desk.remaining(seat.visit, generated)) // size)
        return Generation(id=seat.visit.id, held_blocks=held, peak_blocks=peak)

    def _show(self, state: EngineState | None) -> None:
        metrics, desk = self._metrics, self._desk
        metrics.prices.labels("second").set(self.prices.second)
        metrics.prices.labels("block_second").set(self.prices.block_second)
        metrics.paused.set(sum(seat.paused for seat in desk.running()))
        if desk.age is not None:
            metrics.engine_state_age.set(desk.age)
        if desk.admission is not None:
            metrics.kv_projected.set(desk.admission.peak_blocks)
            metrics.kv_usable.set(desk.admission.usable_blocks)
        if state is None:
            return
        if state.held_blocks is not None:
            metrics.kv_held.set(state.held_blocks)
        for kind, value in (("running", state.running), ("waiting", state.waiting)):
            if value is not None:
                metrics.engine_requests.labels(kind).set(value)
        if state.preemptions is not None:
            metrics.engine_preemptions.set(state.preemptions)
