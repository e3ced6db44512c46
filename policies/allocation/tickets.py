"""What waits, what is told to whom comes, and the bounds of the queue: the words that ``queue`` speaks in.

What must not be here: any order among requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping


class ServiceClass(StrEnum):
    """What a request is for; earlier ones go first at a tie."""

    INTERACTIVE = "interactive"
    DEFAULT = "default"
    BULK = "bulk"


SHARES = {ServiceClass.INTERACTIVE: 8.0, ServiceClass.DEFAULT: 4.0, ServiceClass.BULK: 1.0}
"""Parts of the engine that each class gets while all have work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A request that waits.

    Attributes:
        id: Its name.
        tenant: Who pays.
        cost: KV-block-seconds that it is expected to take.
        service: Its class.
        deadline: When it must be done, in the queue's seconds; None where any time will do.
        service_s: Seconds that it is expected to take once it has started.
        weight: The tenant's part against other tenants of the class.
    """

    id: Hashable
    tenant: str
    cost: float
    service: ServiceClass = ServiceClass.DEFAULT
    deadline: float | None = None
    service_s: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """It waits.

    Attributes:
        wait_s: Seconds that it is expected to wait.
        ahead: Requests of all classes that wait already.
    """

    wait_s: float
    ahead: int


class Refusal(StrEnum):
    """Why a request may not even wait."""

    FULL = "queue_full"
    TENANT_FULL = "tenant_queue_full"
    DEADLINE = "deadline_unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """It may not wait.

    Attributes:
        reason: Why.
        wait_s: Seconds that it would have been expected to wait.
        retry_after_s: Seconds after which trying again makes sense.
    """

    reason: Refusal
    wait_s: float
    retry_after_s: float


Answer: TypeAlias = Queued | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRule:
    """Bounds and shares.

    Attributes:
        most: Requests that may wait in all.
        most_per_tenant: Requests of one tenant that may wait.
        shares: Parts of the classes.
        skips: Times that others may overtake a request that does not fit; then all wait for it.
        look: Tenants of a class that are looked at for one whose request fits.
        least_retry_s: Shortest advice on when to try again.
        most_retry_s: Longest.
    """

    most: int = 1024
    most_per_tenant: int = 256
    shares: Mapping[ServiceClass, float] = field(default_factory=lambda: dict(SHARES))
    skips: int = 32
    look: int = 8
    least_retry_s: float = 0.5
    most_retry_s: float = 60.0
