"""The way to a running request inside the engine, where suffice's plugin is loaded there.

A request that may need it goes out with a slot of the engine's signal table and a nonce of its own; a decision is then
one small POST, and what the engine did by itself is one small GET. What must not be here: decisions.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suffice.server.engine.plugin.discovery import SIGNAL_PATH, SLOT_PATH
from suffice.server.errors import ApiError

if TYPE_CHECKING:
    from suffice.server.gateway.upstream import Upstream

_OK, _STALE = 200, 409
_TRIES = 5
_PAUSE_S = 0.02
"""A signal can come before the engine has taken the request up; it is tried again this often, this far apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One request's line of the signal table."""

    slot: int
    nonce: int

    def arguments(self) -> dict[str, Any]:
        """The same for ``vllm_xargs``."""
        return {"suffice_slot": self.slot, "suffice_nonce": self.nonce}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """What the engine did by itself.

    Attributes:
        rule: The rule that fired.
        at_token: Tokens that the request had generated.
    """

    rule: str
    at_token: int


class EngineLink:
    """Slots of one engine's signal table.

    Slots are handed out from a random place on, so that several gateways before one engine seldom meet; where they do,
    the nonce keeps them apart, and the one that came first goes without signals.

    Args:
        upstream: The engine's server.
        slots: Lines of its table.
        max_nonce: Largest nonce it takes.
    """

    def __init__(self, upstream: Upstream, *, slots: int, max_nonce: int) -> None:
        self._upstream = upstream
        self._max_nonce = max_nonce
        start = secrets.randbelow(slots)
        self._free = [(start + number) % slots for number in range(slots)]

    def lease(self) -> Lease | None:
        """A slot with a fresh nonce; None while all are taken."""
        if not self._free:
            return None
        return Lease(slot=self._free.pop(), nonce=1 + secrets.randbelow(self._max_nonce - 1))

    def give_back(self, lease: Lease) -> None:
        """The request is over."""
        self._free.insert(0, lease.slot)

    async def close_thought(self, lease: Lease) -> bool:
        """Have the engine close the thought of a running request.

        Returns:
            Whether the engine has taken it up.
        """
        body = {"slot": lease.slot, "nonce": lease.nonce, "action": "close_thought"}
        for attempt in range(_TRIES):
            try:
                status, _ = await self._upstream.try_json(SIGNAL_PATH, body)
            except ApiError:
                return False
            if status != _STALE:
                return status == _OK
            await asyncio.sleep(_PAUSE_S * (attempt + 1))
        return False

    async def fired(self, lease: Lease) -> Fired | None:
        """What closed the request's thought in the engine, if anything did."""
        try:
            told = await self._upstream.get_json(f"{SLOT_PATH}/{lease.slot}?nonce={lease.nonce}")
        except ApiError:
            return None
        closed = told.get("closed")
        if not isinstance(closed, dict):
            return None
        rule, at_token = closed.get("rule"), closed.get("at_token")
        return Fired(rule=str(rule)[:24], at_token=at_token) if isinstance(at_token, int) else None
