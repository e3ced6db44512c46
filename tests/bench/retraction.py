"""Bulk answers that are paused and resumed, several times each: are they what they would have been?

    .venv/bin/python tests/bench/retraction.py [--prompts 32] [--pauses 5] [--json]

Answers at temperature 0 and of one fixed length are generated in groups, each group three times with the same prompts:

- ``calm``: with nothing beside them; this is what they would have been;
- ``load``: beside bursts of interactive requests, through a gateway that pauses nobody. Batches of another size round
  otherwise, so this says how often vLLM itself comes to other tokens;
- ``paused``: beside the same bursts, through a gateway that pauses bulk work at each burst, ``--pauses`` times.

The bulk generation that started first is never paused, so one more is started before each group and not counted.
Pauses and resumptions are counted by the gateway's ``suffice_retractions_total``; in a group of g with n pauses each
was paused n/g times, since the gateway pauses first whoever was paused least. Each tenant has a key of its own, for the
gateway learns lengths by key, and the two gateways' prefix caches are apart, so that ``calm`` leaves nothing for
``paused``.

Extra tokens are those of the resumed prompts (prompt and answer so far, sent again), by vLLM's own counters:
``sent_again``, and ``computed_again``, those that its prefix cache did not hold any more. Intervals are 95 % bootstrap
intervals over groups.
"""

# ruff: noqa: T201 - it prints what it measures
from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import pressure, serving
from bench.load import make_key, many_clients
from bench.pressure import estimate, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2
    from bench.pressure import Told

ELDEST, TESTED, BURST = "eldest", "tested", "burst"
RETRACTIONS = "suffice_retractions_total"
PROMPT, CACHED = "vllm:prompt_tokens_total", "vllm:prompt_tokens_cached_total"
LONGEST_PROMPT = 128
"""Tokens that no question's prompt exceeds."""
ELDEST_TOKENS = 1800
BURST_QUESTIONS, BURST_TOKENS = 18, 96
"""Questions that make one prompt of a burst, and tokens of its answer: bursts press by prompts and are soon over."""
SHORTEST_BURST, LONGEST_BURST = 650, 1100
"""Tokens that the prompts of bursts lie between."""
GRACE_S = 0.1
LEAD_S = 0.5
"""How long the eldest runs before the group starts, so that the gateway knows which one it is."""
PATIENCE_S = 120
STEP_S = 0.05
KEYS_SEEN_S = 0.5
"""A gateway looks for new keys every quarter of a second."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Memory in tokens, and what follows from it.

    A calm group always lies below ``low``. A burst lies above ``low`` by more than all but one of the group take, so
    that the gateway pauses all of them before it comes down to ``low``; and its end lets all of them resume.
    """

    usable: int
    group: int
    longest: int

    @property
    def calm(self) -> int:
        """The most that the group and the one before it can take."""
        return LONGEST_PROMPT + ELDEST_TOKENS + self.group * (LONGEST_PROMPT + self.longest)

    @property
    def low(self) -> float:
        """Below it what is paused resumes."""
        return 1.05 * self.calm

    @property
    def high(self) -> float:
        """Above it the gateway pauses."""
        return 1.15 * self.calm

    @property
    def burst(self) -> int:
        """Requests of a burst."""
        least = self.low + (self.group - 1) * (LONGEST_PROMPT + self.longest)
        return math.ceil(max(least, self.high) / SHORTEST_BURST)

    @property
    def rule(self) -> dict[str, float]:
        """Thresholds of the gateway's: shares of the memory."""
        return {"high": self.high / self.usable, "low": self.low / self.usable}

    def check(self) -> None:
        """All of it must fit, so that nothing waits."""
        needed = self.calm + self.burst * (LONGEST_BURST + BURST_TOKENS)
        assert needed <= self.usable, f"{needed} tokens of KV memory are needed and there are {self.usable}"


@dataclass(frozen=True, kw_only=True)
class Side:
    """A gateway and its tenants' secrets."""

    http: httpx2.AsyncClient
    engine: httpx2.AsyncClient
    secrets: dict[str, str]


@dataclass(kw_only=True)
class Group:
    """Some prompts in one arm.

    Attributes:
        texts: Answers, in the prompts' order; None where one was not complete.
        pauses: Pauses of all together.
        resumes: Resumptions.
        sent_again: Prompt tokens that the engine was sent beyond the prompts themselves.
        computed_again: Of these, tokens that it did not find cached.
        seconds: Until the last answer.
    """

    texts: list[str | None]
    pauses: int = 0
    resumes: int = 0
    sent_again: int = 0
    computed_again: int = 0
    preemptions: int = 0
    seconds: float = 0.0


def bulk(asked: dict[str, Any], tokens: int) -> dict[str, Any]:
    """A bulk request whose answer is known to have so many tokens."""
    fixed = {"temperature": 0, "ignore_eos": True, "max_tokens": tokens}
    return asked | fixed | {"suffice": {"class": "bulk"}}


def interactive(asked: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """One request of a burst."""
    questions = [next(asked) for _ in range(BURST_QUESTIONS)]
    text = " ".join(each["messages"][0]["content"] for each in questions)
    fixed = {"messages": [{"role": "user", "content": text}], "ignore_eos": True, "max_tokens": BURST_TOKENS}
    return questions[0] | fixed | {"suffice": {"class": "interactive"}}


class Presser:
    """Sends bursts until the group is done, or was paused often enough."""

    def __init__(self, side: Side, sizes: Sizes, pauses: int, seed: str) -> None:
        self._side = side
        self._sizes = sizes
        self._most = pauses
        self._asked = pressure.supply(f"{seed} burst", BURST_TOKENS)
        self.told: list[Told] = []

    async def counts(self) -> tuple[int, int]:
        """Pauses and resumptions so far."""
        found = (await pressure.page(self._side.http, RETRACTIONS)).by(RETRACTIONS, "action")
        return round(found.get("pause", 0)), round(found.get("resume", 0))

    async def press(self, group: asyncio.Future[Any], *, pausing: bool) -> None:
        """Burst after burst, each once everybody runs again; some more where a burst did not pause everybody."""
        begin, _ = await self.counts()
        for number in range(2 * self._most):
            await asyncio.sleep(1.5 * GRACE_S)
            paused, _ = await self.counts()
            enough = paused - begin >= self._most * self._sizes.group if pausing else number >= self._most
            if group.done() or enough:
                return
            secret = self._side.secrets[BURST]
            bodies = [interactive(self._asked) for _ in range(self._sizes.burst)]
            self.told += await asyncio.gather(
                *(pressure.ask(self._side.http, body, secret=secret, patience_s=PATIENCE_S) for body in bodies)
            )
            until = time.monotonic() + PATIENCE_S / 10
            while pausing and not group.done() and time.monotonic() < until:
                paused, resumed = await self.counts()
                if paused == resumed:
                    break
                await asyncio.sleep(STEP_S)


async def run_group(
    side: Side, asked: list[dict[str, Any]], sizes: Sizes, *, seed: str, pauses: int, presses: bool, pausing: bool
) -> Group:
    """One group in one arm."""
    await pressure.idle(side.engine)
    presser = Presser(side, sizes, pauses, seed)
    before, engine = await presser.counts(), await _counters(side.engine)
    began = time.monotonic()
    loop = asyncio.get_running_loop()

    def send(body: dict[str, Any], tenant: str) -> asyncio.Task[Told]:
        return loop.create_task(
            pressure.ask(side.http, body, secret=side.secrets[tenant], tenant=tenant, patience_s=PATIENCE_S)
        )

    eldest = send(bulk(next(pressure.supply(f"{seed} eldest", ELDEST_TOKENS)), ELDEST_TOKENS), ELDEST)
    await asyncio.sleep(LEAD_S)
    group = asyncio.gather(*(send(bulk(body, sizes.longest), TESTED) for body in asked))
    if presses:
        await presser.press(group, pausing=pausing)
    told = await group
    seconds = time.monotonic() - began
    beside = [await eldest, *presser.told]
    bad = [one for one in beside if one.status != 200 or one.left or one.broke]
    assert not bad, f"{len(bad)} requests beside the group failed: {bad[0].status} {bad[0].code}"
    lengths = [one.prompt_tokens for one in (*told, *beside)]
    bursts = [one.prompt_tokens for one in presser.told]
    assert max(one.prompt_tokens for one in told) <= LONGEST_PROMPT
    assert all(SHORTEST_BURST <= length <= LONGEST_BURST for length in bursts), (min(bursts), max(bursts))
    await pressure.idle(side.engine)
    after, now = await presser.counts(), await _counters(side.engine)
    moved = {name: round(now[name] - engine[name]) for name in now}
    again = moved[PROMPT] - sum(lengths)
    return Group(
        texts=[one.text if one.complete(sizes.longest) else None for one in told],
        pauses=after[0] - before[0],
        resumes=after[1] - before[1],
        sent_again=again,
        computed_again=again - (moved[CACHED] - sum(one.cached_tokens for one in beside)),
        preemptions=moved[pressure.PREEMPTIONS],
        seconds=seconds,
    )


async def _counters(engine: httpx2.AsyncClient) -> dict[str, float]:
    names = (PROMPT, CACHED, pressure.PREEMPTIONS)
    found = await pressure.page(engine, *names)
    return {name: found.need(name) for name in names}


async def measure(
    engine: str, sizes: Sizes, on: serving.Serving, off: serving.Serving, options: argparse.Namespace
) -> dict[str, Any]:
    """All groups, in all arms."""
    secrets = {
        held: {tenant: make_key(held.data_dir, tenant)[1] for tenant in (ELDEST, TESTED, BURST)} for held in (on, off)
    }
    await asyncio.sleep(KEYS_SEEN_S)
    asked = pressure.supply(f"{options.seed} tested", sizes.longest)
    rows = []
    async with (
        many_clients(engine, 8) as plain,
        many_clients(on.gateway, 256) as with_pauses,
        many_clients(off.gateway, 256) as without,
    ):
        sides = {
            "calm": Side(http=without, engine=plain, secrets=secrets[off]),
            "load": Side(http=without, engine=plain, secrets=secrets[off]),
            "paused": Side(http=with_pauses, engine=plain, secrets=secrets[on]),
        }
        for number in range(math.ceil(options.prompts / options.group)):
            seed = f"{options.seed} {number}"
            bodies = [next(asked) for _ in range(options.group)]
            row = {}
            for arm in random.Random(seed).sample(("calm", "load", "paused"), 3):
                row[arm] = await run_group(
                    sides[arm],
                    bodies,
                    sizes,
                    seed=seed,
                    pauses=options.pauses,
                    presses=arm != "calm",
                    pausing=arm == "paused",
                )
            rows.append(row)
            paused = row["paused"]
            _say(
                f"group {number + 1}: {paused.pauses} pauses, {paused.resumes} resumptions, "
                f"{_same(row, 'paused')} of {options.group} identical, {_same(row, 'load')} under load alone"
            )
    return {
        "kv_blocks": options.kv_blocks,
        "answer_tokens": sizes.longest,
        "group": options.group,
        "burst": sizes.burst,
        "thresholds": sizes.rule,
        "pauses_asked": options.pauses,
        "seed": options.seed,
    } | report(rows, options)


def _same(row: dict[str, Group], arm: str) -> int:
    """Answers of an arm that are complete and those of the calm arm."""
    pairs = zip(row["calm"].texts, row[arm].texts, strict=True)
    return sum(calm is not None and calm == other for calm, other in pairs)


def _where_load_is(rows: list[dict[str, Group]]) -> float | None:
    """Of the answers that load alone does not change, the share that pauses do not change either."""
    steady = [
        (calm, paused)
        for row in rows
        for calm, load, paused in zip(row["calm"].texts, row["load"].texts, row["paused"].texts, strict=True)
        if calm is not None and calm == load
    ]
    return sum(calm == paused for calm, paused in steady) / len(steady) if steady else None


def _common(row: dict[str, Group], arm: str) -> list[float]:
    """Part of each calm answer that the other arm's begins with."""
    found = []
    for calm, other in zip(row["calm"].texts, row[arm].texts, strict=True):
        if calm and other is not None:
            length = next((at for at, (a, b) in enumerate(zip(calm, other, strict=False)) if a != b), None)
            found.append((min(len(calm), len(other)) if length is None else length) / len(calm))
    return found


def report(rows: list[dict[str, Group]], options: argparse.Namespace) -> dict[str, Any]:
    """Figures over all groups."""
    answers = options.group

    def mean(of: str) -> Any:
        return lambda some: sum(getattr(row["paused"], of) for row in some) / (answers * len(some))

    def same(arm: str) -> Any:
        return lambda some: sum(_same(row, arm) for row in some) / (answers * len(some))

    often = [row for row in rows if row["paused"].pauses == answers * options.pauses]
    return {
        "answers": answers * len(rows),
        "incomplete": {arm: sum(text is None for row in rows for text in row[arm].texts) for arm in rows[0]},
        "pauses_each": estimate(rows, mean("pauses")),
        "resumes_each": estimate(rows, mean("resumes")),
        "identical": {arm: estimate(rows, same(arm)) for arm in ("paused", "load")},
        "identical_where_load_is": estimate(rows, _where_load_is),
        "paused_as_often_as_asked": {
            "answers": answers * len(often),
            "identical": estimate(often, same("paused")) if often else None,
            "identical_under_load": estimate(often, same("load")) if often else None,
        },
        "same_beginning": {
            arm: sum(parts := [part for row in rows for part in _common(row, arm)]) / max(1, len(parts))
            for arm in ("paused", "load")
        },
        "sent_again_each": estimate(rows, mean("sent_again")),
        "computed_again_each": estimate(rows, mean("computed_again")),
        "preemptions": {arm: sum(row[arm].preemptions for row in rows) for arm in rows[0]},
        "seconds": {arm: sum(row[arm].seconds for row in rows) / len(rows) for arm in rows[0]},
    }


def _say(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


def table(told: dict[str, Any]) -> str:
    """The same for people."""
    often = told["paused_as_often_as_asked"]
    beside = f"{shown(often['identical'], 3)} (under load {shown(often['identical_under_load'], 3)})"
    lines = [
        f"{told['answers']} answers of {told['answer_tokens']} tokens, paused {shown(told['pauses_each'])} times each",
        f"  identical to the calm ones        {shown(told['identical']['paused'], 3)}",
        f"  under the same load, not paused   {shown(told['identical']['load'], 3)}",
        f"  of those that load does not change {shown(told['identical_where_load_is'], 3)}",
        f"  of {often['answers']} paused {told['pauses_asked']} times     {beside}",
        f"  tokens sent again, each           {shown(told['sent_again_each'], 0)}",
        f"  of these computed again           {shown(told['computed_again_each'], 0)}",
        f"  not complete                      {told['incomplete']}",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pressure.engine_options(parser, blocks=640, longest=1500)
    parser.add_argument("--prompts", type=int, default=32, help="answers (%(default)s)")
    parser.add_argument("--group", type=int, default=2, help="answers at a time (%(default)s)")
    parser.add_argument("--pauses", type=int, default=5, help="pauses of each (%(default)s)")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(pressure.engine(options, url=options.url))
        sizes = Sizes(usable=asyncio.run(_usable(engine)), group=options.group, longest=options.longest)
        sizes.check()
        rule = sizes.rule | {"pauses": options.pauses, "grace_s": GRACE_S, "longest_pause_s": 60}
        common = {"admission": "projected", "headroom": 0.0, "scrape_s": STEP_S}
        on = stack.enter_context(serving.gateway(engine, pressure.operator_file(**common, retraction=rule)))
        off = stack.enter_context(serving.gateway(engine, pressure.operator_file(**common, retraction=None)))
        told = asyncio.run(measure(engine, sizes, on, off, options))
    print(json.dumps(told) if options.json else table(told))


async def _usable(engine: str) -> int:
    async with many_clients(engine, 1) as http:
        return (await pressure.pool(http)).usable_tokens


if __name__ == "__main__":
    main()
