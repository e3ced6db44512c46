"""Who goes next, and who is told at the door that it will not work out.

Three levels, each fair in KV-block-seconds, the resource that is short: classes share by weight (start-time fair
queueing, so bulk always gets its part and an idle class's part goes to the others); within a class tenants share by
weight (virtual token counter, arXiv 2401.00588, with lift on re-arrival); within a tenant the earliest deadline goes
first, then whoever came first. A request is charged what it is expected to cost when it starts and the difference
when it ends. Where the next does not fit the memory, others may overtake it a bounded number of times.

The queue is bounded in all and for each tenant, and a request whose deadline the expected wait would break is refused
when it comes. All steps take time logarithmic in what is queued. What must not be here: clocks, tasks, memory.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from suffice.policies.allocation.tickets import (
    Answer,
    Queued,
    QueueRule,
    Refusal,
    Refused,
    ServiceClass,
    Ticket,
)
from suffice.policies.errors import IllegalEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


@dataclass(slots=True)
class _Waiting:
    ticket: Ticket
    order: int
    skipped: int = 0


@dataclass(slots=True)
class _Line:
    """The requests of one tenant in one class."""

    tenant: str
    counter: float
    weight: float
    work: float = 0.0
    count: int = 0
    version: int = 0
    heap: list[tuple[float, int, Hashable]] = field(default_factory=list)


@dataclass(slots=True)
class _Lane:
    """One class."""

    service: ServiceClass
    rank: int
    share: float
    virtual: float = 0.0
    floor: float = 0.0
    work: float = 0.0
    count: int = 0
    lines: dict[str, _Line] = field(default_factory=dict)
    heap: list[tuple[float, int, str, int]] = field(default_factory=list)
    """Lines by their counters; entries of old versions are passed over."""
    idle: OrderedDict[str, float] = field(default_factory=OrderedDict)
    """Counters of tenants that have nothing waiting and took more than their part."""


_MOST_IDLE = 4096


class FairQueue:
    """The machine of one pool of replicas.

    Args:
        rule: Bounds and shares.
        rate: KV-block-seconds that the engine serves a second, at first: the blocks that it holds when busy.
    """

    __slots__ = ("_expiry", "_floor", "_lanes", "_order", "_rate", "_rate_at", "_rule", "_tenants", "_waiting")

    def __init__(self, rule: QueueRule | None = None, *, rate: float) -> None:
        self._rule = rule or QueueRule()
        self._lanes = {
            service: _Lane(service, rank, self._rule.shares[service]) for rank, service in enumerate(ServiceClass)
        }
        self._waiting: dict[Hashable, _Waiting] = {}
        self._tenants: dict[str, int] = {}
        self._expiry: list[tuple[float, int, Hashable]] = []
        self._order = 0
        self._floor = 0.0
        self._rate = rate
        self._rate_at: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def work(self) -> float:
        """KV-block-seconds that wait."""
        return sum(lane.work for lane in self._lanes.values())

    @property
    def backlog_s(self) -> float:
        """Seconds until all that waits now has been served."""
        return self.work / max(self._rate, 1e-9)

    def waiting(self, service: ServiceClass) -> int:
        """Requests of one class that wait."""
        return self._lanes[service].count

    def observe_rate(self, at: float, held_blocks: float) -> None:
        """What the engine holds while it is busy, which is what it serves a second. Smoothed over half a minute."""
        elapsed = 0.0 if self._rate_at is None else max(at - self._rate_at, 0.0)
        self._rate_at = at
        self._rate += (held_blocks - self._rate) * -math.expm1(-elapsed / 30.0)

    def offer(self, ticket: Ticket, at: float) -> Answer:
        """A request comes.

        Raises:
            IllegalEvent: One of this name waits already.
        """
        if ticket.id in self._waiting:
            raise IllegalEvent("a request of this name waits already")
        wait = self.expected_wait(ticket)
        if len(self._waiting) >= self._rule.most:
            return self._refused(Refusal.FULL, wait, self.work / max(len(self._waiting), 1))
        if self._tenants.get(ticket.tenant, 0) >= self._rule.most_per_tenant:
            return self._refused(Refusal.TENANT_FULL, wait, wait * self._rate / self._rule.most_per_tenant)
        if ticket.deadline is not None and at + wait + ticket.service_s > ticket.deadline:
            return self._refused(Refusal.DEADLINE, wait, wait * self._rate)
        ahead = len(self._waiting)
        self._put(ticket)
        return Queued(wait_s=wait, ahead=ahead)

    def expected_wait(self, ticket: Ticket) -> float:
        """Seconds until a request that came now would start, by what waits and how fast it is served; an estimate.

        Ahead of it are its tenant's own requests, as much of each other tenant in its class as fairness puts first, and
        of the other classes as much as their shares take meanwhile.
        """
        lane = self._lanes[ticket.service]
        line = lane.lines.get(ticket.tenant)
        own = line.work if line is not None else 0.0
        others = len(lane.lines) - (line is not None)
        in_lane = min(lane.work, own + (own + ticket.cost) * others)
        ahead = in_lane
        for other in self._lanes.values():
            if other is not lane:
                ahead += min(other.work, (in_lane + ticket.cost) * other.share / lane.share)
        return ahead / max(self._rate, 1e-9)

    def take(self, fits: Callable[[Ticket], bool] | None = None) -> Ticket | None:
        """The request that starts next, taken out of the queue and charged.

        Args:
            fits: Whether a request may start; asked of a few at most, in order. Without it all may.

        Returns:
            The request, or None where none waits or none of the first fits.
        """
        busy = [lane for lane in self._lanes.values() if lane.count]
        overtaken: list[_Waiting] = []
        for lane in sorted(busy, key=lambda lane: (lane.virtual, lane.rank)):
            found, blocked = self._find(lane, fits, overtaken)
            if found is not None:
                for waiting in overtaken:
                    waiting.skipped += 1
                self._start(lane, found)
                return found.ticket
            if blocked:
                return None
        return None

    def settle(self, ticket: Ticket, actual: float) -> None:
        """A request that was taken has ended: charge what it took instead of what was expected.

        Args:
            ticket: The request, as it was taken.
            actual: KV-block-seconds that it took.
        """
        difference = actual - ticket.cost
        lane = self._lanes[ticket.service]
        lane.virtual += difference / lane.share
        line = lane.lines.get(ticket.tenant)
        if line is not None:
            line.counter += difference / line.weight
            self._enlist(lane, line)
        else:
            counter = lane.idle.pop(ticket.tenant, lane.floor) + difference / ticket.weight
            self._rest(lane, ticket.tenant, counter)

    def cancel(self, request: Hashable) -> Ticket | None:
        """A request is no longer wanted. Idempotent; returns it if it waited."""
        waiting = self._waiting.get(request)
        if waiting is None:
            return None
        lane = self._lanes[waiting.ticket.service]
        self._remove(lane, waiting)
        return waiting.ticket

    def expire(self, at: float) -> tuple[Ticket, ...]:
        """Take out the requests that can no longer be done by their deadlines."""
        gone: list[Ticket] = []
        while self._expiry and (self._expiry[0][0] < at or not self._is(self._expiry[0])):
            entry = heappop(self._expiry)
            if self._is(entry):
                waiting = self._waiting[entry[2]]
                self._remove(self._lanes[waiting.ticket.service], waiting)
                gone.append(waiting.ticket)
        return tuple(gone)

    def next_expiry(self) -> float | None:
        """When ``expire`` may next have something to do; None where nothing that waits has a deadline."""
        while self._expiry and not self._is(self._expiry[0]):
            heappop(self._expiry)
        return self._expiry[0][0] if self._expiry else None

    def _is(self, entry: tuple[float, int, Hashable]) -> bool:
        waiting = self._waiting.get(entry[2])
        return waiting is not None and waiting.order == entry[1]

    def _refused(self, reason: Refusal, wait: float, work: float) -> Refused:
        """Try again when so much work was served."""
        retry = min(max(work / max(self._rate, 1e-9), self._rule.least_retry_s), self._rule.most_retry_s)
        return Refused(reason=reason, wait_s=wait, retry_after_s=retry)

    def _put(self, ticket: Ticket) -> None:
        lane = self._lanes[ticket.service]
        if not lane.count:
            lane.virtual = max(lane.virtual, self._floor)
        line = lane.lines.get(ticket.tenant)
        if line is None:
            # Lift: whoever was away comes back level with the others, and keeps what it took beyond its part.
            counter = max(lane.idle.pop(ticket.tenant, lane.floor), lane.floor)
            line = _Line(ticket.tenant, counter, ticket.weight)
            lane.lines[ticket.tenant] = line
            self._enlist(lane, line)
        line.weight = ticket.weight
        waiting = _Waiting(ticket, self._order)
        self._order += 1
        self._waiting[ticket.id] = waiting
        self._tenants[ticket.tenant] = self._tenants.get(ticket.tenant, 0) + 1
        heappush(line.heap, self._entry(waiting))
        for part in (lane, line):
            part.work += ticket.cost
            part.count += 1
        if ticket.deadline is not None:
            heappush(self._expiry, (ticket.deadline - ticket.service_s, waiting.order, ticket.id))
            if len(self._expiry) > 2 * len(self._waiting) + 64:
                self._expiry = [entry for entry in self._expiry if self._is(entry)]
                heapify(self._expiry)

    @staticmethod
    def _entry(waiting: _Waiting) -> tuple[float, int, Hashable]:
        deadline = waiting.ticket.deadline
        return (math.inf if deadline is None else deadline, waiting.order, waiting.ticket.id)

    def _enlist(self, lane: _Lane, line: _Line) -> None:
        """The line's counter has changed: its old entry in the lane no longer counts."""
        line.version = self._order
        self._order += 1
        heappush(lane.heap, (line.counter, line.version, line.tenant, line.version))
        if len(lane.heap) > 2 * len(lane.lines) + 64:
            lane.heap = [entry for entry in lane.heap if self._listed(lane, entry)]
            heapify(lane.heap)

    @staticmethod
    def _listed(lane: _Lane, entry: tuple[float, int, str, int]) -> bool:
        line = lane.lines.get(entry[2])
        return line is not None and line.version == entry[3]

    def _find(
        self, lane: _Lane, fits: Callable[[Ticket], bool] | None, overtaken: list[_Waiting]
    ) -> tuple[_Waiting | None, bool]:
        """The first request of a class that fits, and whether one that does not may no longer be overtaken.

        Requests that do not fit are added to ``overtaken``.
        """
        passed: list[tuple[float, int, str, int]] = []
        found: _Waiting | None = None
        blocked = False
        while lane.heap and len(passed) < self._rule.look:
            entry = heappop(lane.heap)
            if not self._listed(lane, entry):
                continue
            passed.append(entry)
            head = self._head(lane.lines[entry[2]])
            if fits is None or fits(head.ticket):
                found = head
                break
            if head.skipped >= self._rule.skips:
                blocked = True
                break
            overtaken.append(head)
        for entry in passed:
            heappush(lane.heap, entry)
        return found, blocked

    def _head(self, line: _Line) -> _Waiting:
        while not self._is(line.heap[0]):
            heappop(line.heap)
        return self._waiting[line.heap[0][2]]

    def _start(self, lane: _Lane, waiting: _Waiting) -> None:
        ticket = waiting.ticket
        line = lane.lines[ticket.tenant]
        self._floor = max(self._floor, lane.virtual)
        lane.floor = max(lane.floor, line.counter)
        lane.virtual += ticket.cost / lane.share
        line.counter += ticket.cost / line.weight
        self._enlist(lane, line)
        self._remove(lane, waiting)

    def _remove(self, lane: _Lane, waiting: _Waiting) -> None:
        ticket = waiting.ticket
        line = lane.lines[ticket.tenant]
        del self._waiting[ticket.id]
        self._tenants[ticket.tenant] -= 1
        if not self._tenants[ticket.tenant]:
            del self._tenants[ticket.tenant]
        for part in (lane, line):
            part.count -= 1
            part.work = part.work - ticket.cost if part.count else 0.0
        if not line.count:
            del lane.lines[ticket.tenant]
            self._rest(lane, ticket.tenant, line.counter)
        elif len(line.heap) > 2 * line.count + 64:
            line.heap = [entry for entry in line.heap if self._is(entry)]
            heapify(line.heap)

    @staticmethod
    def _rest(lane: _Lane, tenant: str, counter: float) -> None:
        """Remember what a tenant without waiting requests took beyond its part, if it did."""
        if counter > lane.floor:
            lane.idle[tenant] = counter
            if len(lane.idle) > _MOST_IDLE:
                lane.idle.popitem(last=False)
