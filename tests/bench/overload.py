"""More requests than the KV cache can hold: vLLM alone, vLLM with its own valve, and the gateway before it.

    .venv/bin/python tests/bench/overload.py [--loads 1 2 4 8] [--blocks 3] [--json]

Two vLLMs with equally scarce KV memory are started, one of them with ``--max-num-queued-reqs``; the gateway stands
before the other. Capacity is measured first, by clients that ask again as soon as they are answered; loads are
multiples of it. Each block runs every load and every arm on it, in turns, with the same arrivals, prompts and seeds.
Answers have the model's own lengths, which nobody knows beforehand.

In every arm clients leave at the deadline, as clients do; the gateway is told the deadline. Counted are the requests
that come after the first deadline has passed, so that queues have had time to build up:

- goodput: answers a second that came to their own end within the deadline, and ``cut``, those that came in time
  because the gateway ended a thought early (in no arm part of the goodput);
- preemptions: those of the engine in a whole run;
- time to the first token of what was not refused; who left before it counts with the time it waited;
- refused: share, and share of the refusals that say when to try again. Some of these do try again, exactly then: how
  many were let in and how many were done in time. vLLM's refusals say nothing; there the official SDK's first pause
  of half a second is taken.

The valve lets in what the engine can serve in half a deadline (``--valve`` sets another number), so that it is no
straw man. Intervals are 95 % bootstrap intervals over blocks; with three blocks they are coarse.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import pressure, serving
from bench.load import many_clients, quantile
from bench.pressure import Told, estimate, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2
    from bench.pressure import Arrival, Figure, Level

ARMS = ("alone", "valve", "gateway")
SDK_PAUSE_S = 0.5
"""The official SDKs' first pause where a refusal says nothing of when to try again."""
GRACE_S = 0.25
"""Clients' patience beyond the deadline, so that an answer in the last moment is told from none."""
DECISIONS = "suffice_admission_decisions_total"


@dataclass(frozen=True, kw_only=True)
class Retry:
    """One refused request that was sent again when it was told to.

    Attributes:
        advice_s: Seconds that it waited.
        told: What it got then.
    """

    advice_s: float
    told: Told


@dataclass(kw_only=True)
class Run:
    """One arm at one load in one block.

    Attributes:
        counted: What the counted requests got.
        seconds: Time in which they came.
        late_s: Seconds that the load came late, at the 99th percentile.
        decisions: The gateway's, by verdict.
    """

    arm: str
    load: float
    block: int
    counted: list[Told] = field(default_factory=list)
    seconds: float = 0.0
    retries: list[Retry] = field(default_factory=list)
    preemptions: int = 0
    usage: float = 0.0
    late_s: float = 0.0
    decisions: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all runs share.

    Attributes:
        rate: Capacity in requests a second.
        deadline_s: When an answer is worthless.
        window_s: Time in which requests come.
        longest: ``max_tokens``.
        retries: Refused requests that try again, a run.
    """

    rate: float
    deadline_s: float
    window_s: float
    longest: int
    retries: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Side:
    """Where an arm's requests go and which engine serves them in the end."""

    http: httpx2.AsyncClient
    engine: httpx2.AsyncClient
    secret: str = "none"


class Sender:
    """Sends the requests of one run, and some of the refused ones again."""

    def __init__(self, side: Side, setting: Setting, *, knows_deadlines: bool) -> None:
        self._side = side
        self._setting = setting
        self._field = {"suffice": {"budget": {"deadline_ms": round(setting.deadline_s * 1000)}}}
        self._field = self._field if knows_deadlines else {}
        self._began = time.monotonic()
        self._next_retry = 0.0
        self.retries: list[Retry] = []
        self.beside: set[asyncio.Task[None]] = set()

    async def send(self, arrival: Arrival) -> Told:
        """One request; the clients' patience ends with the deadline."""
        told = await self._ask(arrival)
        at = time.monotonic() - self._began
        advice = told.retry_after_s or SDK_PAUSE_S
        if told.refused and at >= self._next_retry and at + advice <= self._setting.window_s:
            self._next_retry = at + self._setting.window_s / max(1, self._setting.retries)
            self.beside.add(asyncio.get_running_loop().create_task(self._again(arrival, advice)))
        return told

    async def _ask(self, arrival: Arrival) -> Told:
        return await pressure.ask(
            self._side.http,
            arrival.body | self._field,
            secret=self._side.secret,
            patience_s=self._setting.deadline_s + GRACE_S,
        )

    async def _again(self, arrival: Arrival, advice_s: float) -> None:
        await asyncio.sleep(advice_s)
        self.retries.append(Retry(advice_s=advice_s, told=await self._ask(arrival)))


async def run(arm: str, load: float, block: int, side: Side, setting: Setting) -> Run:
    """One arm at one load."""
    seed = f"{setting.seed} {block} {load}"
    arrivals = pressure.schedule(load * setting.rate, setting.window_s, seed, setting.longest)
    await pressure.idle(side.engine)
    before = await pressure.page(side.engine, pressure.PREEMPTIONS)
    decided = (await pressure.page(side.http, DECISIONS)).by(DECISIONS, "verdict")

    async def look() -> dict[str, float]:
        return {"usage": (await pressure.page(side.engine, pressure.USAGE)).need(pressure.USAGE)}

    sender = Sender(side, setting, knows_deadlines=arm == "gateway")
    async with pressure.watching(look) as seen:
        told, late = await pressure.open_loop(arrivals, sender.send)
    await asyncio.gather(*sender.beside)
    await pressure.idle(side.engine)
    after = await pressure.page(side.engine, pressure.PREEMPTIONS)
    now = (await pressure.page(side.http, DECISIONS)).by(DECISIONS, "verdict")
    usage = [row["usage"] for row in seen.rows if setting.deadline_s <= row["seconds"] <= setting.window_s]
    return Run(
        arm=arm,
        load=load,
        block=block,
        counted=[one for one, arrival in zip(told, arrivals, strict=True) if arrival.at_s >= setting.deadline_s],
        seconds=setting.window_s - setting.deadline_s,
        retries=sender.retries,
        preemptions=round(after.need(pressure.PREEMPTIONS) - before.need(pressure.PREEMPTIONS)),
        usage=sum(usage) / max(1, len(usage)),
        late_s=quantile(late, 0.99) if late else 0.0,
        decisions={verdict: round(count - decided.get(verdict, 0)) for verdict, count in now.items()},
    )


def good(told: Told, setting: Setting) -> bool:
    """Whether an answer came to its own end within the deadline."""
    return told.seconds <= setting.deadline_s and told.complete(setting.longest) and told.finish == "stop"


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def figures(runs: list[Run], setting: Setting) -> dict[str, Any]:
    """All figures of one arm at one load."""

    def all_of(some: list[Run]) -> list[Told]:
        return [told for one in some for told in one.counted]

    def goodput(*, cut: bool) -> Figure:
        return lambda some: (
            sum(good(told, setting) and told.shortened is cut for told in all_of(some))
            / sum(one.seconds for one in some)
        )

    def first(share: float) -> Figure:
        def figure(some: list[Run]) -> float | None:
            times = [told.first_s or told.seconds for told in all_of(some) if not told.refused]
            return 1000 * quantile(times, share) if times else None

        return figure

    def of_refused(some: list[Run]) -> float | None:
        refused = [told for told in all_of(some) if told.refused]
        return _share(sum(told.retry_after_s is not None for told in refused), len(refused))

    def of_retries(what: Callable[[Retry], bool]) -> Figure:
        return lambda some: _share(
            sum(what(retry) for one in some for retry in one.retries), sum(len(one.retries) for one in some)
        )

    estimates: dict[str, Figure] = {
        "goodput_s": goodput(cut=False),
        "cut_s": goodput(cut=True),
        "preemptions": lambda some: sum(one.preemptions for one in some) / len(some),
        "first_token_p50_ms": first(0.5),
        "first_token_p99_ms": first(0.99),
        "refused": lambda some: _share(sum(told.refused for told in all_of(some)), len(all_of(some))),
        "left_or_late": lambda some: _share(
            sum(not told.refused and not good(told, setting) for told in all_of(some)), len(all_of(some))
        ),
        "refusals_with_advice": of_refused,
        "retries_let_in": of_retries(lambda retry: not retry.told.refused),
        "retries_in_time": of_retries(lambda retry: good(retry.told, setting)),
        "kv_usage": lambda some: sum(one.usage for one in some) / len(some),
    }
    verdicts = sorted({verdict for one in runs for verdict in one.decisions})
    codes = sorted({str(told.code or told.status) for told in all_of(runs) if told.code or told.status != 200})
    told = all_of(runs)
    return {name: estimate(runs, figure) for name, figure in estimates.items()} | {
        "requests": len(told),
        "without_first_token": sum(one.first_s is None and not one.refused for one in told),
        "refused_after_200": sum(one.refused and one.status == 200 for one in told),
        "broken": sum(one.broke for one in told),
        "codes": {code: sum(str(one.code or one.status) == code for one in told) for code in codes},
        "retries": sum(len(one.retries) for one in runs),
        "advice_p50_s": _median([retry.advice_s for one in runs for retry in one.retries]),
        "decisions": {verdict: sum(one.decisions.get(verdict, 0) for one in runs) for verdict in verdicts},
        "sent_late_p99_ms": 1000 * max(one.late_s for one in runs),
    }


def _median(values: list[float]) -> float | None:
    return quantile(values, 0.5) if values else None


def against(runs: list[Run], other: str, load: float, setting: Setting) -> dict[str, Any] | None:
    """The gateway's goodput less another arm's, block by block."""
    held = {(one.arm, one.block): one for one in runs if one.load == load}
    pairs = [(one, held[other, one.block]) for (arm, _), one in held.items() if arm == "gateway"]

    def goodput(side: list[Run]) -> float:
        count = sum(good(told, setting) and not told.shortened for one in side for told in one.counted)
        return count / sum(one.seconds for one in side)

    return estimate(pairs, lambda some: goodput([a for a, _ in some]) - goodput([b for _, b in some]))


async def measure(engine: str, options: argparse.Namespace, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Capacity, then all runs."""
    async with contextlib.AsyncExitStack() as clients:

        async def client(url: str) -> httpx2.AsyncClient:
            return await clients.enter_async_context(many_clients(url, 2000))

        plain = await client(engine)
        _say("measuring capacity")
        levels = await pressure.capacity(
            plain, options.clients, seed=options.seed, longest=options.longest, seconds=options.capacity_s
        )
        best, knee = max(levels, key=lambda level: level.answers_s), pressure.knee(levels)
        deadline_s = options.deadline or round(2 * knee.p95_s, 1)
        window_s = deadline_s + options.window
        setting = Setting(
            rate=best.answers_s,
            deadline_s=deadline_s,
            window_s=window_s,
            longest=options.longest,
            retries=options.retries,
            seed=options.seed,
        )
        valve = options.valve or max(1, round(best.answers_s * deadline_s / 2))
        sides = {"alone": Side(http=plain, engine=plain)}
        if "valve" in options.arms:
            _say(f"starting the engine with a valve of {valve}")
            started = pressure.engine(options, "--max-num-queued-reqs", str(valve), url=options.valve_url)
            valved = await client(stack.enter_context(started))
            sides["valve"] = Side(http=valved, engine=valved)
        if "gateway" in options.arms:
            file = pressure.operator_file(**{"admission": "projected"} | options.kv)
            held = stack.enter_context(serving.gateway(engine, file))
            sides["gateway"] = Side(http=await client(held.gateway), engine=plain, secret=held.key)
        for arm, side in sides.items():  # an engine's first steps are slow; a gateway learns how long answers are
            asked = pressure.supply(f"{options.seed} warm", options.longest)
            seconds = options.warm if arm == "gateway" else options.capacity_s
            await pressure.closed_loop(knee.clients, seconds, asked, side.http, secret=side.secret)
        runs = await _blocks(sides, setting, options)
        return _report(levels, best, valve, setting, runs, options)


async def _blocks(sides: dict[str, Side], setting: Setting, options: argparse.Namespace) -> list[Run]:
    dice = random.Random(options.seed)
    runs = []
    for block in range(options.blocks):
        for load in options.loads:
            for arm in dice.sample(options.arms, len(options.arms)):
                runs.append(await run(arm, load, block, sides[arm], setting))
                done = sum(good(told, setting) for told in runs[-1].counted)
                _say(f"block {block + 1}, load {load:g}, {arm}: {done} of {len(runs[-1].counted)} in time")
    return runs


def _report(
    levels: list[Level], best: Level, valve: int, setting: Setting, runs: list[Run], options: argparse.Namespace
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "kv_blocks": options.kv_blocks,
        "kv": options.kv,
        "block_tokens": pressure.BLOCK,
        "levels": [asdict(level) for level in levels],
        "capacity_s": best.answers_s,
        "deadline_s": setting.deadline_s,
        "valve": valve,
        "window_s": setting.window_s,
        "blocks": options.blocks,
        "seed": options.seed,
        "loads": {},
    }
    for load in options.loads:
        here = {arm: [one for one in runs if one.arm == arm and one.load == load] for arm in options.arms}
        row = {arm: figures(some, setting) for arm, some in here.items()}
        others = [arm for arm in options.arms if arm != "gateway" and "gateway" in options.arms]
        less = {arm: against(runs, arm, load, setting) for arm in others}
        told["loads"][f"{load:g}"] = {"arms": row, "gateway_goodput_less": less}
    return told


def _say(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


def table(told: dict[str, Any]) -> str:
    """The same for people."""
    head = (
        f"capacity {told['capacity_s']:.1f} answers/s, deadline {told['deadline_s']} s, valve {told['valve']}, "
        f"{told['kv_blocks']} KV blocks of {told['block_tokens']} tokens, {told['blocks']} blocks of runs"
    )
    lines = [head]
    for load, row in told["loads"].items():
        lines.append(f"load {load}x")
        for arm, each in row["arms"].items():
            lines.append(f"  {arm} ({each['requests']} requests; {each['without_first_token']} got no token)")
            for name, digits in (
                ("goodput_s", 2), ("cut_s", 2), ("preemptions", 1), ("first_token_p50_ms", 0),
                ("first_token_p99_ms", 0), ("refused", 3), ("left_or_late", 3), ("refusals_with_advice", 3),
                ("retries_let_in", 3), ("retries_in_time", 3), ("kv_usage", 3),
            ):  # fmt: skip
                lines.append(f"    {name:<22} {shown(each[name], digits)}")
        for arm, less in row["gateway_goodput_less"].items():
            lines.append(f"  gateway's goodput less that of {arm}: {shown(less)}")
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pressure.engine_options(parser, blocks=129, longest=1024)
    parser.add_argument("--valve-url", help="a vLLM with --max-num-queued-reqs, where --url names the other one")
    parser.add_argument("--loads", type=float, nargs="+", default=[1, 2, 4, 8], help="multiples of capacity")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--blocks", type=int, default=3, help="runs of each arm at each load (%(default)s)")
    parser.add_argument("--window", type=float, default=4, help="seconds in which counted requests come (%(default)s)")
    parser.add_argument(
        "--deadline",
        type=float,
        help="seconds; else twice the 95th percentile of the fewest clients that fill the engine",
    )
    parser.add_argument("--valve", type=int, help="requests that the valve lets in; else half a deadline's work")
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 32, 64], help="levels tried for capacity")
    parser.add_argument("--capacity-s", type=float, default=5, help="seconds of each level (%(default)s)")
    parser.add_argument("--warm", type=float, default=12, help="seconds in which the gateway learns (%(default)s)")
    parser.add_argument("--retries", type=int, default=8, help="refused requests a run that try again (%(default)s)")
    parser.add_argument("--kv", type=json.loads, default={}, help="more of the gateway's kv section, as JSON")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(pressure.engine(options, url=options.url))
        told = asyncio.run(measure(engine, options, stack))
    print(json.dumps(told) if options.json else table(told))


if __name__ == "__main__":
    main()
