"""Whether a request may start now, must wait, or can never fit: admission by the projected peak of KV memory.

An engine that admits by what is free now has to preempt when answers grow; one that admits by every answer's limit
leaves most of its memory idle. Here a request is admitted while the projected peak of all that is in flight, each with
the remaining length that its past lets expect, stays below the usable memory less some headroom.

Memory is counted in tokens, each sample rounded up by the rest of a block that it may leave empty, so that the
projected peak is never below the blocks it stands for. Samples of one prompt share its full blocks. Steps are the
engine's decoding steps: every running sample gains a token a step. What must not be here: clocks, scraping,
predictions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from suffice.policies.allocation.projection import Projection
from suffice.policies.errors import IllegalEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request that wants to start.

    Attributes:
        id: Its name.
        prompt_tokens: Length of its prompt.
        limit: Tokens that one sample may generate.
        remaining: Tokens that one sample is expected not to exceed; never above ``limit``.
        samples: Samples that start together.
    """

    id: Hashable
    prompt_tokens: int
    limit: int
    remaining: int
    samples: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """It may start.

    Attributes:
        peak: Tokens held at the projected peak, with it.
        room: Tokens that may be held.
    """

    peak: int
    room: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """It must wait until something ends.

    Attributes:
        peak: Tokens that would be held at the projected peak, with it.
        room: Tokens that may be held.
    """

    peak: int
    room: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NeverFits:
    """It cannot fit even alone.

    Attributes:
        needed: Blocks that one sample takes at its limit.
        usable: Blocks that there are.
        most_tokens: The largest limit that would fit with this prompt; below 1 where none would.
    """

    needed: int
    usable: int
    most_tokens: int

    @property
    def reason(self) -> str:
        """The refusal in words, for the caller."""
        if self.most_tokens < 1:
            return f"the prompt alone takes more than the {self.usable} blocks of the KV cache"
        return (
            f"prompt and answer may take {self.needed} blocks of KV cache and there are {self.usable}; "
            f"a limit of at most {self.most_tokens} tokens fits"
        )


Verdict: TypeAlias = Admit | Wait | NeverFits


@dataclass(slots=True)
class _Sample:
    number: int
    prompt: int
    generated: int
    at: int
    """The step at which ``generated`` was right."""


@dataclass(slots=True)
class _Flight:
    """One request in flight."""

    limit: int
    shared: int
    samples: dict[int, _Sample] = field(default_factory=dict)
    shared_number: int = -1


class Admission:
    """The machine of one replica.

    Args:
        usable_blocks: Blocks that requests can hold (``KvCapacity.usable_blocks``).
        block_size: Tokens of a block.
        headroom: Share of the memory that the projected peak leaves free.
        prefix_caching: Whether samples of one prompt share its full blocks.
    """

    __slots__ = ("_block_size", "_flights", "_headroom", "_projection", "_sharing", "_usable", "_whose", "now")

    def __init__(
        self, *, usable_blocks: int, block_size: int, headroom: float = 0.05, prefix_caching: bool = True
    ) -> None:
        self.now = 0
        self._projection = Projection()
        self._flights: dict[Hashable, _Flight] = {}
        self._whose: dict[int, tuple[Hashable, int]] = {}
        self._block_size = block_size
        self._headroom = headroom
        self._sharing = prefix_caching
        self._usable = usable_blocks

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, request: Hashable) -> bool:
        return request in self._flights

    def resize(self, usable_blocks: int) -> None:
        """The pool was sized anew. What is in flight stays."""
        self._usable = usable_blocks

    @property
    def usable_blocks(self) -> int:
        """Blocks that requests can hold."""
        return self._usable

    @property
    def room(self) -> int:
        """Tokens that may be held at the projected peak."""
        return int(self._usable * self._block_size * (1 - self._headroom))

    @property
    def peak(self) -> int:
        """Tokens held at the projected peak of what is in flight."""
        return self._projection.peak()

    @property
    def peak_blocks(self) -> int:
        """Blocks held at the projected peak."""
        return self.peak // self._block_size

    @property
    def pressure(self) -> float:
        """The projected peak as a share of the usable memory."""
        return self.peak / max(self._usable * self._block_size, 1)

    def advance(self, now: int, renew: Callable[[Hashable, int, int], int]) -> None:
        """Steps went by.

        Args:
            now: The count of steps; it never goes back.
            renew: Tells, for a request, a sample and what it has generated, what is expected to remain: asked for every
                sample that outlived what was expected of it.
        """
        self.now = max(self.now, now)
        for number in self._projection.ends_before(self.now):
            request, index = self._whose.get(number, (None, -1))
            if index < 0:
                continue  # what samples share moves with the last of them
            sample = self._flights[request].samples[index]
            generated = sample.generated + self.now - sample.at
            self.progress(request, index, generated, renew(request, index, generated))

    def decide(self, ask: Ask) -> Verdict:
        """Whether a request may start. Changes nothing.

        Where nothing is in flight everything may that can ever fit, so that no request waits for an idle engine.
        """
        never = self.never_fits(ask.prompt_tokens, ask.limit)
        if never is not None:
            return never
        flight = self._enter(ask)
        peak, room = self._projection.peak(), self.room
        self._leave(flight)
        if peak <= room or not self._flights:
            return Admit(peak=peak, room=room)
        return Wait(peak=peak, room=room)

    def admit(self, ask: Ask) -> Verdict:
        """Decide, and count the request in where it may start.

        Raises:
            IllegalEvent: A request of this name is in flight.
        """
        if ask.id in self._flights:
            raise IllegalEvent("a request of this name is in flight")
        never = self.never_fits(ask.prompt_tokens, ask.limit)
        if never is not None:
            return never
        flight = self._enter(ask)
        peak, room = self._projection.peak(), self.room
        if peak > room and self._flights:
            self._leave(flight)
            return Wait(peak=peak, room=room)
        self._flights[ask.id] = flight
        return Admit(peak=peak, room=room)

    def never_fits(self, prompt_tokens: int, limit: int) -> NeverFits | None:
        """Why a request can never fit, or None where it can: one sample alone, at its limit, passes the memory."""
        needed = -(-(prompt_tokens + limit) // self._block_size)
        if needed <= self._usable:
            return None
        most = self._usable * self._block_size - prompt_tokens
        return NeverFits(needed=needed, usable=self._usable, most_tokens=most)

    def holds(self, request: Hashable, index: int) -> bool:
        """Whether a sample is in flight."""
        flight = self._flights.get(request)
        return flight is not None and index in flight.samples

    def draw(self, request: Hashable, index: int, *, prompt_tokens: int, limit: int, remaining: int) -> None:
        """One more sample of a request starts, or one goes on; it is counted in, whatever the peak.

        Args:
            request: The request; one that has nothing in flight comes back.
            index: The sample.
            prompt_tokens: Tokens that it starts from: the prompt, and what it generated before where it goes on.
            limit: Tokens that one sample may generate, where the request comes back.
            remaining: Tokens that it is expected not to exceed.

        Raises:
            IllegalEvent: The sample is in flight.
        """
        flight = self._flights.get(request)
        if flight is None:
            flight = self._flights[request] = _Flight(limit=limit, shared=0)
        if index in flight.samples:
            raise IllegalEvent(f"sample {index} is in flight already")
        self._start(request, flight, index, prompt_tokens, remaining)
        self._share(request, flight)

    def progress(
        self, request: Hashable, index: int, generated: int, remaining: int, *, prompt_tokens: int | None = None
    ) -> None:
        """What is known of a sample anew; of others nothing.

        Args:
            request: The request.
            index: The sample.
            generated: Its tokens so far.
            remaining: Tokens that it is expected not to exceed yet.
            prompt_tokens: Tokens that it started from, where they have been counted since.
        """
        flight = self._flights.get(request)
        sample = None if flight is None else flight.samples.get(index)
        if flight is None or sample is None:
            return
        self._drop(sample.number)
        if prompt_tokens is not None:
            sample.prompt = max(prompt_tokens, flight.shared)
        left = max(min(remaining, flight.limit - generated), 1)
        held = sample.prompt - flight.shared + generated + self._block_size - 1
        sample.number = self._projection.insert(self.now, held, left)
        sample.generated, sample.at = generated, self.now
        self._whose[sample.number] = (request, index)
        self._share(request, flight)

    def ended(self, request: Hashable, index: int | None = None) -> None:
        """A sample, or with None the whole request, gives back its memory. Idempotent."""
        flight = self._flights.get(request)
        if flight is None:
            return
        for each in list(flight.samples) if index is None else [index]:
            sample = flight.samples.pop(each, None)
            if sample is not None:
                self._drop(sample.number)
        self._share(request, flight)
        if not flight.samples:
            del self._flights[request]

    def _enter(self, ask: Ask) -> _Flight:
        blocks = (ask.prompt_tokens - 1) // self._block_size if ask.prompt_tokens > 0 else 0
        shared = blocks * self._block_size if self._sharing and ask.samples > 1 else 0
        flight = _Flight(limit=ask.limit, shared=shared)
        for index in range(ask.samples):
            self._start(ask.id, flight, index, ask.prompt_tokens, ask.remaining)
        self._share(ask.id, flight)
        return flight

    def _leave(self, flight: _Flight) -> None:
        for sample in flight.samples.values():
            self._drop(sample.number)
        if flight.shared_number >= 0:
            self._drop(flight.shared_number)

    def _start(self, request: Hashable, flight: _Flight, index: int, prompt_tokens: int, remaining: int) -> None:
        held = prompt_tokens - flight.shared + self._block_size - 1
        number = self._projection.insert(self.now, held, max(min(remaining, flight.limit), 0))
        flight.samples[index] = _Sample(number, prompt_tokens, 0, self.now)
        self._whose[number] = (request, index)

    def _share(self, request: Hashable, flight: _Flight) -> None:
        """What the samples share is held until the last of them ends."""
        if not flight.shared:
            return
        last = max((self._projection.end(sample.number) for sample in flight.samples.values()), default=None)
        if flight.shared_number >= 0:
            if last == self._projection.end(flight.shared_number):
                return
            self._drop(flight.shared_number)
            flight.shared_number = -1
        if last is not None:
            flight.shared_number = self._projection.insert(self.now, flight.shared, last - self.now, grows=False)
            self._whose[flight.shared_number] = (request, -1)

    def _drop(self, number: int) -> None:
        self._projection.remove(number)
        self._whose.pop(number, None)
