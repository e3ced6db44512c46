"""One tenant sends fifty times what each of four others does: what becomes of the others, and who gets the memory.

    .venv/bin/python tests/bench/fairness.py [--blocks 4] [--json]

A vLLM with scarce KV memory and the gateway before it. Each block runs, in turns and with the same arrivals, prompts
and seeds:

- ``solo``: the four small tenants through the gateway, without the large one;
- ``gateway``: all five through the gateway;
- ``direct``: all five at vLLM itself, which knows no tenants.

Told are the small tenants' latencies (to the last byte), pooled over blocks, and their ratio to the solo run; what
broke or was refused counts with the time until the end of its patience. A small tenant asks for ``--light`` of the
capacity, well below its part, so that fairness owes it its solo latency.

Then all five are backlogged: small tenants keep ``--backlog`` requests waiting all the time, the large one fifty times
as many, through the gateway and directly. Told is Jain's index of the KV-block-seconds that each got in that time (1:
equal parts; 0.2: one of the five got all), estimated alike in both arms from the client's clock and usage, and once
more from the gateway's receipts. Intervals are 95 % bootstrap intervals over blocks.
"""

# ruff: noqa: T201 - it prints what it measures
from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import pressure, serving
from bench.load import make_key, many_clients, quantile
from bench.pressure import Told, estimate, shown

if TYPE_CHECKING:
    import httpx2
    from bench.pressure import Arrival, Figure

LARGE = "large"
SMALL = ("one", "two", "three", "four")
TIMES = 50
PATIENCE_S = 60
KEYS_SEEN_S = 0.5
"""A gateway looks for new keys every quarter of a second."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """Where an arm's requests go, and the secret of each tenant."""

    http: httpx2.AsyncClient
    secrets: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Block:
    """What one block found.

    Attributes:
        seconds: Latencies of the small tenants' requests, by arm.
        failed: Of these the ones that were refused or broke, by arm.
        shares: KV-block-seconds of each tenant while all were backlogged, by arm.
        receipts: The same by the gateway's receipts.
    """

    seconds: dict[str, list[float]]
    failed: dict[str, int]
    shares: dict[str, dict[str, float]]
    receipts: dict[str, float]


def arrivals(rate: float, seconds: float, seed: str, longest: int) -> dict[str, list[Arrival]]:
    """Each tenant's requests; the large one's are fifty times as many."""
    rates = {LARGE: TIMES * rate} | dict.fromkeys(SMALL, rate)
    return {
        tenant: pressure.schedule(each, seconds, f"{seed} {tenant}", longest, tenant) for tenant, each in rates.items()
    }


async def mixed(side: Side, of: dict[str, list[Arrival]]) -> list[Told]:
    """What the small tenants got; the large one's clients leave once the others are done."""

    async def send(arrival: Arrival) -> Told:
        secret = side.secrets[arrival.tenant]
        return await pressure.ask(
            side.http, arrival.body, secret=secret, tenant=arrival.tenant, patience_s=PATIENCE_S
        )  # fmt: skip

    crowd = asyncio.get_running_loop().create_task(pressure.open_loop(of.get(LARGE, []), send))
    small = sorted((arrival for tenant in SMALL for arrival in of[tenant]), key=lambda arrival: arrival.at_s)
    told, _ = await pressure.open_loop(small, send)
    crowd.cancel()
    await asyncio.gather(crowd, return_exceptions=True)
    return told


async def backlogged(
    side: Side, seed: str, seconds: float, backlog: int, longest: int
) -> tuple[dict[str, float], dict[str, float]]:
    """KV-block-seconds of each tenant while all have requests waiting: estimated, and by receipts where there are any.

    The first third of the time, in which queues build up, is left out.
    """
    begin = time.monotonic() + seconds / 3
    end = begin + seconds * 2 / 3
    loops = {}
    for tenant in (*SMALL, LARGE):
        loops[tenant] = pressure.closed_loop(
            backlog * (TIMES if tenant == LARGE else 1),
            seconds,
            pressure.supply(f"{seed} backlog {tenant}", longest),
            side.http,
            secret=side.secrets[tenant],
            tenant=tenant,
        )
    told = dict(zip(loops, await asyncio.gather(*loops.values()), strict=True))
    estimated = {tenant: sum(one.block_seconds(begin, end) for one in some) for tenant, some in told.items()}
    charged = {
        tenant: sum(
            one.receipt["spent"].get("kv_block_seconds", 0)
            for one in some
            if one.receipt and begin <= one.sent + one.seconds <= end
        )
        for tenant, some in told.items()
    }
    return estimated, charged


def jain(parts: dict[str, float]) -> float | None:
    """Jain's index of fairness: the square of the sum over n times the sum of squares."""
    squares = sum(part * part for part in parts.values())
    return sum(parts.values()) ** 2 / (len(parts) * squares) if squares else None


async def one_block(
    number: int, engine: httpx2.AsyncClient, sides: dict[str, Side], rate: float, options: argparse.Namespace
) -> Block:
    """All arms once, in an order of the seed's."""
    seed = f"{options.seed} {number}"
    of = arrivals(rate, options.window, seed, options.longest)
    order = random.Random(seed).sample(("solo", "gateway", "direct"), 3)
    seconds, failed = {}, {}
    for arm in order:
        await pressure.idle(engine)
        side = sides["gateway" if arm == "solo" else arm]
        asked = {tenant: some for tenant, some in of.items() if arm != "solo" or tenant != LARGE}
        told = await mixed(side, asked)
        failed[arm] = sum(not one.complete(options.longest) for one in told)
        seconds[arm] = [one.seconds if one.complete(options.longest) else PATIENCE_S for one in told]
        _say(f"block {number + 1}, {arm}: {len(told)} of the small tenants', p99 {quantile(seconds[arm], 0.99):.2f} s")
    shares, receipts = {}, {}
    for arm in (arm for arm in order if arm in sides):
        await pressure.idle(engine)
        shares[arm], charged = await backlogged(
            sides[arm], seed, options.backlog_s, options.backlog, options.longest
        )  # fmt: skip
        receipts = charged if arm == "gateway" else receipts
        _say(f"block {number + 1}, {arm}, all backlogged: Jain's index {jain(shares[arm]) or 0:.3f}")
    return Block(seconds=seconds, failed=failed, shares=shares, receipts=receipts)


def report(blocks: list[Block]) -> dict[str, Any]:
    """Figures over all blocks."""

    def latency(arm: str, share: float) -> Figure:
        return lambda some: quantile([value for block in some for value in block.seconds[arm]], share)

    def ratio(arm: str, share: float) -> Figure:
        return lambda some: latency(arm, share)(some) / latency("solo", share)(some)

    def mean_index(parts: Any) -> Figure:
        def figure(some: list[Block]) -> float | None:
            found = [index for block in some if (index := jain(parts(block))) is not None]
            return sum(found) / len(found) if found else None

        return figure

    arms = tuple(blocks[0].seconds)
    tenants = (LARGE, *SMALL)
    return {
        "latency_s": {
            arm: {
                "p50": estimate(blocks, latency(arm, 0.5)),
                "p99": estimate(blocks, latency(arm, 0.99)),
                "requests": sum(len(block.seconds[arm]) for block in blocks),
                "failed": sum(block.failed[arm] for block in blocks),
            }
            for arm in arms
        },
        "to_solo": {
            arm: {"p50": estimate(blocks, ratio(arm, 0.5)), "p99": estimate(blocks, ratio(arm, 0.99))}
            for arm in arms
            if arm != "solo"
        },
        "jain": {
            arm: estimate(blocks, mean_index(lambda block, arm=arm: block.shares[arm])) for arm in blocks[0].shares
        }
        | {"gateway, by receipts": estimate(blocks, mean_index(lambda block: block.receipts))},
        "block_seconds": {
            arm: {tenant: sum(block.shares[arm][tenant] for block in blocks) for tenant in tenants}
            for arm in blocks[0].shares
        },
    }


async def measure(engine: str, held: serving.Serving, options: argparse.Namespace) -> dict[str, Any]:
    """Capacity, a warm-up of both sides, and the blocks."""
    secrets = {tenant: make_key(held.data_dir, tenant)[1] for tenant in (LARGE, *SMALL)}
    await asyncio.sleep(KEYS_SEEN_S)
    async with many_clients(engine, 2000) as plain, many_clients(held.gateway, 2000) as through:
        _say("measuring capacity")
        levels = await pressure.capacity(
            plain, options.clients, seed=options.seed, longest=options.longest, seconds=options.capacity_s
        )
        best = max(levels, key=lambda level: level.answers_s)
        sides = {
            "gateway": Side(http=through, secrets=secrets),
            "direct": Side(http=plain, secrets=dict.fromkeys(secrets, "none")),
        }
        for tenant, secret in secrets.items():  # the gateway learns how long each tenant's answers are
            asked = pressure.supply(f"{options.seed} warm {tenant}", options.longest)
            await pressure.closed_loop(16, options.warm / len(secrets), asked, through, secret=secret)
        rate = options.light * best.answers_s
        blocks = [await one_block(number, plain, sides, rate, options) for number in range(options.blocks)]
    return {
        "kv_blocks": options.kv_blocks,
        "levels": [asdict(level) for level in levels],
        "capacity_s": best.answers_s,
        "small_tenant_s": rate,
        "large_tenant_s": TIMES * rate,
        "backlog": {"small": options.backlog, "large": TIMES * options.backlog, "seconds": options.backlog_s},
        "blocks": options.blocks,
        "window_s": options.window,
        "seed": options.seed,
    } | report(blocks)


def _say(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


def table(told: dict[str, Any]) -> str:
    """The same for people."""
    head = (
        f"capacity {told['capacity_s']:.1f} answers/s; a small tenant asks for {told['small_tenant_s']:.2f}/s, the "
        f"large one for {told['large_tenant_s']:.1f}/s; {told['blocks']} blocks of {told['window_s']:g} s"
    )
    lines = [head, "small tenants' latency, s"]
    for arm, each in told["latency_s"].items():
        lines.append(
            f"  {arm:8} p50 {shown(each['p50'])}  p99 {shown(each['p99'])}  "
            f"({each['requests']} requests, {each['failed']} failed)"
        )
    lines += [
        f"  {arm}/solo  p50 {shown(each['p50'])}  p99 {shown(each['p99'])}" for arm, each in told["to_solo"].items()
    ]
    lines.append("Jain's index of KV-block-seconds, all five backlogged")
    lines += [f"  {arm:22} {shown(each, 3)}" for arm, each in told["jain"].items()]
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pressure.engine_options(parser, blocks=129, longest=1024)
    parser.add_argument("--blocks", type=int, default=4, help="runs of each arm (%(default)s)")
    parser.add_argument("--window", type=float, default=12, help="seconds in which requests come (%(default)s)")
    parser.add_argument("--light", type=float, default=0.05, help="a small tenant's part of capacity (%(default)s)")
    parser.add_argument("--backlog", type=int, default=5, help="requests a small tenant keeps waiting (%(default)s)")
    parser.add_argument("--backlog-s", type=float, default=9, help="seconds of a backlogged run (%(default)s)")
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 32], help="levels tried for capacity")
    parser.add_argument("--capacity-s", type=float, default=5, help="seconds of each level (%(default)s)")
    parser.add_argument("--warm", type=float, default=15, help="seconds in which the gateway learns (%(default)s)")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(pressure.engine(options, url=options.url))
        held = stack.enter_context(serving.gateway(engine, pressure.operator_file(admission="projected")))
        told = asyncio.run(measure(engine, held, options))
    print(json.dumps(told) if options.json else table(told))


if __name__ == "__main__":
    main()
