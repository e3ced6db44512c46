"""What the benchmarks of KV memory share: an engine whose memory is scarce, load on it, and what its metrics say.

Scarce memory: ``--num-gpu-blocks-override`` sizes the pool, also on the CPU; ``--block-size 32`` makes blocks that are
small against answers (the CPU's default of 128 is not); ``--stream-interval`` sends several tokens a chunk, so that on
two cores memory is the bottleneck and not the writing of JSON. All arms of a benchmark share these settings. An engine
that is started here is also kept from spinning on all cores.

Load: Poisson arrivals and prompts that depend on a seed alone, so that every arm meets the same. Clients read their
streams raw and take them apart when they are over. What must not be here: what a benchmark compares.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx2
import orjson
import yaml
from bench import serving
from bench.load import CHAT, quantile
from prometheus_client.parser import text_string_to_metric_families
from suffice.policies.memory.capacity import capacity_from_labels
from tiny_model.task import question

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from suffice.policies.memory.capacity import KvCapacity

BLOCK = 32
USAGE, WAITING, RUNNING = "vllm:kv_cache_usage_perc", "vllm:num_requests_waiting", "vllm:num_requests_running"
PREEMPTIONS, GENERATED = "vllm:num_preemptions_total", "vllm:generation_tokens_total"
REFUSED = frozenset({429, 503})
_FIRST = re.compile(rb'"(?:content|reasoning)":\s*"[^"]')
"""The first token in a stream's bytes."""
_CAPACITY = "vllm:cache_config_info"
_LEAST_STEPS = 6
"""Steps of the shortest questions asked: a thought takes some 10 tokens a step, several times over."""
_NEARLY = 0.9
_DRAWS = 1000

Figure: TypeAlias = "Callable[[list[Any]], float | None]"
"""A number from some blocks; None where they do not tell."""


def engine_options(parser: argparse.ArgumentParser, *, blocks: int, longest: int) -> None:
    """Options that all these benchmarks have."""
    parser.add_argument(
        "--url",
        help="a vLLM that serves the tiny model as 'tiny' already, with the flags named in "
        "bench/pressure.py; else one is started",
    )
    parser.add_argument("--kv-blocks", type=int, default=blocks, help=f"KV blocks of {BLOCK} tokens (%(default)s)")
    parser.add_argument("--stream-interval", type=int, default=4, help="tokens a chunk (%(default)s)")
    parser.add_argument("--longest", type=int, default=longest, help="max_tokens of an answer (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of prompts, arrivals and samples (%(default)s)")
    parser.add_argument("--json", action="store_true", help="figures as JSON instead of a table")


@contextlib.contextmanager
def engine(options: argparse.Namespace, *more: str, url: str | None = None) -> Iterator[str]:
    """The URL of an engine whose memory is scarce: one that runs already, or one started for the benchmark."""
    # A step that takes all that memory can hold never computes part of a prompt: vLLM 0.32 dies of that on the CPU
    # where the request has a seed ("CPU Generator does not use offset").
    whole = max(2048, BLOCK * options.kv_blocks)
    flags = (
        "--block-size", str(BLOCK), "--num-gpu-blocks-override", str(options.kv_blocks),
        "--max-num-batched-tokens", str(whole), "--stream-interval", str(options.stream_interval), *more,
    )  # fmt: skip
    with serving.engine(*flags, url=url) as found:
        yield found


def operator_file(**kv: Any) -> str:
    """A gateway's file: what it does about memory, and a reserve that fits the tiny model's answers of some 8 tokens.

    With the reserve's default thoughts would be cut that vLLM alone lets run on, and the arms would differ in more than
    their memory.
    """
    return yaml.safe_dump({"policies": {"answer_reserve": 16}, "kv": kv})


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One request of a schedule.

    Attributes:
        at_s: Seconds after the schedule's begin.
        tenant: Who sends it.
        body: What is sent.
    """

    at_s: float
    tenant: str
    body: dict[str, Any]


def poisson(rate: float, seconds: float, seed: str) -> list[float]:
    """Times of a Poisson process, by the seed alone."""
    dice = random.Random(seed)
    times = itertools.accumulate(dice.expovariate(rate) for _ in itertools.count())
    return list(itertools.takewhile(lambda at: at < seconds, times))


def supply(seed: str, longest: int, **more: Any) -> Iterator[dict[str, Any]]:
    """Streamed requests without end: the tiny model's longer questions, whose answers differ widely in length."""
    dice = random.Random(seed)
    for number in itertools.count():
        asked = question(dice)
        while len(asked.steps) < _LEAST_STEPS:
            asked = question(dice)
        yield {
            "model": "tiny",
            "messages": [{"role": "user", "content": asked.text}],
            "max_tokens": longest,
            "seed": number,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        } | more


def schedule(rate: float, seconds: float, seed: str, longest: int, tenant: str = "bench", **more: Any) -> list[Arrival]:
    """Poisson arrivals of one tenant."""
    times = poisson(rate, seconds, f"{seed} times")
    asked = supply(f"{seed} prompts", longest, **more)
    return [Arrival(at_s=at, tenant=tenant, body=next(asked)) for at in times]


@dataclass(kw_only=True)
class Told:
    """What one client got.

    Attributes:
        sent: When it was sent, on the monotonic clock.
        status: HTTP status; 0 where none came.
        code: The error's code.
        retry_after_s: When to try again, by the headers.
        first_s: Seconds to the first token.
        seconds: Seconds to the end, whatever it was.
        finish: How the answer ended.
        tokens: Tokens generated, as far as usage told.
        text: Thought and answer.
        left: Whether the client's patience was over first.
        broke: Whether the connection broke.
    """

    sent: float
    tenant: str = ""
    status: int = 0
    code: str | None = None
    retry_after_s: float | None = None
    first_s: float | None = None
    seconds: float = 0.0
    finish: str | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    cached_tokens: int = 0
    text: str = ""
    receipt: dict[str, Any] | None = None
    left: bool = False
    broke: bool = False

    @property
    def refused(self) -> bool:
        """Whether it was turned away before anything was generated; vLLM tells some streams so after a 200."""
        return self.status in REFUSED or (self.first_s is None and self.code in map(str, REFUSED))

    @property
    def shortened(self) -> bool:
        """Whether the gateway cut thought or answer short."""
        return bool((self.receipt or {}).get("stops"))

    def complete(self, longest: int) -> bool:
        """Whether the answer came to its own end or to the length that was asked for."""
        whole = self.finish == "stop" or (self.finish == "length" and self.tokens >= longest)
        return self.status == 200 and not self.left and not self.broke and whole

    def block_seconds(self, begin: float, end: float) -> float:
        """KV-block-seconds held from ``begin`` to ``end``, estimated by the client's own clock and usage."""
        if self.first_s is None:
            return 0.0
        born, died = self.sent + self.first_s, self.sent + self.seconds
        begin, end = max(begin, born), min(end, died)
        if end <= begin:
            return 0.0
        middle = ((begin + end) / 2 - born) / max(died - born, 1e-9)
        return ((self.prompt_tokens + self.tokens * middle) / BLOCK + 0.5) * (end - begin)


async def ask(
    http: httpx2.AsyncClient,
    body: dict[str, Any],
    *,
    secret: str = "none",
    tenant: str = "",
    patience_s: float | None = None,
) -> Told:
    """Send one request and read until its end; leave, as impatient clients do, when the patience is over."""
    told = Told(sent=time.monotonic(), tenant=tenant)
    raw = bytearray()
    try:
        async with asyncio.timeout(patience_s):
            headers = {"authorization": f"Bearer {secret}"}
            async with http.stream("POST", CHAT, json=body, headers=headers) as answer:
                told.status = answer.status_code
                told.retry_after_s = _retry_after(answer.headers)
                async for piece in answer.aiter_raw():
                    raw += piece
                    if told.first_s is None and _FIRST.search(raw):
                        told.first_s = time.monotonic() - told.sent
    except TimeoutError:
        told.left = True
    except httpx2.TransportError:
        told.broke = True
    told.seconds = time.monotonic() - told.sent
    _read(told, bytes(raw))
    return told


def _retry_after(headers: Any) -> float | None:
    for name, scale in (("retry-after-ms", 1000), ("retry-after", 1)):
        with contextlib.suppress(ValueError):
            seconds = float(headers.get(name, "")) / scale
            return seconds if math.isfinite(seconds) and seconds > 0 else None
    return None


def _read(told: Told, raw: bytes) -> None:
    """Take an answer apart, streamed or whole, complete or broken off."""
    texts: list[str] = []
    for line in raw.split(b"\n") if raw.startswith((b"data:", b":")) else [b"data: " + raw]:
        try:
            frame = orjson.loads(line.removeprefix(b"data:"))
        except orjson.JSONDecodeError:
            continue  # an empty line, a comment, [DONE], or a frame that broke off
        if error := frame.get("error"):
            told.code = str(error.get("code"))
        for choice in frame.get("choices") or ():
            said = choice.get("delta") or choice.get("message") or {}
            texts += (said.get("reasoning") or "", said.get("content") or "")
            told.finish = choice.get("finish_reason") or told.finish
        if usage := frame.get("usage"):
            told.prompt_tokens, told.tokens = usage["prompt_tokens"], usage.get("completion_tokens") or 0
            told.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        told.receipt = frame.get("suffice") or told.receipt
    told.text = "".join(texts)


async def open_loop(
    arrivals: Sequence[Arrival], send: Callable[[Arrival], Awaitable[Told]]
) -> tuple[list[Told], list[float]]:
    """Send each request at its time, whatever became of the others.

    Returns:
        What each got, and how many seconds each was sent late.
    """
    began = time.monotonic()

    async def later(arrival: Arrival) -> Told:
        await asyncio.sleep(max(0.0, began + arrival.at_s - time.monotonic()))
        return await send(arrival)

    told = await asyncio.gather(*(later(arrival) for arrival in arrivals))
    return told, [one.sent - began - arrival.at_s for one, arrival in zip(told, arrivals, strict=True)]


async def closed_loop(
    workers: int, seconds: float, asked: Iterator[dict[str, Any]], http: httpx2.AsyncClient, **how: Any
) -> list[Told]:
    """So many clients, each of which asks again as soon as it has its answer; all leave at the end."""
    end = time.monotonic() + seconds

    async def work() -> list[Told]:
        told = []
        while (left := end - time.monotonic()) > 0:
            told.append(await ask(http, next(asked), patience_s=left, **how))
            if told[-1].refused or told[-1].broke:
                await asyncio.sleep(0.1)
        return told

    return [one for each in await asyncio.gather(*(work() for _ in range(workers))) for one in each]


class Page:
    """Some metrics of one server at one moment."""

    def __init__(self, text: str, names: Sequence[str]) -> None:
        wanted = "\n".join(line for line in text.splitlines() if any(name in line for name in names))
        families = text_string_to_metric_families(wanted + "\n")
        self.samples = [sample for family in families for sample in family.samples if sample.name in names]

    def value(self, name: str, **labels: str) -> float | None:
        """Sum over all series of a name that have these labels; None where there is none."""
        found = [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]
        return sum(found) if found else None

    def need(self, name: str) -> float:
        """The same of a metric that must be there."""
        found = self.value(name)
        assert found is not None, f"there is no metric {name}"
        return found

    def by(self, name: str, label: str) -> dict[str, float]:
        """Values by one label."""
        found: dict[str, float] = {}
        for sample in self.samples:
            if sample.name == name and label in sample.labels:
                found[sample.labels[label]] = found.get(sample.labels[label], 0.0) + sample.value
        return found


async def page(http: httpx2.AsyncClient, *names: str) -> Page:
    """Read a server's metrics."""
    return Page((await http.get("/metrics")).text, names)


async def pool(http: httpx2.AsyncClient) -> KvCapacity:
    """How much KV memory an engine has, as it tells itself."""
    labels = [sample.labels for sample in (await page(http, _CAPACITY)).samples]
    capacity = capacity_from_labels(labels[0]) if labels else None
    assert capacity is not None, "the engine does not tell the size of its KV cache"
    return capacity


async def idle(http: httpx2.AsyncClient, patience_s: float = 30) -> None:
    """Wait until the engine has nothing left to do."""
    until = time.monotonic() + patience_s
    while any(sample.value for sample in (await page(http, RUNNING, WAITING)).samples):
        assert time.monotonic() < until, "the engine does not come to rest"
        await asyncio.sleep(0.05)


@dataclass
class Watched:
    """What was seen while a block ran.

    Attributes:
        rows: One a look: seconds since the first, and whatever was read.
    """

    rows: list[dict[str, float]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def watching(look: Callable[[], Awaitable[dict[str, float]]], every_s: float = 0.25) -> AsyncIterator[Watched]:
    """Look again and again while the block runs."""
    found, began = Watched(), time.monotonic()

    async def keep_looking() -> None:
        while True:
            at = time.monotonic() - began
            with contextlib.suppress(httpx2.TransportError):
                found.rows.append({"seconds": at} | await look())
            await asyncio.sleep(max(0.0, began + at + every_s - time.monotonic()))

    task = asyncio.get_running_loop().create_task(keep_looking())
    try:
        yield found
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended


@dataclass(frozen=True, kw_only=True)
class Level:
    """One level of a closed loop.

    Attributes:
        clients: At once.
        answers_s: Complete answers a second.
        tokens_s: Tokens of theirs a second.
        p50_s: Median time of an answer.
        p95_s: The time that one in twenty exceeds.
        usage: Mean share of the KV cache in use.
        preemptions: Requests that the engine preempted.
    """

    clients: int
    answers_s: float
    tokens_s: float
    p50_s: float
    p95_s: float
    usage: float
    preemptions: int


async def capacity(
    http: httpx2.AsyncClient, levels: Sequence[int], *, seed: int, longest: int, seconds: float, warm_s: float = 2
) -> list[Level]:
    """What an engine serves when so many clients always wait for an answer, asked directly."""
    found = []
    for clients in levels:
        asked = supply(f"{seed} capacity", longest)
        before = await page(http, PREEMPTIONS)

        async def look() -> dict[str, float]:
            return {"usage": (await page(http, USAGE)).need(USAGE)}

        began = time.monotonic() + warm_s
        async with watching(look) as seen:
            told = await closed_loop(clients, warm_s + seconds, asked, http)
        done = [one for one in told if one.complete(longest) and began <= one.sent + one.seconds]
        assert done, f"no answer came within {seconds} s"
        after = await page(http, PREEMPTIONS)
        usage = [row["usage"] for row in seen.rows if row["seconds"] >= warm_s]
        found.append(
            Level(
                clients=clients,
                answers_s=len(done) / seconds,
                tokens_s=sum(one.tokens for one in done) / seconds,
                p50_s=quantile([one.seconds for one in done], 0.5),
                p95_s=quantile([one.seconds for one in done], 0.95),
                usage=sum(usage) / max(1, len(usage)),
                preemptions=round(after.need(PREEMPTIONS) - before.need(PREEMPTIONS)),
            )
        )
        await idle(http)
    return found


def knee(levels: Sequence[Level]) -> Level:
    """The fewest clients that get nearly as much as any number of them gets."""
    best = max(level.answers_s for level in levels)
    return next(level for level in levels if level.answers_s >= _NEARLY * best)


def estimate(blocks: Sequence[Any], figure: Figure, seed: int = 0) -> dict[str, Any] | None:
    """A figure over all blocks with a 95 % bootstrap interval over blocks; None where there is nothing to tell.

    Few blocks have few different draws, and each is worked out once.
    """
    value = figure(list(blocks))
    if value is None:
        return None
    dice, known = random.Random(seed), {}
    drawn = []
    for _ in range(_DRAWS):
        chosen = tuple(sorted(dice.choices(range(len(blocks)), k=len(blocks))))
        if chosen not in known:
            known[chosen] = figure([blocks[index] for index in chosen])
        if known[chosen] is not None:
            drawn.append(known[chosen])
    drawn.sort()
    return {"value": value, "low": drawn[int(len(drawn) * 0.025)], "high": drawn[int(len(drawn) * 0.975) - 1]}


def shown(told: dict[str, Any] | None, digits: int = 2) -> str:
    """An estimate for people."""
    if told is None:
        return "-"
    return f"{told['value']:.{digits}f} [{told['low']:.{digits}f}, {told['high']:.{digits}f}]"
