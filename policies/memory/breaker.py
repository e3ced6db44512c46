"""Whether a replica may be sent requests: a circuit breaker for failures, and health for probes.

```
closed --(failures in a row)--> open --(rest is over)--> half-open --(success)--> closed
                                 ^                          |
                                 `-------(failure)----------'     each rest is longer than the one before, up to a limit
```
Both are machines over reported facts; time comes in as an argument. What must not be here: requests, timers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Circuit(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRule:
    """When a breaker opens, and for how long.

    Attributes:
        failures: Failures in a row that open it.
        rest_s: Seconds that it stays open the first time.
        most_rest_s: Seconds that it stays open at most; each reopening doubles the rest up to here.
        trials: Requests let through at a time while half open.
    """

    failures: int = 5
    rest_s: float = 2.0
    most_rest_s: float = 60.0
    trials: int = 1


class Breaker:
    """One replica's breaker. Ask ``allows``, then report ``sent`` and the outcome of each request.

    An outcome is a failure where the replica is to blame: refused connections, broken streams, 5xx. A request that the
    client aborted is reported as ``released``, which proves nothing.
    """

    __slots__ = ("_failures", "_rest", "_rule", "_trials", "_until", "state")

    def __init__(self, rule: BreakerRule | None = None) -> None:
        self._rule = rule or BreakerRule()
        self.state = Circuit.CLOSED
        self._failures = 0
        self._rest = self._rule.rest_s
        self._until = 0.0
        self._trials = 0

    def allows(self, at: float) -> bool:
        """Whether a request may be sent now. Changes nothing but an open breaker whose rest is over."""
        if self.state is Circuit.OPEN and at >= self._until:
            self.state = Circuit.HALF_OPEN
            self._trials = 0
        if self.state is Circuit.HALF_OPEN:
            return self._trials < self._rule.trials
        return self.state is Circuit.CLOSED

    def retry_after(self, at: float) -> float:
        """Seconds until a request may be allowed; 0 where one may be now."""
        return max(self._until - at, 0.0) if self.state is Circuit.OPEN else 0.0

    def sent(self) -> None:
        """A request was sent."""
        if self.state is Circuit.HALF_OPEN:
            self._trials += 1

    def succeeded(self) -> None:
        """A request came back well. One that was sent before the breaker opened proves nothing."""
        if self.state is Circuit.OPEN:
            return
        self.state = Circuit.CLOSED
        self._failures = self._trials = 0
        self._rest = self._rule.rest_s

    def released(self) -> None:
        """A request ended without telling anything about the replica."""
        if self.state is Circuit.HALF_OPEN:
            self._trials = max(self._trials - 1, 0)

    def failed(self, at: float) -> None:
        """A request failed by the replica's fault."""
        if self.state is Circuit.OPEN:
            return
        self._failures += 1
        if self.state is Circuit.HALF_OPEN or self._failures >= self._rule.failures:
            if self.state is Circuit.HALF_OPEN:
                self._rest = min(self._rest * 2, self._rule.most_rest_s)
            self.state = Circuit.OPEN
            self._until = at + self._rest
            self._failures = self._trials = 0


class Health(StrEnum):
    """What probes say of a replica."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"
    STALE = "stale"
    """It was up, but nothing was heard of it for too long."""


class HealthMonitor:
    """Health by probes, with hysteresis: a replica is down after some bad probes in a row, up after some good ones.

    Args:
        fall: Bad probes in a row that make it down.
        rise: Good probes in a row that make it up again; the very first good one suffices.
        stale_s: Seconds without any probe after which what is known is no longer trusted.
    """

    __slots__ = ("_bad", "_fall", "_good", "_heard", "_rise", "_stale_s", "_state")

    def __init__(self, *, fall: int = 3, rise: int = 2, stale_s: float = 10.0) -> None:
        self._fall = fall
        self._rise = rise
        self._stale_s = stale_s
        self._good = self._bad = 0
        self._heard: float | None = None
        self._state = Health.UNKNOWN

    def observe(self, at: float, *, good: bool) -> Health:
        """A probe came back, or did not."""
        self._heard = at
        self._good, self._bad = (self._good + 1, 0) if good else (0, self._bad + 1)
        if good and (self._state is Health.UNKNOWN or self._good >= self._rise):
            self._state = Health.UP
        elif self._bad >= self._fall:
            self._state = Health.DOWN
        return self._state

    def state(self, at: float) -> Health:
        """What holds now."""
        if self._state is Health.UP and self._heard is not None and at - self._heard > self._stale_s:
            return Health.STALE
        return self._state
