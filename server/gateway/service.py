"""What all routes share: the parts of a running gateway, made once at start-up."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from suffice.policies.events import Draining
from suffice.server.desk.desk import Desk
from suffice.server.desk.keeper import Keeper
from suffice.server.engine.plugin.arguments import MAX_NONCE
from suffice.server.errors import ApiError, InvalidApiKey, Overloaded
from suffice.server.gateway.engine_link import EngineLink
from suffice.server.gateway.facts import Served, discover, tokens_of
from suffice.server.gateway.receipt import policy_version
from suffice.server.gateway.text_lengths import TextLengths

if TYPE_CHECKING:
    from suffice.server.config import Config
    from suffice.server.gateway.driver import Driver
    from suffice.server.gateway.experience import Experience
    from suffice.server.gateway.upstream import Upstream
    from suffice.server.gateway.verifying import Verifiers
    from suffice.server.gateway.wishes import Wishes
    from suffice.server.ledger.keys import KeyRecord, KeyStore
    from suffice.server.ledger.ledger import Ledger
    from suffice.server.telemetry.eventlog import EventLog
    from suffice.server.telemetry.metrics import Metrics

RETRY_DISCOVERY_S = 1.0
REFRESH_MODELS_S = 5.0

PRIORITIES = {"interactive": -10, "default": 0, "bulk": 10}
"""vLLM's scheduling priority of each class; lower is sooner."""


@dataclass(slots=True)
class Service:
    """The parts of one gateway.

    Attributes:
        served: Models that upstream serves; empty until it answered.
        drivers: Requests that are being driven.
        draining: Whether new requests are refused because the server is going down.
        link: The way to running requests inside the engine; None where suffice's plugin is not loaded there.
        experience: What past requests taught.
        verifiers: Who scores answers.
        text_lengths: How long texts are that were counted.
        desk: Who starts now and who waits.
        keeper: The desk's clock.
    """

    config: Config
    upstream: Upstream
    ledger: Ledger
    keys: KeyStore
    metrics: Metrics
    event_log: EventLog | None
    experience: Experience
    verifiers: Verifiers
    salt_key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    served: dict[str, Served] = field(default_factory=dict)
    drivers: set[Driver] = field(default_factory=set)
    draining: bool = False
    link: EngineLink | None = None
    _suffixes: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    version: str = field(init=False)
    text_lengths: TextLengths = field(init=False)
    desk: Desk = field(init=False)
    keeper: Keeper = field(init=False)

    def __post_init__(self) -> None:
        self.version = policy_version(self.config)
        self.text_lengths = TextLengths(self.upstream)
        self.desk = Desk(self.config.kv, self.metrics, self.experience.answers)
        self.keeper = Keeper(self.desk, self.config.kv, self.upstream, self.metrics)
        self.metrics.config_info.labels(self.version).set(1)

    def authenticate(self, headers: dict[bytes, bytes]) -> KeyRecord:
        """The key of a request, by ``Authorization: Bearer`` or ``x-api-key``.

        Raises:
            InvalidApiKey: There is none that is valid.
        """
        scheme, _, secret = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not secret:
            secret = headers.get(b"x-api-key", b"")
        key = self.keys.lookup(secret.strip().decode("latin-1"))
        if key is None:
            raise InvalidApiKey("no valid API key was given")
        return key

    def cache_salt(self, tenant: str) -> str:
        """Salt that keeps tenants' prefix caches apart: one per team, or per key without a team; of fixed form."""
        return hmac.new(self.salt_key, tenant.encode(), hashlib.sha256).hexdigest()[:43]

    def admit(self) -> None:
        """Refuse what cannot be taken on now.

        Raises:
            Overloaded: The server is going down, full, or upstream never answered yet.
        """
        if self.draining:
            raise Overloaded("the server is shutting down", retry_after_s=5, code="shutting_down")
        if len(self.drivers) >= self.config.server.max_connections:
            raise Overloaded("too many requests are in flight", retry_after_s=1)
        if not self.served:
            raise Overloaded("upstream is not ready yet", retry_after_s=2, code="upstream_not_ready")

    async def suffix(self, model: Served, wishes: Wishes) -> list[int]:
        """Tokens that lead a probe to its answer: what the request names, else what the upstream's section does."""
        named = None if wishes.early_exit is None else wishes.early_exit.suffix
        text = self.config.upstreams[0].probe_suffix if named is None else named
        held = self._suffixes.get((model.name, text))
        if held is None:
            held = await tokens_of(self.upstream, model.name, text)
            if len(self._suffixes) < _MOST_SUFFIXES:
                self._suffixes[model.name, text] = held
        return held

    async def watch_upstream(self) -> None:
        """Keep the list of models current; adapters come and go. Runs until cancelled."""
        section = self.config.upstreams[0]
        while True:
            try:
                cards = (await self.upstream.get_json("/v1/models")).get("data") or []
                if {card["id"] for card in cards} != self.served.keys():
                    self.served = await discover(self.upstream, section)
                    self._connect_engine()
                self.metrics.upstream_up.set(1)
            except (ApiError, LookupError, TypeError, AttributeError, ValueError):
                # Unreachable, or answers of a shape that no vLLM sends: asked again, whatever it was.
                self.metrics.upstream_up.set(0)
            await asyncio.sleep(REFRESH_MODELS_S if self.served else RETRY_DISCOVERY_S)

    def _connect_engine(self) -> None:
        """Use the engine's signal table where there is one; kept while models come and go."""
        plugin = next((model.plugin for model in self.served.values()), None)
        if plugin is None or not plugin.signals:
            self.link = None
        elif self.link is None:
            self.link = EngineLink(self.upstream, slots=plugin.slots, max_nonce=MAX_NONCE)

    async def watch_loop(self) -> None:
        """Measure how late the event loop wakes timers. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self.metrics.loop_lag.observe(max(0.0, loop.time() - due))
            self.metrics.ledger_open.set(self.ledger.stats.open)

    async def drain(self) -> None:
        """Let running answers finish for a while, then end them as their budgets would."""
        self.draining = True
        self.desk.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.config.server.drain_s
        while self.drivers and loop.time() < deadline:  # noqa: ASYNC110 - once in a server's life
            await asyncio.sleep(0.05)
        for driver in tuple(self.drivers):
            driver.interrupt(Draining(at=driver.now()))
        deadline = loop.time() + _LAST_WORDS_S
        while self.drivers and loop.time() < deadline:  # noqa: ASYNC110 - once in a server's life
            await asyncio.sleep(0.05)


_MOST_SUFFIXES = 256
"""Suffixes whose tokens are remembered; requests can name any."""
_LAG_EVERY_S = 0.1
_LAST_WORDS_S = 5.0
