"""A prompt that one tenant cached: how many of its tokens are cached for another?

    .venv/bin/python tests/bench/isolation.py [--prompts 20] [--json]

Each prompt is asked in this order, and vLLM tells in ``usage.prompt_tokens_details.cached_tokens`` how many of its
tokens it did not have to compute: by one tenant (``first``), by the same again (``again``), by another key of the same
team (``teammate``), by another tenant (``other``), and by that one again (``other_again``); then twice at vLLM itself,
without the gateway (``direct``, ``direct_again``). Which tenant comes first is drawn.

It holds, and the command ends with 0, if ``first``, ``other`` and ``direct`` are 0 for every prompt and all others are
above 0: caches work and are kept apart. ``direct_again`` shows that a stranger would have hit without the gateway.
"""

# ruff: noqa: T201 - it prints what it measures
from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import pressure, serving
from bench.load import make_key, make_team, many_clients
from tiny_model.task import question

if TYPE_CHECKING:
    import httpx2

KEYS_SEEN_S = 0.5
"""A gateway looks for new keys every quarter of a second."""
COLD = ("first", "other", "direct")
WARM = ("again", "teammate", "other_again", "direct_again")
PATIENCE_S = 60


def request(dice: random.Random, questions: int, longest: int) -> dict[str, Any]:
    """A prompt of many blocks that was never asked before."""
    text = " ".join(question(dice).text for _ in range(questions))
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": longest, "seed": 1}


async def one_prompt(
    body: dict[str, Any], order: list[tuple[str, httpx2.AsyncClient, str]]
) -> tuple[int, dict[str, int]]:
    """Length of a prompt, and how much of it was cached each time."""
    cached, length = {}, 0
    for name, http, secret in order:
        told = await pressure.ask(http, body, secret=secret, patience_s=PATIENCE_S)
        assert told.status == 200, f"{name}: {told.status} {told.code}"
        cached[name], length = told.cached_tokens, told.prompt_tokens
    return length, cached


async def measure(engine: str, held: serving.Serving, options: argparse.Namespace) -> dict[str, Any]:
    """All prompts, one after another."""
    keys = {}
    for team in ("red", "blue"):
        make_team(held.data_dir, team)
        keys[team] = [make_key(held.data_dir, f"{team} {number}", team=team)[1] for number in (1, 2)]
    await asyncio.sleep(KEYS_SEEN_S)
    dice = random.Random(options.seed)
    lengths, rows = [], []
    async with many_clients(engine, 8) as plain, many_clients(held.gateway, 8) as through:
        for _ in range(options.prompts):
            one, other = dice.sample(("red", "blue"), 2)
            order = [
                ("first", through, keys[one][0]),
                ("again", through, keys[one][0]),
                ("teammate", through, keys[one][1]),
                ("other", through, keys[other][0]),
                ("other_again", through, keys[other][0]),
                ("direct", plain, "none"),
                ("direct_again", plain, "none"),
            ]
            length, cached = await one_prompt(request(dice, options.questions, options.longest), order)
            lengths.append(length)
            rows.append(cached)
    return {
        "prompts": len(rows),
        "prompt_tokens": {"least": min(lengths), "most": max(lengths)},
        "cached_tokens": {
            name: {
                "least": min(row[name] for row in rows),
                "mean": sum(row[name] for row in rows) / len(rows),
                "most": max(row[name] for row in rows),
            }
            for name in rows[0]
        },
        "holds": all(row[name] == 0 for row in rows for name in COLD)
        and all(row[name] > 0 for row in rows for name in WARM),
        "seed": options.seed,
    }


def table(told: dict[str, Any]) -> str:
    """The same for people."""
    lengths = told["prompt_tokens"]
    lines = [f"{told['prompts']} prompts of {lengths['least']} to {lengths['most']} tokens; cached tokens:"]
    lines += [
        f"  {name:13} mean {each['mean']:6.1f}   from {each['least']} to {each['most']}"
        for name, each in told["cached_tokens"].items()
    ]
    lines.append("caches work and are kept apart" if told["holds"] else "NOT as it should be")
    return "\n".join(lines)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pressure.engine_options(parser, blocks=512, longest=32)
    parser.add_argument("--prompts", type=int, default=20, help="prompts asked (%(default)s)")
    parser.add_argument("--questions", type=int, default=8, help="questions put together to one prompt (%(default)s)")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(pressure.engine(options, url=options.url))
        held = stack.enter_context(serving.gateway(engine, pressure.operator_file()))
        told = asyncio.run(measure(engine, held, options))
    print(json.dumps(told) if options.json else table(told))
    return int(not told["holds"])


if __name__ == "__main__":
    sys.exit(main())
