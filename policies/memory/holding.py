"""What one request has held of the KV cache, in block-seconds, while it runs and when it is over.

Told when each of its generations began, told its first token, grew and ended. The times that the engine itself
reports count where it does; the gateway's own stand in for them. Samples of one prompt share its full blocks, which
count once while any of them runs. What must not be here: prices, clocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from suffice.policies.memory.block_seconds import Timings, block_seconds, samples_block_seconds
from suffice.policies.memory.grouping import Group
from suffice.policies.memory.kv import KvModel
from suffice.policies.memory.layers import Keeps


def full_attention(block_size: int, *, prefix_caching: bool = True) -> KvModel:
    """A cache known by its block size alone: one group of layers that keeps everything."""
    group = Group(keeps=Keeps.FULL, span=0, layers=1, block_size=block_size, page_bytes=1)
    return KvModel(groups=(group,), prefix_caching=prefix_caching)


@dataclass(slots=True)
class _Run:
    """One generation of a sample, from its start to its end."""

    start: int
    """Tokens that it started from."""
    fresh: bool
    began: float
    first: float | None = None
    last: float = 0.0
    generated: int = 0
    timings: Timings | None = None

    def times(self, at: float) -> Timings:
        """The engine's times, or what was seen so far."""
        if self.timings is not None:
            return self.timings
        if self.first is None:
            return Timings(prefill_s=at - self.began, decode_s=0.0)
        return Timings(prefill_s=self.first - self.began, decode_s=self.last - self.first)


class Holding:
    """The account of one request.

    Args:
        kv: The model's cache; ``full_attention`` where no more than its block size is known.
    """

    __slots__ = ("_kv", "_open", "_over", "_runs")

    def __init__(self, kv: KvModel) -> None:
        self._kv = kv
        self._open: dict[int, _Run] = {}
        self._runs: list[_Run] = []
        self._over = 0.0
        """Block-seconds of generations that went on from a sample's own tokens and are over."""

    def opened(self, sample: int, at: float, tokens: int, *, fresh: bool) -> None:
        """A generation began.

        Args:
            sample: Whose.
            at: Now, in seconds.
            tokens: Tokens that it starts from: the prompt, and what the sample generated before where it goes on.
            fresh: Whether it is the sample's first.
        """
        run = self._open[sample] = _Run(tokens, fresh, at)
        if fresh:
            self._runs.append(run)

    def grew(self, sample: int, at: float, tokens: int) -> None:
        """It generated more tokens."""
        run = self._open[sample]
        if run.first is None:
            run.first = at
        run.last = at
        run.generated += tokens

    def started_from(self, sample: int, tokens: int) -> None:
        """The engine has counted what the open generation started from."""
        self._open[sample].start = tokens

    def timed(self, sample: int, timings: Timings) -> None:
        """The engine told the times of the sample's open generation; they end in its past."""
        run = self._open.get(sample)
        if run is not None:
            run.timings = timings

    def closed(self, sample: int, at: float) -> None:
        """The generation is over. Idempotent."""
        run = self._open.pop(sample, None)
        if run is None:
            return
        run.timings = run.times(at)
        if not run.fresh:
            self._over += block_seconds(self._kv, run.start, run.generated, run.timings)

    def total(self, at: float) -> float:
        """Block-seconds held so far."""
        running = sum(
            block_seconds(self._kv, run.start, run.generated, run.times(at))
            for run in self._open.values()
            if not run.fresh
        )
        prompts: dict[int, list[_Run]] = {}
        for run in self._runs:
            prompts.setdefault(run.start, []).append(run)
        return self._over + running + sum(self._together(start, runs, at) for start, runs in prompts.items())

    def _together(self, prompt: int, runs: list[_Run], at: float) -> float:
        """Block-seconds of the samples of one prompt."""
        times = [run.times(at) for run in runs]
        spans = [(run.began, run.began + each.prefill_s + each.decode_s) for run, each in zip(runs, times, strict=True)]
        samples = [(run.generated, each) for run, each in zip(runs, times, strict=True)]
        return samples_block_seconds(self._kv, prompt, samples, _union(spans))


def _union(spans: list[tuple[float, float]]) -> float:
    """Seconds that at least one of the spans covers."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(last - max(first, end), 0.0)
        end = max(end, last)
    return total
