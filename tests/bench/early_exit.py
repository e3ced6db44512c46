"""What early exit saves and costs on a real engine: tokens and accuracy of every rule on fresh questions.

    .venv/bin/python tests/bench/early_exit.py --questions 500 --seed 11 [--url http://127.0.0.1:8100] [--json]

Arms, each on the same questions with the same sampling seeds: full thinking; static caps on the thought; probes at
fixed intervals (20 tokens every 64); and the rules. All go through the gateway to real vLLM with the tiny reasoning
model. Told are means with 95 % paired-bootstrap intervals over questions: tokens (all that were generated, probes
included), accuracy, and the differences to full thinking, to the static caps at the same tokens (interpolated between
caps), and to fixed-interval probing.

A rule's parameters are set beforehand with ``--tune`` on other questions (seed + 1,000,000), never on those reported.
"""

# ruff: noqa: T201 - it prints what it measures
from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import serving
from tiny_model.task import Question, is_right, questions

TOTAL = 1400
TRIES = 5
ANSWER = {"kind": "number"}
CAPS = (48, 72, 96, 128, 176, 240)
PROBE = {"suffix": "The answer is ", "probe_tokens": 6}
RULES: dict[str, dict[str, Any]] = {
    "fixed_interval": {"rule": "fixed_interval", "interval": 64, "probe_tokens": 20, "suffix": ""},
    "convergence": {"rule": "convergence", "probe_first": 40, "probe_growth": 1.25} | PROBE,
    "confidence": {"rule": "confidence", "probe_first": 40, "probe_growth": 1.25, "threshold": 0.9} | PROBE,
    "entropy": {"rule": "entropy", "probe_first": 40, "probe_growth": 1.15, "variance": 0.01} | PROBE,
    "willing": {"rule": "willing", "probability": 0.2},
    "willing, outside": {"rule": "willing", "probability": 0.2, "home": "gateway"},
    "willing twice": {"rule": "willing", "probability": 0.2, "occasions": 2},
    "combined": {"rule": "combined", "probe_first": 40, "probe_growth": 1.25, "threshold": 0.8} | PROBE,
    "confidence+hopeless": {"rule": "confidence", "probe_first": 40, "probe_growth": 1.25, "threshold": 0.9,
                            "hopeless": 0.3, "hopeless_middle": 0.4} | PROBE,
    "engine_entropy": {"rule": "engine_entropy"},
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One question in one arm."""

    tokens: int
    right: bool
    empty: bool
    stops: tuple[str, ...]
    way: str


async def _ask(
    client: httpx2.AsyncClient, model: str, question: Question, seed: int, suffice: dict[str, Any]
) -> Outcome:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question.text}],
        "seed": seed,
        "suffice": {"budget": {"total_tokens": TOTAL}, "answer": ANSWER} | suffice,
    }
    for _ in range(TRIES):
        answer = await client.post("/v1/chat/completions", json=body)
        if answer.status_code < 500:
            break
    answer.raise_for_status()
    told = answer.json()
    content = told["choices"][0]["message"]["content"] or ""
    stops = told["suffice"]["stops"]
    return Outcome(
        tokens=told["usage"]["completion_tokens"],
        right=is_right(question, content),
        empty=not content.strip(),
        stops=tuple(stop["rule"] for stop in stops),
        way=",".join(sorted({stop["by"] for stop in stops})),
    )


async def run_arm(
    held: serving.Serving, asked: list[Question], seed: int, suffice: dict[str, Any], concurrent: int
) -> list[Outcome]:
    """Every question once, so many at a time."""
    gate = asyncio.Semaphore(concurrent)
    headers = {"authorization": f"Bearer {held.key}"}
    async with httpx2.AsyncClient(base_url=held.gateway, headers=headers, timeout=300, trust_env=False) as client:

        async def one(number: int, question: Question) -> Outcome:
            async with gate:
                return await _ask(client, held.model, question, seed * 100_000 + number, suffice)

        return await asyncio.gather(*(one(number, question) for number, question in enumerate(asked)))


def interval(values: list[float], rng: random.Random, rounds: int = 2000) -> dict[str, float]:
    """Mean with a 95 % bootstrap interval over questions."""
    count = len(values)
    means = sorted(sum(rng.choices(values, k=count)) / count for _ in range(rounds))
    return {"mean": sum(values) / count, "low": means[int(0.025 * rounds)], "high": means[int(0.975 * rounds)]}


def capped_alike(arms: dict[str, list[Outcome]], tokens: float) -> list[float]:
    """Accuracy of each question under static caps that spend as many tokens on average, between two caps by weight."""
    caps = [(sum(one.tokens for one in arms[f"cap {cap}"]) / len(arms[f"cap {cap}"]), f"cap {cap}") for cap in CAPS]
    caps.append((sum(one.tokens for one in arms["full"]) / len(arms["full"]), "full"))
    caps.sort()
    for (low, left), (high, right) in itertools.pairwise(caps):
        if low <= tokens <= high:
            weight = (tokens - low) / (high - low)
            return [(1 - weight) * a.right + weight * b.right for a, b in zip(arms[left], arms[right], strict=True)]
    edge = caps[0][1] if tokens < caps[0][0] else caps[-1][1]
    return [float(one.right) for one in arms[edge]]


def report(arms: dict[str, list[Outcome]], seed: int) -> dict[str, Any]:
    """Figures of every arm."""
    rng = random.Random(seed)
    full, fixed = arms["full"], arms.get("fixed_interval")
    told: dict[str, Any] = {}
    for name, outcomes in arms.items():
        tokens = [float(one.tokens) for one in outcomes]
        right = [float(one.right) for one in outcomes]
        mean = sum(tokens) / len(tokens)
        base = sum(one.tokens for one in full) / len(full)
        row: dict[str, Any] = {
            "tokens": interval(tokens, rng),
            "accuracy": interval(right, rng),
            "tokens_saved": interval([(f.tokens - t) / base for f, t in zip(full, tokens, strict=True)], rng),
            "accuracy_less_full": interval([r - f.right for r, f in zip(right, full, strict=True)], rng),
            "empty_answers": sum(one.empty for one in outcomes),
            "exits": sum(bool(one.stops) for one in outcomes) / len(outcomes),
            "by": sorted({one.way for one in outcomes if one.way}),
        }
        if name in RULES and all(f"cap {cap}" in arms for cap in CAPS):
            alike = capped_alike(arms, mean)
            row["accuracy_less_static_cap"] = interval([r - a for r, a in zip(right, alike, strict=True)], rng)
        if name in RULES and fixed is not None and name != "fixed_interval":
            row["accuracy_less_fixed_interval"] = interval(
                [r - f.right for r, f in zip(right, fixed, strict=True)], rng
            )
            fixed_base = sum(one.tokens for one in fixed) / len(fixed)
            row["tokens_saved_on_fixed_interval"] = interval(
                [(f.tokens - t) / fixed_base for f, t in zip(fixed, tokens, strict=True)], rng
            )
        told[name] = row
    return told


def arms_of(only: list[str] | None) -> dict[str, dict[str, Any]]:
    """What each arm asks for."""
    arms: dict[str, dict[str, Any]] = {"full": {}}
    for cap in CAPS:
        arms[f"cap {cap}"] = {"budget": {"total_tokens": TOTAL, "thinking_tokens": cap}}
    arms |= {name: {"early_exit": rule} for name, rule in RULES.items()}
    return arms if not only else {name: arm for name, arm in arms.items() if name in ("full", *only)}


def table(told: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"{'arm':22} {'tokens':>16} {'saved':>22} {'accuracy':>10} {'less full':>22} {'less cap':>22} empty"]
    for name, row in told.items():
        saved, less = row["tokens_saved"], row["accuracy_less_full"]
        cap = row.get("accuracy_less_static_cap")
        lines.append(
            f"{name:22} {row['tokens']['mean']:16.1f} "
            f"{saved['mean']:7.1%} [{saved['low']:5.1%},{saved['high']:6.1%}] {row['accuracy']['mean']:10.1%} "
            f"{less['mean']:+7.1%} [{less['low']:+5.1%},{less['high']:+6.1%}] "
            + (f"{cap['mean']:+7.1%} [{cap['low']:+5.1%},{cap['high']:+6.1%}] " if cap else " " * 23)
            + f"{row['empty_answers']}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the arms and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--concurrent", type=int, default=16)
    parser.add_argument("--url", help="a vLLM that serves the tiny model as 'tiny' already")
    parser.add_argument("--arm", action="append", help="only these arms, beside full thinking")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    asked = questions(options.seed, options.questions)
    arms: dict[str, list[Outcome]] = {}
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(serving.engine(url=options.url))
        held = stack.enter_context(serving.gateway(url))
        for name, suffice in arms_of(options.arm).items():
            arms[name] = asyncio.run(run_arm(held, asked, options.seed, suffice, options.concurrent))
            spent = sum(one.tokens for one in arms[name]) / len(asked)
            print(f"  {name}: {spent:.0f} tokens", file=sys.stderr, flush=True)
    told = report(arms, options.seed) if not options.arm or "full" in arms else {}
    print(
        json.dumps({"questions": options.questions, "seed": options.seed, "arms": told})
        if options.json
        else table(told)
    )


if __name__ == "__main__":
    main()
