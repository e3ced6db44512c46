"""What benchmarks and the proofs behind them share: keys, ledger readings, crowds of clients, intervals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2
from suffice.server.ledger.amounts import Window
from suffice.server.ledger.keys import KeyStore, parse_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

CHAT = "/v1/chat/completions"


def make_key(data_dir: Path, name: str, *limits: str, team: str | None = None) -> tuple[str, str]:
    """A new key in a gateway's store: its account and its secret."""
    with contextlib.closing(KeyStore(data_dir)) as keys:
        record, secret = keys.create(name, team=team, limits=[parse_limit(limit) for limit in limits])
    return f"key:{record.id}", secret


def make_team(data_dir: Path, name: str, *limits: str) -> str:
    """A team with limits of its own; its account."""
    with contextlib.closing(KeyStore(data_dir)) as keys:
        keys.set_team(name, [parse_limit(limit) for limit in limits])
    return f"team:{name}"


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """One row of the ledger.

    Attributes:
        accounts: Who pays.
        reserved: Tokens reserved.
        used: Tokens charged, or those of the last checkpoint while it is open.
    """

    accounts: tuple[str, ...]
    state: str
    reserved: int
    used: int
    outcome: str | None


@dataclass(frozen=True, kw_only=True)
class Books:
    """The ledger at one moment, read by SQL and not through the code that keeps it."""

    reservations: dict[str, Reservation]
    spent: dict[str, int]
    held: dict[str, int]

    def charged(self, account: str) -> int:
        """Sum of what an account's settled reservations were charged."""
        rows = self.reservations.values()
        return sum(row.used for row in rows if row.state == "settled" and account in row.accounts)


def read_books(data_dir: Path) -> Books:
    """All of a gateway's ledger, in one transaction."""
    with contextlib.closing(sqlite3.connect(data_dir / "ledger.sqlite", timeout=30)) as db:
        db.execute("BEGIN")
        rows = db.execute(
            "SELECT request_id, accounts, state, tokens, used_tokens, outcome FROM reservations"
        ).fetchall()
        spent = db.execute(
            "SELECT account, amount FROM spent WHERE resource = 'tokens' AND window = ?", (Window.LIFE.value,)
        ).fetchall()
        held = db.execute("SELECT account, amount FROM reserved WHERE resource = 'tokens'").fetchall()
    reservations = {
        name: Reservation(
            accounts=tuple(json.loads(accounts)), state=state, reserved=reserved, used=used, outcome=outcome
        )
        for name, accounts, state, reserved, used, outcome in rows
    }
    return Books(reservations=reservations, spent=dict(spent), held=dict(held))


@dataclass
class Answered:
    """What one client got.

    Attributes:
        status: HTTP status; 0 when the connection broke before there was one.
        request_id: The gateway's id of the request, once the headers came.
        tokens: Running count of generated tokens that the client was shown.
        receipt: The receipt, when the answer came to its end.
        error: Code of the error.
        headers: The answer's headers.
        broke: Whether the connection broke.
    """

    status: int = 0
    request_id: str = ""
    tokens: int = 0
    receipt: dict[str, Any] | None = None
    error: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    broke: bool = False

    @property
    def charged(self) -> int:
        """Prompt and generated tokens by the receipt."""
        spent = (self.receipt or {}).get("spent", {})
        return sum(spent.get(f"{kind}_tokens", 0) for kind in ("prompt", "completion", "probe", "cancelled"))


def many_clients(url: str, count: int) -> httpx2.AsyncClient:
    """A client that opens a connection for each of ``count`` requests at once."""
    limits = httpx2.Limits(max_connections=count + 8, max_keepalive_connections=count + 8)
    return httpx2.AsyncClient(base_url=url, timeout=180, limits=limits, trust_env=False)


async def ask(http: httpx2.AsyncClient, secret: str, body: dict[str, Any], path: str = CHAT) -> Answered:
    """Send one request and read until its end, or until the connection breaks."""
    told = Answered()
    try:
        async with http.stream("POST", path, json=body, headers={"authorization": f"Bearer {secret}"}) as answer:
            told.status = answer.status_code
            told.headers = dict(answer.headers)
            told.request_id = answer.headers.get("x-request-id", "")
            if body.get("stream") and told.status == 200:
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        _frame(told, json.loads(line[6:]))
            else:
                _frame(told, json.loads(await answer.aread()))
    except (httpx2.TransportError, json.JSONDecodeError):
        told.broke = True
    return told


def _frame(told: Answered, frame: dict[str, Any]) -> None:
    if "error" in frame:
        told.error = frame["error"]["code"]
    told.receipt = frame.get("suffice") or told.receipt
    usage = frame.get("usage")
    if usage:
        told.tokens = max(told.tokens, usage["completion_tokens"])


async def counter(http: httpx2.AsyncClient, name: str) -> int:
    """A counter without labels, as the gateway's metrics show it."""
    page = (await http.get("/metrics")).text
    (line,) = (line for line in page.splitlines() if line.startswith(f"{name} "))
    return round(float(line.split()[1]))


async def crowd(http: httpx2.AsyncClient, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[Answered]:
    """Send all requests, a secret and a body each, at the same moment."""
    return await asyncio.gather(*(ask(http, secret, body) for secret, body in requests))


@contextlib.asynccontextmanager
async def watching(look: Callable[[], None], every_s: float = 0.02) -> Iterator[None]:
    """Look again and again while the block runs, and once after it."""

    async def keep_looking() -> None:
        while True:
            look()
            await asyncio.sleep(every_s)

    task = asyncio.get_running_loop().create_task(keep_looking())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        look()


def interval(
    rounds: Sequence[Any], figure: Callable[[list[Any]], float], *, seed: int = 0, draws: int = 1000
) -> tuple[float, float, float]:
    """A figure over all rounds, and its 95 % bootstrap interval over rounds drawn with replacement."""
    dice = random.Random(seed)
    drawn = sorted(figure([dice.choice(rounds) for _ in rounds]) for _ in range(draws))
    return figure(list(rounds)), drawn[int(draws * 0.025)], drawn[int(draws * 0.975) - 1]


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of all lies; nearest rank."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, round(share * len(ranked)) - 1))]


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)
