"""What accounts count and in which windows. Pure; no database here."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum


class Resource(StrEnum):
    """What an account can run out of."""

    TOKENS = "tokens"
    REQUESTS = "requests"
    KV_BLOCK_MS = "kv_block_ms"


class Window(StrEnum):
    """Fixed windows, aligned to UTC. ``LIFE`` never turns."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    LIFE = "life"

    def start(self, now: float) -> int:
        """Unix time at which the window that holds ``now`` began."""
        if self is Window.LIFE:
            return 0
        if self is Window.MONTH:
            first = dt.datetime.fromtimestamp(now, dt.UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            return int(first.timestamp())
        phase = _FIRST_MONDAY if self is Window.WEEK else 0
        return (int(now) - phase) // _LENGTH[self] * _LENGTH[self] + phase

    def end(self, now: float) -> float | None:
        """Unix time at which the window that holds ``now`` turns; None for ``LIFE``."""
        if self is Window.LIFE:
            return None
        if self is Window.MONTH:
            return float(Window.MONTH.start(self.start(now) + 32 * 86400))
        return float(self.start(now) + _LENGTH[self])


_FIRST_MONDAY = 4 * 86400
"""Unix time began on a Thursday."""

_LENGTH = {Window.MINUTE: 60, Window.HOUR: 3600, Window.DAY: 86400, Window.WEEK: 7 * 86400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """A use of every resource, in whole numbers."""

    tokens: int = 0
    requests: int = 0
    kv_block_ms: int = 0

    def get(self, resource: Resource) -> int:
        """The amount of one resource."""
        amount: int = getattr(self, resource.value)
        return amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most ``limit`` of a resource in each window."""

    resource: Resource
    limit: int
    window: Window

    def __str__(self) -> str:
        return f"{self.resource.value}={self.limit}/{self.window.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who pays: ``key:<id>`` or ``team:<name>``, with the limits in force now."""

    id: str
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A reservation was made."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """A limit stands in the way; nothing was changed.

    Attributes:
        exhausted: Whether what is spent already leaves no room, so that only a new window helps; otherwise requests
            in flight hold the room and may give it back.
        retry_after_s: Seconds until trying again makes sense; None for never.
    """

    account: str
    limit: Limit
    spent: int
    reserved: int
    needed: int
    exhausted: bool
    retry_after_s: float | None
