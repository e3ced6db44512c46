"""What a real engine and a gateway's ledger say of themselves, read beside the path that is under test."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_STEP_S = 0.02
_PATIENCE_S = 20.0
RUNNING = ("vllm:num_requests_running", "vllm:num_requests_waiting")
PROMPT, GENERATED = "vllm:prompt_tokens_total", "vllm:generation_tokens_total"


def gauge(url: str, *names: str) -> dict[str, float]:
    """Values of a server's metrics by name, or by name and labels in full; a name alone sums over its labels."""
    text = httpx2.get(f"{url}/metrics", timeout=30, trust_env=False).text
    found = dict.fromkeys(names, 0.0)
    for line in text.splitlines():
        series, _, value = line.rpartition(" ")
        for name in names:
            if series == name or series.startswith(f"{name}{{"):
                found[name] += float(value)
    return found


def wait_idle(url: str, patience_s: float = _PATIENCE_S) -> None:
    """Wait until the engine has nothing running or waiting."""
    until = time.monotonic() + patience_s
    while any(gauge(url, *RUNNING).values()):
        assert time.monotonic() < until, "the engine is still busy"
        time.sleep(_STEP_S)


@dataclass
class Spent:
    """Tokens that an engine went through."""

    prompt: int = 0
    generated: int = 0


@contextlib.contextmanager
def spending(url: str) -> Iterator[Spent]:
    """What an engine that is otherwise idle spends within the block, by its own counters."""
    wait_idle(url)
    before = gauge(url, PROMPT, GENERATED)
    found = Spent()
    yield found
    wait_idle(url)
    after = gauge(url, PROMPT, GENERATED)
    found.prompt = round(after[PROMPT] - before[PROMPT])
    found.generated = round(after[GENERATED] - before[GENERATED])


@dataclass(frozen=True)
class Row:
    """One reservation as the ledger's table has it."""

    state: str
    reserved: int
    used: int
    outcome: str | None


def rows(data_dir: Path) -> dict[str, Row]:
    """All reservations by request id; several gateways' tables never mix, so an id stands once."""
    with contextlib.closing(sqlite3.connect(data_dir / "ledger.sqlite")) as db:
        found = db.execute("SELECT request_id, state, tokens, used_tokens, outcome FROM reservations").fetchall()
    return {name: Row(*rest) for name, *rest in found}


def held(data_dir: Path) -> int:
    """Tokens that all accounts hold reserved."""
    with contextlib.closing(sqlite3.connect(data_dir / "ledger.sqlite")) as db:
        return int(db.execute("SELECT coalesce(sum(amount), 0) FROM reserved WHERE resource = 'tokens'").fetchone()[0])


def settled(data_dir: Path, request_id: str) -> Row:
    """A request's reservation, once it is settled."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        row = rows(data_dir).get(request_id)
        if row is not None and row.state == "settled":
            return row
        assert time.monotonic() < until, f"not settled: {row}"
        time.sleep(_STEP_S)


def token_count(url: str, model: str, text: str) -> int:
    """Length of a text in the model's tokens."""
    body: dict[str, Any] = {"model": model, "prompt": text, "add_special_tokens": False}
    return int(httpx2.post(f"{url}/tokenize", json=body, timeout=30, trust_env=False).json()["count"])
