"""What an engine tells of itself on its metrics page, under the names that vLLM uses now or used before.

What must not be here: conclusions from it, and how it is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families
from suffice.policies.memory.capacity import capacity_from_labels

if TYPE_CHECKING:
    from suffice.policies.memory.capacity import KvCapacity

NAMES = {
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "kv_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "preemptions": ("vllm:num_preemptions_total", "vllm:num_preemptions"),
    "generated": ("vllm:generation_tokens_total", "vllm:generation_tokens"),
}
"""Of each value the current name first, then older ones."""
CONFIG = "vllm:cache_config_info"
_WANTED = (*(name for names in NAMES.values() for name in names), CONFIG)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """One reading; a value that the engine does not tell is None, never a silent zero.

    Attributes:
        at: When it was read, in the reader's seconds.
        running: Requests that are computed.
        waiting: Requests in the engine's own queue.
        kv_usage: Share of the KV blocks that requests hold.
        preemptions: Preemptions since the engine's start.
        generated: Tokens generated since then.
        capacity: Its KV cache.
    """

    at: float
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    preemptions: float | None = None
    generated: float | None = None
    capacity: KvCapacity | None = None

    @property
    def held_blocks(self) -> float | None:
        """KV blocks that requests hold; None where unknown."""
        if self.kv_usage is None or self.capacity is None:
            return None
        return self.kv_usage * max(self.capacity.pool_blocks - 1, 0)


def read_state(page: str, at: float, *, longest: int | None = None) -> EngineState:
    """Read a metrics page; several engines behind one page are summed, shares averaged.

    Args:
        page: The page in Prometheus' text form.
        at: Now.
        longest: The model's longest context, where known.

    Raises:
        ValueError: A line that is wanted cannot be parsed.
    """
    # A page has hundreds of histogram lines; the parser gets only what is wanted of them.
    wanted = "\n".join(line for line in page.splitlines() if line.startswith(_WANTED)) + "\n"
    found: dict[str, list[float]] = {}
    capacity = None
    for family in text_string_to_metric_families(wanted):
        for sample in family.samples:
            if sample.name == CONFIG:
                capacity = capacity or capacity_from_labels(sample.labels, longest=longest)
            found.setdefault(sample.name, []).append(sample.value)
    values: dict[str, float | None] = {}
    for field, names in NAMES.items():
        told = next((found[name] for name in names if name in found), None)
        if told is None:
            values[field] = None
        else:
            values[field] = sum(told) / (len(told) if field == "kv_usage" else 1)
    return EngineState(at=at, capacity=capacity, **values)
