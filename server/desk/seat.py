"""One request at the desk: its wait, its samples' memory, and what it has taken of the cache.

The driver tells it what its samples do; it tells the desk. What must not be here: who starts next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suffice.policies.memory.block_seconds import Timings

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from suffice.policies.allocation.tickets import ServiceClass, Ticket
    from suffice.policies.events import AnyEvent
    from suffice.policies.memory.holding import Holding
    from suffice.server.desk.desk import Desk


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What the desk is told of a request.

    Attributes:
        id: Its name.
        key: Whose it is.
        tenant: Who shares fairly with others: the team, or the key without one.
        route: Where it came in.
        model: Who answers.
        service: Its class.
        prompt_tokens: Length of each prompt, estimated from above.
        sample_tokens: Tokens that one sample may generate.
        samples: Samples that start together.
        prompts: Prompts; samples of one share its blocks.
        received: When it came, in the desk's seconds.
        deadline_s: Seconds from then until it must be done; None where any time will do.
        block_seconds: KV-block-seconds that it may take; None without such a limit.
        pausable: Whether its samples can go on from their own tokens, unseen by the client.
    """

    id: str
    key: str
    tenant: str
    route: str
    model: str
    service: ServiceClass
    prompt_tokens: int
    sample_tokens: int
    samples: int = 1
    prompts: int = 1
    received: float = 0.0
    deadline_s: float | None = None
    block_seconds: float | None = None
    pausable: bool = False


@dataclass(slots=True)
class RunningSample:
    """What the desk believes of a running sample."""

    before: int
    """Tokens that it had generated when this generation began."""
    generated: int = 0
    booked: int = -1
    """Tokens at which its projection was last renewed; -1 before its first token."""
    step: float = 0.0
    """The desk's count of steps then."""
    last: float = 0.0


class Seat:
    """A request's place, made by ``Desk.seat``; every method is O(1) or as cheap as the projection.

    Attributes:
        visit: What the desk was told.
        queue_s: Seconds that it waited.
        interrupt: Where events from outside its streams go, once it is driven.
        wants_prices: Whether its rules listen to prices.
    """

    def __init__(self, desk: Desk, visit: Visit) -> None:
        self._desk = desk
        self.visit = visit
        self.queue_s = 0.0
        self.ticket: Ticket | None = None
        self.ready: asyncio.Future[None] | None = None
        self.running = False
        self.paused = False
        self.holding: Holding | None = None
        self.interrupt: Callable[[AnyEvent], None] | None = None
        self.clock: Callable[[], float] | None = None
        self.wants_prices = False
        self.samples: dict[int, RunningSample] = {}

    async def wait(self) -> None:
        """Wait until the request may start; see ``Desk.enter``."""
        await self._desk.enter(self)

    def drive(self, interrupt: Callable[[AnyEvent], None], clock: Callable[[], float], *, wants_prices: bool) -> None:
        """The request's driver is made.

        Args:
            interrupt: Where events from outside its streams go.
            clock: Seconds since the request was received.
            wants_prices: Whether its rules listen to prices.
        """
        self.interrupt, self.clock, self.wants_prices = interrupt, clock, wants_prices

    def opened(self, sample: int, generated: int) -> None:
        """A generation of a sample starts.

        Args:
            sample: Index of the sample.
            generated: Tokens that it generated before.
        """
        self.samples[sample] = RunningSample(before=generated, last=self._desk.clock())
        self._desk.sample_opened(self, sample, generated)

    def grew(self, sample: int, tokens: int, start: int | None = None) -> None:
        """A sample generated more tokens.

        Args:
            sample: Index of the sample.
            tokens: How many.
            start: Tokens that its generation started from, as the engine counts them; None where it does not tell.
        """
        found = self.samples.get(sample)
        if found is not None and tokens > 0:
            found.generated += tokens
            self._desk.sample_grew(self, sample, found, tokens, start)

    def timed(self, sample: int, metrics: Any) -> None:
        """The engine told the times of a generation (``--enable-per-request-metrics``); anything odd is ignored."""
        if self.holding is None or not isinstance(metrics, dict):
            return
        first, decode = metrics.get("time_to_first_token_ms"), metrics.get("generation_time_ms")
        queue = metrics.get("queue_time_ms") or 0.0
        if all(isinstance(value, int | float) and 0 <= value < _LONGEST_MS for value in (first, decode, queue)):
            prefill = max(first - queue, 0.0)  # type: ignore[operator]  # checked to be numbers
            self.holding.timed(
                sample,
                Timings(prefill_s=prefill / 1000, decode_s=decode / 1000, queue_s=queue / 1000),  # type: ignore[operator]
            )

    def closed(self, sample: int) -> None:
        """The generation is over, and its memory free."""
        if self.samples.pop(sample, None) is not None:
            self._desk.sample_closed(self, sample)

    def done(self, tokens: int, *, cut: bool) -> None:
        """A sample is complete: its length is one more to predict by."""
        self._desk.learn(self.visit, tokens, cut=cut)

    @property
    def block_seconds(self) -> float:
        """KV-block-seconds taken so far; 0 where the engine's block size is not known."""
        return 0.0 if self.holding is None else self.holding.total(self._desk.clock())

    def give_up(self) -> None:
        """The client left while the request waited. Idempotent."""
        self._desk.give_up(self)

    def leave(self) -> None:
        """The request is over, however it ended. Idempotent."""
        self._desk.leave(self)


_LONGEST_MS = 1e9
