"""KV memory under load as an operator sees it: projected, held and usable blocks over time, and the queue below.

    .venv/bin/python tests/bench/memory_chart.py --out memory.svg [--seed 1] [--json]

A vLLM with scarce KV memory and the gateway before it meet Poisson arrivals in phases, by default at 0.5, 3 and 0.5
times the measured capacity. Read four times a second: the gateway's ``suffice_kv_projected_blocks``,
``suffice_kv_held_blocks`` (as it last read it), ``suffice_kv_usable_blocks`` and ``suffice_queue_depth``, and what vLLM
says that it holds: ``vllm:kv_cache_usage_perc`` times its blocks. The samples go to a CSV or JSON file beside the
picture.

Told are the projected peak against the actual one, as vLLM tells it, over the whole run, and at each sample against
the memory held in the ``--horizon`` seconds after it; how often vLLM held more than was projected to be the peak at
that moment; its preemptions. ``--direct`` runs the same load at vLLM itself, without the gateway, for comparison: there
only what vLLM holds and how many requests wait in it can be shown. The picture needs matplotlib (``suffice[plots]``).
"""

# ruff: noqa: T201 - it prints what it measures
from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import pressure, serving
from bench.load import many_clients, quantile

if TYPE_CHECKING:
    import httpx2
    from bench.pressure import Arrival, Told

PROJECTED, USABLE = "suffice_kv_projected_blocks", "suffice_kv_usable_blocks"
READ, QUEUE = "suffice_kv_held_blocks", "suffice_queue_depth"
EVERY_S = 0.25
PATIENCE_S = 60
BLUE, ORANGE, GREY, BLACK = "#0072B2", "#D55E00", "#999999", "#000000"

Row = dict[str, float]


def phased(rate: float, options: argparse.Namespace) -> list[Arrival]:
    """Arrivals of all phases, one after another."""
    return [
        dataclasses.replace(arrival, at_s=number * options.phase + arrival.at_s)
        for number, load in enumerate(options.loads)
        for arrival in pressure.schedule(load * rate, options.phase, f"{options.seed} {number}", options.longest)
    ]


async def record(
    http: httpx2.AsyncClient, engine: httpx2.AsyncClient, secret: str, asked: list[Arrival], *, direct: bool
) -> tuple[list[Row], list[Told], int]:
    """Samples of a run, what its clients got, and the engine's preemptions."""
    blocks = (await pressure.pool(engine)).usable_blocks

    async def look() -> Row:
        there = await pressure.page(engine, pressure.USAGE, pressure.WAITING, pressure.RUNNING)
        held = there.need(pressure.USAGE) * blocks
        row = {"held": held, "running": there.need(pressure.RUNNING), "pool": float(blocks)}
        if direct:
            return row | {"usable": float(blocks), "queued": there.need(pressure.WAITING)}
        here = await pressure.page(http, PROJECTED, USABLE, READ, QUEUE)
        names = {"projected": PROJECTED, "usable": USABLE, "read": READ, "queued": QUEUE}
        return row | {name: here.need(metric) for name, metric in names.items()}

    async def send(arrival: Arrival) -> Told:
        return await pressure.ask(http, arrival.body, secret=secret, patience_s=PATIENCE_S)

    await pressure.idle(engine)
    await asyncio.sleep(2 * EVERY_S)  # until the gateway has seen that it is
    before = await pressure.page(engine, pressure.PREEMPTIONS)
    async with pressure.watching(look, EVERY_S) as seen:
        told, _ = await pressure.open_loop(asked, send)
        await asyncio.sleep(4 * EVERY_S)
    after = await pressure.page(engine, pressure.PREEMPTIONS)
    preemptions = after.need(pressure.PREEMPTIONS) - before.need(pressure.PREEMPTIONS)
    return seen.rows, told, round(preemptions)


def report(rows: list[Row], told: list[Told], preemptions: int, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of the run."""
    found: dict[str, Any] = {
        "usable_blocks": round(rows[-1]["usable"]),
        "actual_peak_blocks": max(row["held"] for row in rows),
        "longest_queue": max(row["queued"] for row in rows),
        "preemptions": preemptions,
        "requests": len(told),
        "complete": sum(one.complete(options.longest) for one in told),
        "refused": sum(one.refused for one in told),
        "samples": len(rows),
    }
    if options.direct:
        return found
    ahead = [
        (row["projected"], max(other["held"] for other in rows[at : at + max(1, round(options.horizon / EVERY_S))]))
        for at, row in enumerate(rows)
        if row["projected"] > 0
    ]
    ratios = [held / projected for projected, held in ahead]
    projected = max(row["projected"] for row in rows)
    return found | {
        "projected_peak_blocks": projected,
        "actual_over_projected_peak": found["actual_peak_blocks"] / projected if projected else None,
        "actual_over_projected": {
            "p50": quantile(ratios, 0.5) if ratios else None,
            "p95": quantile(ratios, 0.95) if ratios else None,
            "horizon_s": options.horizon,
        },
        "held_above_projected": sum(row["held"] > row["projected"] + 1 for row in rows) / len(rows),
    }


def write_rows(path: Path, rows: list[Row], told: dict[str, Any]) -> None:
    """All samples: CSV, or JSON together with the figures."""
    if path.suffix == ".json":
        path.write_text(json.dumps(told | {"rows": rows}), encoding="utf-8")
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def draw(path: Path, rows: list[Row], told: dict[str, Any], options: argparse.Namespace) -> None:
    """The picture."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - wanted only here

    figure = Figure(figsize=(9, 6), dpi=150, layout="constrained")
    memory, queue = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    seconds = [row["seconds"] for row in rows]
    usable = told["usable_blocks"]
    memory.fill_between(
        seconds, [row["held"] for row in rows], color=BLUE, alpha=0.35, linewidth=0, label="held (vLLM)"
    )
    if not options.direct:
        projected = [row["projected"] for row in rows]
        memory.plot(seconds, projected, color=ORANGE, linewidth=1.6, label="projected peak (gateway)")
        room = usable * (1 - options.headroom)
        memory.axhline(room, color=GREY, linewidth=1, linestyle="--", label=f"limit of admission ({room:.0f})")
    memory.axhline(usable, color=BLACK, linewidth=1.4, label=f"capacity ({usable} blocks)")
    memory.set_ylabel(f"KV blocks of {pressure.BLOCK} tokens")
    memory.set_ylim(0, 1.15 * max(usable, *(row.get("projected", 0) for row in rows)))
    memory.set_title(_title(told, options), loc="left", fontsize=11)
    memory.legend(frameon=False, ncols=4, fontsize=8, loc="upper left")
    queue.fill_between(seconds, [row["queued"] for row in rows], color=GREY, linewidth=0, step="post")
    queue.set_ylabel("waiting in vLLM" if options.direct else "waiting in the\ngateway, requests")
    queue.set_xlabel("seconds since the first request")
    queue.set_xlim(0, seconds[-1])
    queue.set_ylim(0, 1.25 * max(1.0, told["longest_queue"]))
    for number, load in enumerate(options.loads):
        for axes in (memory, queue):
            axes.axvline(number * options.phase, color="0.85", linewidth=0.8, zorder=0)
        queue.text(number * options.phase, 0.98, f" load {load:g}x", transform=queue.get_xaxis_transform(),
                   fontsize=8, va="top")  # fmt: skip
    for axes in (memory, queue):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _title(told: dict[str, Any], options: argparse.Namespace) -> str:
    """What the run shows, in its own numbers."""
    most, usable = told["actual_peak_blocks"], told["usable_blocks"]
    if options.direct:
        start = f"Without the gateway vLLM held up to {most:.0f} of {usable} KV blocks"
    else:
        start = (
            f"vLLM held up to {most:.0f} of {usable} KV blocks; the gateway projected up to "
            f"{told['projected_peak_blocks']:.0f}"
        )
    return f"{start}\nUp to {told['longest_queue']:.0f} requests waited; vLLM preempted {told['preemptions']}"


async def measure(engine: str, options: argparse.Namespace, stack: contextlib.ExitStack) -> tuple[dict[str, Any], list]:
    """Capacity, a warm-up, the run."""
    async with many_clients(engine, 2000) as plain:
        _say("measuring capacity")
        levels = await pressure.capacity(
            plain, options.clients, seed=options.seed, longest=options.longest, seconds=options.capacity_s
        )
        best = max(levels, key=lambda level: level.answers_s)
        asked = phased(best.answers_s, options)
        _say(f"capacity {best.answers_s:.1f} answers/s; {len(asked)} requests")
        if options.direct:
            rows, told, preemptions = await record(plain, plain, "none", asked, direct=True)
        else:
            file = pressure.operator_file(admission="projected", headroom=options.headroom, scrape_s=EVERY_S)
            held = stack.enter_context(serving.gateway(engine, file))
            async with many_clients(held.gateway, 2000) as through:
                warm = pressure.supply(f"{options.seed} warm", options.longest)  # the gateway learns lengths
                await pressure.closed_loop(best.clients, options.warm, warm, through, secret=held.key)
                rows, told, preemptions = await record(through, plain, held.key, asked, direct=False)
    found = {
        "kv_blocks": options.kv_blocks,
        "capacity_s": best.answers_s,
        "loads": options.loads,
        "phase_s": options.phase,
        "seed": options.seed,
    }
    return found | report(rows, told, preemptions, options), rows


def _say(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


def table(told: dict[str, Any]) -> str:
    """The same for people."""
    return "\n".join(f"{name.replace('_', ' '):28} {_number(value)}" for name, value in told.items())


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_number(each)}" for name, each in value.items())
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pressure.engine_options(parser, blocks=129, longest=1024)
    parser.add_argument("--out", type=Path, help="picture to write, .svg or .png")
    parser.add_argument("--data", type=Path, help="samples to write, .csv or .json; else beside the picture as .csv")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 3, 0.5], help="multiples of capacity")
    parser.add_argument("--phase", type=float, default=15, help="seconds of each load (%(default)s)")
    parser.add_argument("--headroom", type=float, default=0.05, help="share that the gateway leaves free (%(default)s)")
    parser.add_argument("--horizon", type=float, default=3, help="seconds that a projection is held against")
    parser.add_argument("--direct", action="store_true", help="without the gateway")
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 32], help="levels tried for capacity")
    parser.add_argument("--capacity-s", type=float, default=5, help="seconds of each level (%(default)s)")
    parser.add_argument("--warm", type=float, default=12, help="seconds in which the gateway learns (%(default)s)")
    options = parser.parse_args()
    if options.out is not None and importlib.util.find_spec("matplotlib") is None:  # told before the long run
        print("pictures need matplotlib: pip install 'suffice[plots]'", file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(pressure.engine(options, url=options.url))
        told, rows = asyncio.run(measure(engine, options, stack))
    data = options.data or (None if options.out is None else options.out.with_suffix(".csv"))
    if data is not None:
        write_rows(data, rows, told)
    if options.out is not None:
        draw(options.out, rows, told, options)
    print(json.dumps(told) if options.json else table(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
