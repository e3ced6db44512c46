"""What the samples of one run used, added up for its receipt. Counts only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suffice.server.gateway.batch.sampler import Ended


@dataclass(slots=True)
class Spent:
    """Sums over samples.

    Attributes:
        samples: Samples that were launched.
        tokens: Tokens that they generated.
        probe_tokens: The part of them that probes took.
        cancelled_tokens: The part of samples that broke off or were cut off.
        stops: How many samples each rule or limit stopped, and who carried it out.
        not_applied: Rules that could not be applied, with the reason.
        first_token_s: Seconds from receipt to the first token of any sample; None before it.
        queue_s: Seconds that samples waited for their places, added up.
        block_seconds: KV blocks that they held, times seconds.
    """

    samples: int = 0
    tokens: int = 0
    probe_tokens: int = 0
    cancelled_tokens: int = 0
    stops: Counter[tuple[str, str]] = field(default_factory=Counter)
    not_applied: dict[str, str] = field(default_factory=dict)
    first_token_s: float | None = None
    queue_s: float = 0.0
    block_seconds: float = 0.0

    def add(self, ended: Ended) -> None:
        """Take in one sample."""
        self.queue_s += ended.queue_s
        self.block_seconds += ended.block_seconds
        chain = ended.chain
        if chain is None:
            return
        probes = chain.meter.probe_used
        lost = ended.error is not None or ended.interrupted is not None
        self.samples += chain.samples
        self.tokens += ended.tokens
        self.probe_tokens += probes
        self.cancelled_tokens += ended.tokens - probes if lost else chain.cancelled_tokens
        self.stops.update((stop.rule, stop.by) for stop in chain.stops)
        self.not_applied |= {item.rule: item.why for item in chain.plan.not_applied}
        first = ended.first_token_s
        if first is not None and (self.first_token_s is None or first < self.first_token_s):
            self.first_token_s = first

    def receipt(self, *, prompt_tokens: int, wall_s: float) -> dict[str, Any]:
        """The receipt's ``spent``."""
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self.tokens - self.probe_tokens - self.cancelled_tokens,
            "probe_tokens": self.probe_tokens,
            "cancelled_tokens": self.cancelled_tokens,
            "samples": self.samples,
            "wall_ms": round(wall_s * 1000),
            "queue_ms": round(self.queue_s * 1000),
            "kv_block_seconds": round(self.block_seconds, 3),
        }
