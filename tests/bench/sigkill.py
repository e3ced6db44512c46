"""The gateway killed without warning, again and again, under load: does the ledger lose or invent anything?

``python tests/bench/sigkill.py --kills 50 --seed 1 [--json]`` starts gateways before the fake upstream, loads them,
kills them with SIGKILL at random moments, starts them again, compares their books with what the fake generated and
what clients received, and prints the figures.
"""

# ruff: noqa: T201 - a command prints what it found

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.load import ask, make_key, make_team, many_clients, read_books
from fake_vllm import FakeVLLM, Script
from processes import GatewayProcess

if TYPE_CHECKING:
    import httpx2
    from bench.load import Answered, Books

CLIENTS = 12
CHECKPOINT = 32
"""Tokens between checkpoints of one request."""
LATEST_S = 0.6
"""The kill comes at most this long after the first request reached the upstream."""
LIMITS = {"tight": "tokens=30_000/life", "roomy": "tokens=10_000_000/life", "team": "tokens=8_000_000/life"}


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What one kill did.

    Attributes:
        at_s: When it came, after the first request reached the upstream.
        seen: Requests of this round that reached the upstream or were answered.
        open: Reservations that it left open.
        over: Most tokens that one of them was charged beyond what was generated for it.
        under: Most tokens that one of them was charged too little.
        lag: Most tokens that were generated for one of them after its last durable checkpoint.
        shown: Most tokens that a client was shown of one of them, its prompt included, beyond what was charged.
        restart_s: Time to be ready again, the recovery included.
        faults: What was found that must not be, in words.
    """

    at_s: float
    seen: int
    open: int
    over: int
    under: int
    lag: int
    shown: int
    restart_s: float
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What the upstream did for one request of the gateway's: its prompt, once, and all that it generated."""

    prompt: int
    tokens: int

    @property
    def all(self) -> int:
        """What the request would be charged if it ended now."""
        return self.prompt + self.tokens


def _generated(fake: FakeVLLM) -> dict[str, Generated]:
    """By the gateway's request id: it names its upstream requests ``<id>-<sample>-<segment>``."""
    found: dict[str, Generated] = {}
    for one in list(fake.requests):
        name = one.headers.get("x-request-id", "").rsplit("-", 2)[0]
        before = found.get(name, Generated(prompt=0, tokens=0))
        found[name] = Generated(
            prompt=max(before.prompt, one.prompt_tokens), tokens=before.tokens + one.generated_tokens
        )
    return found


def _body(dice: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": "fake",
        "messages": [{"role": "user", "content": "word " * dice.randint(1, 60)}],
        "max_tokens": dice.randint(8, 300),
        "n": dice.choice((1, 1, 1, 2)),
    }
    if dice.random() < 0.7:
        body |= {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    return body


async def _client(http: httpx2.AsyncClient, secret: str, dice: random.Random, told: list[Answered]) -> None:
    """Ask again and again until the gateway is gone."""
    while True:
        answered = await ask(http, secret, _body(dice))
        told.append(answered)
        if answered.broke:
            return
        if answered.status != 200:
            await asyncio.sleep(0.01)


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """What all rounds share; ``limits`` holds each account's."""

    gateway: GatewayProcess
    fake: FakeVLLM
    http: httpx2.AsyncClient
    secrets: list[str]
    limits: dict[str, int]


async def _round(scene: _Scene, dice: random.Random) -> Kill:
    """Load, kill, look, start again, look again."""
    gateway, fake, secrets = scene.gateway, scene.fake, scene.secrets
    fake.forget()
    known = set(read_books(gateway.data_dir).reservations)
    told: list[Answered] = []
    at = dice.uniform(0.0, LATEST_S)
    clients = [
        asyncio.ensure_future(_client(scene.http, secrets[number % len(secrets)], random.Random(dice.random()), told))
        for number in range(CLIENTS)
    ]
    await asyncio.to_thread(fake.wait, lambda: bool(fake.requests), 60)
    await asyncio.sleep(at)
    await asyncio.to_thread(gateway.kill)
    # Taken after the kill: all that the gateway can have known of is in it.
    generated = _generated(fake)
    await asyncio.gather(*clients)
    left = read_books(gateway.data_dir)
    began = time.monotonic()
    await asyncio.to_thread(gateway.start)
    restart = time.monotonic() - began
    books = read_books(gateway.data_dir)
    opened = {name: row for name, row in left.reservations.items() if row.state == "open"}
    over, under, lag, shown = [0], [0], [0], [0]
    showed = {one.request_id: one.tokens for one in told}
    for name, row in opened.items():
        true = generated.get(name, Generated(prompt=0, tokens=0)).all
        charged = books.reservations[name].used
        over.append(charged - true)
        under.append(true - charged)
        lag.append(true - row.used)
        if showed.get(name):
            shown.append(generated[name].prompt + showed[name] - charged)
    faults = _broken_limits(left, scene.limits, "after the kill")
    faults += _broken_limits(books, scene.limits, "after the restart")
    faults += _faults(known, left, books, generated, told)
    return Kill(
        at_s=round(at, 3),
        seen=len(generated.keys() | {one.request_id for one in told if one.request_id}),
        open=len(opened),
        over=max(over),
        under=max(under),
        lag=max(lag),
        shown=max(shown),
        restart_s=round(restart, 3),
        faults=faults,
    )


def _broken_limits(books: Books, limits: dict[str, int], when: str) -> list[str]:
    return [
        f"{when}: an account of {limit} has {books.spent.get(account, 0)} spent and {books.held.get(account, 0)} held"
        for account, limit in limits.items()
        if books.spent.get(account, 0) + books.held.get(account, 0) > limit
    ]


def _faults(
    known: set[str], left: Books, books: Books, generated: dict[str, Generated], told: list[Answered]
) -> list[str]:
    """What must not be, in this round's books."""
    found = [f"{name} stays open" for name, row in books.reservations.items() if row.state != "settled"]
    found += [f"{account} holds {held} with nothing running" for account, held in books.held.items() if held]
    found += [
        f"{account} was charged {spent}, its requests {books.charged(account)}"
        for account, spent in books.spent.items()
        if spent != books.charged(account)
    ]
    found += [f"{name} was sent upstream without a reservation" for name in generated if name not in left.reservations]
    for one in told:
        row = left.reservations.get(one.request_id)
        if one.receipt is not None and (row is None or row.state != "settled" or row.used != one.charged):
            found.append(f"{one.request_id} was answered in full with a receipt of {one.charged}, its row is {row}")
    for name in books.reservations.keys() - known:
        before, after = left.reservations[name], books.reservations[name]
        true = generated.get(name, Generated(prompt=0, tokens=0)).all
        if after.used > before.reserved:
            found.append(f"{name} was charged {after.used} on a reservation of {before.reserved}")
        if before.state == "settled" and after.used != true:
            found.append(f"{name} was settled with {after.used}, and {true} were generated")
        if before.state == "open":
            if after.outcome != "recovered":
                found.append(f"{name} was left open and ended as {after.outcome}")
            if after.used - true > CHECKPOINT:
                found.append(f"{name} was charged {after.used}, and only {true} were generated")
            if after.used < min(before.reserved, before.used + CHECKPOINT):
                found.append(f"{name} was charged {after.used} though its checkpoint said {before.used}")
            if true - after.used > max(0, true - before.used):
                found.append(f"{name} was charged {after.used}; {true} were generated, {before.used} known of")
    return found


async def run(kills: int, seed: int, data_dir: Path) -> list[Kill]:
    """Kill a gateway ``kills`` times; the same seed draws the same moments and the same requests.

    Args:
        kills: How often.
        seed: Of all randomness.
        data_dir: An empty folder for the gateway's data.
    """
    dice = random.Random(seed)
    script = Script.of(answer="word", opens_thought=False, endless=True)
    config = _configure(data_dir)
    with FakeVLLM(script, template_opens_thought=False, prefill_s=0.004, token_s=0.001) as fake:
        limits = {make_team(data_dir, "team", LIMITS["team"]): _amount(LIMITS["team"])}
        secrets = []
        for name in ("tight", "roomy"):
            account, secret = make_key(data_dir, name, LIMITS[name], team="team")
            limits[account] = _amount(LIMITS[name])
            secrets.append(secret)
        gateway = GatewayProcess(fake.url, data_dir, "--config", str(config))
        await asyncio.to_thread(gateway.start)
        try:
            async with many_clients(gateway.url, CLIENTS) as http:
                scene = _Scene(gateway=gateway, fake=fake, http=http, secrets=secrets, limits=limits)
                return [await _round(scene, dice) for _ in range(kills)]
        finally:
            gateway.stop()


def _configure(data_dir: Path) -> Path:
    data_dir.mkdir(parents=True, exist_ok=True)
    config = data_dir / "gateway.yaml"
    config.write_text(f"ledger:\n  checkpoint_tokens: {CHECKPOINT}\n")
    return config


async def run_beside(kills: int, seed: int, scratch: Path, gateways: int = 2) -> list[Kill]:
    """The same with several gateways side by side, each with books of its own, which share the kills."""
    shares = [kills // gateways + (number < kills % gateways) for number in range(gateways)]
    runs = [run(share, seed + number, scratch / str(number)) for number, share in enumerate(shares) if share]
    return [kill for found in await asyncio.gather(*runs) for kill in found]


def _amount(limit: str) -> int:
    return int(limit.partition("=")[2].partition("/")[0].replace("_", ""))


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        found = asyncio.run(run_beside(asked.kills, asked.seed, Path(scratch)))
    figures = {
        "kills": len(found),
        "requests": sum(kill.seen for kill in found),
        "left_open": sum(kill.open for kill in found),
        "checkpoint_tokens": CHECKPOINT,
        "most_charged_too_much": max(kill.over for kill in found),
        "most_charged_too_little": max(kill.under for kill in found),
        "most_generated_after_a_checkpoint": max(kill.lag for kill in found),
        "most_shown_beyond_the_charge": max(kill.shown for kill in found),
        "slowest_restart_s": max(kill.restart_s for kill in found),
        "faults": [fault for kill in found for fault in kill.faults],
        "seconds": round(time.monotonic() - began, 1),
    }
    if asked.json:
        print(json.dumps(figures | {"each": [asdict(kill) for kill in found]}))
    else:
        for name, value in figures.items():
            print(f"{name:<36} {value}")
    return int(bool(figures["faults"]))


if __name__ == "__main__":
    sys.exit(main())
