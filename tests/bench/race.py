"""A budget for a hundred requests and many more at once: how far is it overdrawn?

``python tests/bench/race.py [--json]`` starts a gateway before the fake upstream (or takes ``--upstream URL --model
NAME``), and prints for 1, 64 and 1,000 concurrent requests what was let in and how far the budget was overdrawn.
"""

# ruff: noqa: T201 - a command prints what it found

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.load import ask, counter, crowd, make_key, make_team, many_clients, read_books, watching
from fake_vllm import FakeVLLM, Script
from processes import GatewayProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.load import Answered

FITS = 100
"""Requests whose worst case the budget holds."""
TEAM_KEYS = 5
TOKENS = 12
RESERVED = "suffice_reserved_tokens_total"
KEYS_SEEN_S = 0.5
"""A gateway looks for new keys every quarter of a second."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One race.

    Attributes:
        concurrent: Requests sent at once.
        admitted: Answered 200.
        refused: Answered 429, by error code.
        other: Anything else, by status or error code.
        limit: Tokens that the account had.
        spent: Tokens that it was charged.
        receipts: Tokens by all receipts.
        peak: Highest sum of spent and reserved that was seen on the way.
        overshoot: Tokens beyond the limit at any moment that was looked at; 0 where the budget held.
        still_reserved: Tokens left reserved at the end.
        seconds: From the first request to the last answer.
    """

    concurrent: int
    admitted: int
    refused: dict[str, int]
    other: dict[str, int]
    limit: int
    spent: int
    receipts: int
    peak: int
    overshoot: int
    still_reserved: int
    seconds: float


@contextlib.contextmanager
def fake_upstream() -> Iterator[tuple[str, str]]:
    """An upstream that generates without end and with some delay, so that requests overlap."""
    script = Script.of(answer="word", opens_thought=False, endless=True)
    with FakeVLLM(script, template_opens_thought=False, prefill_s=0.02, token_s=0.002) as fake:
        yield fake.url, "fake"


def request(model: str, number: int = 0) -> dict[str, Any]:
    """One request; streamed and whole ones take turns."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Start at 43. Add 8. What do you get?"}],
        "max_tokens": TOKENS,
    }
    if number % 2:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


async def worst_case(gateway: Any, model: str) -> int:
    """Tokens that one such request reserves before anything is known of its prompt; no other request may run."""
    _, secret = make_key(gateway.data_dir, "measure")
    await asyncio.sleep(KEYS_SEEN_S)
    async with many_clients(gateway.url, 1) as http:
        before = await counter(http, RESERVED)
        told = await ask(http, secret, request(model))
        assert told.status == 200, told
        return await counter(http, RESERVED) - before


async def race(gateway: Any, model: str, concurrent: int, *, team: bool = False) -> tuple[Result, list[Answered]]:
    """Spend one new account's budget with ``concurrent`` requests at once; a team's with several keys."""
    limit = FITS * await worst_case(gateway, model)
    name = f"race-{time.monotonic_ns()}"
    if team:
        account = make_team(gateway.data_dir, name, f"tokens={limit}/life")
        secrets = [make_key(gateway.data_dir, name, team=name)[1] for _ in range(TEAM_KEYS)]
    else:
        account, secret = make_key(gateway.data_dir, name, f"tokens={limit}/life")
        secrets = [secret]
    await asyncio.sleep(KEYS_SEEN_S)
    peaks = [0]

    def look() -> None:
        books = read_books(gateway.data_dir)
        peaks.append(books.spent.get(account, 0) + books.held.get(account, 0))

    requests = [(secrets[number % len(secrets)], request(model, number)) for number in range(concurrent)]
    async with many_clients(gateway.url, concurrent) as http, watching(look):
        began = time.monotonic()
        told = await crowd(http, requests)
        seconds = time.monotonic() - began
    books = read_books(gateway.data_dir)
    spent = books.spent.get(account, 0)
    refused, other = _tally(told)
    result = Result(
        concurrent=concurrent,
        admitted=sum(one.status == 200 and one.receipt is not None for one in told),
        refused=refused,
        other=other,
        limit=limit,
        spent=spent,
        receipts=sum(one.charged for one in told),
        peak=max(peaks),
        overshoot=max(0, max(*peaks, spent) - limit),
        still_reserved=books.held.get(account, 0),
        seconds=round(seconds, 3),
    )
    return result, told


def _tally(told: list[Answered]) -> tuple[dict[str, int], dict[str, int]]:
    refused: dict[str, int] = {}
    other: dict[str, int] = {}
    for one in told:
        if one.status == 429:
            refused[str(one.error)] = refused.get(str(one.error), 0) + 1
        elif one.status != 200 or one.receipt is None:
            what = "broken" if one.broke else str(one.error or one.status)
            other[what] = other.get(what, 0) + 1
    return refused, other


async def _races(upstream: str, model: str, levels: list[int]) -> list[Result]:
    with tempfile.TemporaryDirectory() as scratch:
        gateway = GatewayProcess(upstream, Path(scratch))
        gateway.start()
        try:
            return [(await race(gateway, model, level))[0] for level in levels]
        finally:
            gateway.stop()


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", help="URL of a vLLM server; the fake upstream without one")
    parser.add_argument("--model", help="a model that it serves")
    parser.add_argument("--concurrent", type=int, nargs="+", default=[1, 64, 1000])
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if bool(asked.upstream) != bool(asked.model):
        parser.error("--upstream and --model go together")
    source = contextlib.nullcontext((asked.upstream, asked.model)) if asked.upstream else fake_upstream()
    with source as (upstream, model):
        results = asyncio.run(_races(upstream, model, asked.concurrent))
    if asked.json:
        print(json.dumps([asdict(result) for result in results]))
    else:
        print(f"{'at once':>8} {'let in':>7} {'refused':>8} {'other':>6} {'limit':>7} {'spent':>7} {'overshoot':>10}")
        for one in results:
            refused, other = sum(one.refused.values()), sum(one.other.values())
            print(
                f"{one.concurrent:>8} {one.admitted:>7} {refused:>8} {other:>6} {one.limit:>7} {one.spent:>7} "
                f"{one.overshoot:>10}"
            )
    return int(any(one.overshoot or one.other for one in results))


if __name__ == "__main__":
    sys.exit(main())
