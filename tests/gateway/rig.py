"""The real gateway on a real socket before a fake vLLM, in one process, and what tests ask of it."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import httpx2
import uvicorn
from suffice.server.app import create_app
from suffice.server.config import parse
from suffice.server.ledger.amounts import Resource, Window
from suffice.server.ledger.keys import parse_limit
from suffice.server.lifecycle import GatewayServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fake_vllm import FakeVLLM, Received
    from suffice.server.gateway.service import Service

_STEP_S = 0.003


def wait(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "the condition did not come true"
        time.sleep(_STEP_S)


@dataclass(frozen=True)
class Event:
    """One event of a client's stream; ``data`` is parsed unless it is [DONE]."""

    name: str
    data: Any


def events(text: str) -> list[Event]:
    """A whole stream; every block must be a proper event of one data line."""
    found = []
    blocks = text.split("\n\n")
    assert blocks.pop() == "", "the stream ends within an event"
    for block in blocks:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        assert fields.keys() <= {"event", "data"}
        data = fields["data"]
        found.append(Event(fields.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return found


@dataclass
class Settled:
    """One reservation as the ledger's table has it."""

    request_id: str
    state: str
    reserved: int
    used: int
    outcome: str | None


class Crashes(logging.Handler):
    """What the server logs of exceptions that no handler expected."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[logging.LogRecord] = []
        logging.getLogger("uvicorn.error").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record of an exception."""
        if record.exc_info is not None:
            self.seen.append(record)

    def take(self) -> list[str]:
        """What was logged since the last time."""
        taken, self.seen = self.seen, []
        return [f"{record.getMessage()}: {record.exc_info and record.exc_info[1]!r}" for record in taken]


CRASHES = Crashes()


@dataclass
class Gateway:
    """The gateway in a thread of this process, so that tests can look inside.

    Attributes:
        fake: Its upstream.
        data_dir: Where its accounts live.
        config: The operator's file as data, without the upstream.
    """

    fake: FakeVLLM
    data_dir: Path
    config: dict[str, Any] = field(default_factory=dict)
    url: str = ""
    secret: str = ""
    key_id: str = ""

    def start(self, *, ready: bool = True) -> Self:
        """Listen, and wait until upstream's models are known."""
        server = {"metrics_port": None} | self.config.get("server", {})
        upstream = {"url": self.fake.url} | self.config.get("upstream", {})
        rest = {name: part for name, part in self.config.items() if name not in ("server", "upstream")}
        ledger = {"synchronous": "normal"} | rest.pop("ledger", {})
        rest["policies"] = {"audit_share": 0} | rest.get("policies", {})
        settings = parse({"server": server, "upstreams": [upstream], "ledger": ledger} | rest)
        self._app = create_app(settings, self.data_dir)
        self._server = GatewayServer(
            uvicorn.Config(self._app, log_config=None, log_level="error", access_log=False), self._app
        )
        held = socket.socket()
        held.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{held.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, args=([held],), daemon=True, name="gateway")
        self._thread.start()
        wait(lambda: self._server.started or not self._thread.is_alive())
        assert self._server.started
        self.loop = self._app.state.service.ledger._loop
        self.client = httpx2.Client(base_url=self.url, timeout=20, trust_env=False)
        self.key_id, self.secret = self.key("tests")
        self.client.headers["authorization"] = f"Bearer {self.secret}"
        if ready:
            wait(lambda: bool(self.service.served))
        return self

    def ask_to_stop(self) -> None:
        """What a signal does."""
        self._server.should_exit = True

    def stop(self) -> None:
        """End it and wait for the end."""
        self.client.close()
        self.ask_to_stop()
        self._thread.join(20)
        assert not self._thread.is_alive()

    @property
    def service(self) -> Service:
        """The running gateway's parts."""
        return self._app.state.service

    def call(self, work: Callable[[], Any]) -> Any:
        """Run something in the gateway's own thread."""

        async def there() -> Any:
            found = work()
            return await found if asyncio.iscoroutine(found) else found

        return asyncio.run_coroutine_threadsafe(there(), self.loop).result(10)

    def key(self, name: str = "key", *, team: str | None = None, limits: tuple[str, ...] = (), **ceilings: int):
        """A new key: its id and its secret."""
        parsed = tuple(parse_limit(limit) for limit in limits)
        record, secret = self.call(lambda: self.service.keys.create(name, team=team, limits=parsed, ceilings=ceilings))
        return record.id, secret

    def team(self, name: str, *limits: str) -> None:
        """Create a team or change its limits."""
        self.call(lambda: self.service.keys.set_team(name, tuple(parse_limit(limit) for limit in limits)))

    def usage(self, account: str, resource: Resource = Resource.TOKENS) -> tuple[int, int]:
        """What an account spent in its life and holds reserved."""
        usage = self.call(lambda: self.service.ledger.usage(account))
        return usage.spent[resource, Window.LIFE], usage.reserved[resource]

    def settled(self) -> list[Settled]:
        """All reservations ever made, oldest first."""
        db = sqlite3.connect(self.data_dir / "ledger.sqlite")
        rows = db.execute("SELECT request_id, state, tokens, used_tokens, outcome FROM reservations ORDER BY created")
        found = [Settled(*row) for row in rows]
        db.close()
        return found

    def idle(self) -> None:
        """Wait until nothing is under way, here and upstream."""
        wait(lambda: not self.service.drivers and self.service.ledger.stats.open == 0)
        self.fake.wait_idle()

    def metric(self, name: str, **labels: str) -> float:
        """A sample of one metric; 0 where there is none."""
        value = self.service.metrics.registry.get_sample_value(name, labels)
        return 0.0 if value is None else value

    def post(self, path: str, body: dict[str, Any], *, key: str | None = None, **headers: str) -> httpx2.Response:
        """One request, answered in whole."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            named["authorization"] = f"Bearer {key}"
        return self.client.post(path, json=body, headers=named)

    def stream(self, path: str, body: dict[str, Any], **more: Any) -> list[Event]:
        """One streamed request, read to its end."""
        answer = self.post(path, body | {"stream": True}, **more)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        return events(answer.text)


def by_sample(requests: list[Received]) -> dict[int, list[Received]]:
    """Upstream requests of one client request by sample, segments in order."""
    found: dict[int, list[Received]] = {}
    for request in requests:
        _, sample, segment = request.headers["x-request-id"].rsplit("-", 2)
        found.setdefault(int(sample), []).append(request)
        assert len(found[int(sample)]) == int(segment) + 1, "segments are opened one after another"
    return found


def most_outstanding(requests: list[Received]) -> int:
    """The largest sum of tokens that were used or granted at any one moment, from above.

    A sample's next segment opens only when the one before has ended, so at each of its openings it holds what the
    ended ones generated and the whole new allowance.
    """
    total = 0
    for segments in by_sample(requests).values():
        used, most = 0, 0
        for segment in segments:
            most = max(most, used + segment.allowed_tokens)
            used += segment.generated_tokens
        total += most
    return total


def contents(answer: dict[str, Any]) -> Iterator[str]:
    """The text of each choice of a chat completion."""
    for choice in answer["choices"]:
        yield choice["message"]["content"]
