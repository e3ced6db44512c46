"""What the gateway adds to a request: latency, latency a chunk, and CPU, against the same upstream asked directly.

``python tests/bench/overhead.py [--json]`` runs the fake upstream in a process of its own and a gateway before it, and
sends the same streams to both by turns: rounds interleave, so that what else the machine does hits both alike. Figures
are differences of the two sides' quantiles, with 95 % bootstrap intervals over rounds.
"""

# ruff: noqa: T201 - a command prints what it found

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.load import CHAT, interval, many_clients, median, quantile
from processes import GatewayProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

SHORT, LONG = 1, 129
"""Tokens, each a chunk, of a short and of a long stream."""
FAKE = """
import sys, time
from fake_vllm import FakeVLLM, Script
script = Script.of(answer="word", opens_thought=False, endless=True)
with FakeVLLM(script, template_opens_thought=False) as fake:
    print(fake.url, flush=True)
    while sys.stdin.readline():
        fake.forget()
"""
"""The upstream; a line on its standard input has it forget what it was asked, and the end of input ends it."""


@dataclass
class Round:
    """Seconds of one round's requests, by side: ``direct`` or ``gateway``.

    Attributes:
        short: To the end of a stream of one token.
        long: To the end of a long stream.
        cpu_s: Processor seconds that the gateway used in this round.
        requests: Requests that it served in this round.
    """

    short: dict[str, list[float]] = field(default_factory=dict)
    long: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: dict[int, float] = field(default_factory=dict)
    requests: int = 0


@contextlib.contextmanager
def upstream() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The fake upstream in its own process."""
    process = subprocess.Popen(
        [sys.executable, "-c", FAKE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert process.stdin
    assert process.stdout
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


async def _stream(http: httpx2.AsyncClient, key: str, tokens: int) -> float:
    body = {
        "model": "fake",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began = time.perf_counter()
    async with http.stream("POST", CHAT, json=body, headers={"authorization": f"Bearer {key}"}) as answer:
        read = await answer.aread()
    seconds = time.perf_counter() - began
    assert answer.status_code == 200, read
    assert read.count(b'"content":"word"') + read.count(b'"reasoning":"word"') == tokens, read[-2000:]
    return seconds


async def _many(http: httpx2.AsyncClient, key: str, tokens: int, requests: int, at_once: int) -> list[float]:
    """Latencies of ``requests`` requests, ``at_once`` at any moment."""
    left = iter(range(requests))

    async def work() -> list[float]:
        return [await _stream(http, key, tokens) for _ in left]

    return [seconds for found in await asyncio.gather(*(work() for _ in range(at_once))) for seconds in found]


async def measure(gateway: GatewayProcess, fake_url: str, forget: Any, at_once: int, rounds: int) -> list[Round]:
    """Interleaved rounds at one level of concurrency; the first, which warms both sides up, is left out."""
    process = psutil.Process(gateway.process.pid)
    requests = max(8, 2 * at_once)
    found = []
    async with many_clients(fake_url, at_once) as direct, many_clients(gateway.url, at_once) as through:
        for number in range(rounds + 1):
            one = Round(requests=requests)
            sides = [("direct", direct, "none"), ("gateway", through, gateway.key)]
            for side, http, key in sides if number % 2 else reversed(sides):
                for tokens, into in ((SHORT, one.short), (LONG, one.long)):
                    before = process.cpu_times()
                    into[side] = await _many(http, key, tokens, requests, at_once)
                    after = process.cpu_times()
                    if side == "gateway":
                        one.cpu_s[tokens] = after.user + after.system - before.user - before.system
            forget()
            if number:
                found.append(one)
    return found


def _together(rounds: list[Round], name: str, side: str) -> list[float]:
    return [seconds for one in rounds for seconds in getattr(one, name)[side]]


def figures(rounds: list[Round]) -> dict[str, tuple[float, float, float]]:
    """Each figure with its interval; times in milliseconds."""

    def added(name: str, share: float) -> Any:
        return lambda some: (
            1000
            * (quantile(_together(some, name, "gateway"), share) - quantile(_together(some, name, "direct"), share))
        )

    def chunk(share: float) -> Any:
        return lambda some: (added("long", share)(some) - added("short", share)(some)) / (LONG - SHORT)

    def cpu(tokens: int) -> Any:
        return lambda some: 1000 * sum(one.cpu_s[tokens] for one in some) / sum(one.requests for one in some)

    return {
        "direct_p50_ms": interval(rounds, lambda some: 1000 * median(_together(some, "short", "direct"))),
        "added_request_p50_ms": interval(rounds, added("short", 0.5)),
        "added_request_p99_ms": interval(rounds, added("short", 0.99)),
        "added_chunk_p50_ms": interval(rounds, chunk(0.5)),
        "added_chunk_p99_ms": interval(rounds, chunk(0.99)),
        "cpu_ms_a_short_request": interval(rounds, cpu(SHORT)),
        "cpu_ms_a_long_request": interval(rounds, cpu(LONG)),
    }


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    with upstream() as (url, fake), tempfile.TemporaryDirectory() as scratch:
        gateway = GatewayProcess(url, Path(scratch))
        gateway.start()

        def forget() -> None:
            fake.stdin.write("\n")
            fake.stdin.flush()

        try:
            for at_once in asked.at_once:
                rounds = asyncio.run(measure(gateway, url, forget, at_once, asked.rounds))
                found[str(at_once)] = figures(rounds)
        finally:
            gateway.stop()
    if asked.json:
        shown = {
            level: {name: {"value": value, "low": low, "high": high} for name, (value, low, high) in each.items()}
            for level, each in found.items()
        }
        print(json.dumps({"rounds": asked.rounds, "chunks_of_a_long_stream": LONG, "at_once": shown}))
    else:
        for level, each in found.items():
            print(f"{level} at once, {asked.rounds} rounds")
            for name, (value, low, high) in each.items():
                print(f"  {name:<24} {value:9.3f}   [{low:.3f}, {high:.3f}]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
