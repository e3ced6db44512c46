"""How much KV cache a running engine has, from what it reports of itself.

vLLM exports its whole cache configuration as the labels of ``vllm:cache_config_info``, so a gateway needs no model
configuration to admit by memory. What must not be here: scraping, the state of requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCapacity:
    """An engine's pool.

    Attributes:
        block_size: Tokens of a block of full attention.
        pool_blocks: Blocks of the pool, the null block included.
        size_tokens: Tokens that fit at the longest context, counted over all groups of layers; None where the engine
            does not say.
        prefix_caching: Whether prefixes are cached.
        cache_type: ``--kv-cache-dtype``.
    """

    block_size: int
    pool_blocks: int
    size_tokens: int | None = None
    prefix_caching: bool = True
    cache_type: str = "auto"

    @property
    def usable_blocks(self) -> int:
        """Blocks that requests can hold, in blocks of full attention.

        One block is vLLM's null block. A hybrid's requests draw blocks for other groups of layers too; there the
        capacity in tokens is the smaller, and it counts.
        """
        usable = max(self.pool_blocks - 1, 0)
        if self.size_tokens is None:
            return usable
        return min(usable, self.size_tokens // self.block_size)

    @property
    def usable_tokens(self) -> int:
        """Tokens that requests can hold, in whole blocks."""
        return self.usable_blocks * self.block_size


def capacity_from_labels(labels: Mapping[str, str], *, longest: int | None = None) -> KvCapacity | None:
    """Read the labels of ``vllm:cache_config_info``.

    Args:
        labels: The labels, all texts, as Prometheus carries them.
        longest: The model's longest context, where known. With it a pool of full attention alone is told from a
            hybrid's, and its rounding at the longest context costs nothing.

    Returns:
        The capacity, or None where the engine has not sized its pool yet or says too little.
    """
    pool_blocks = _whole(labels, "num_gpu_blocks")
    block_size = _whole(labels, "effective_attention_block_size") or _whole(labels, "block_size")
    if not pool_blocks or not block_size:
        return None
    size_tokens = _whole(labels, "kv_cache_size_tokens")
    at_once = _number(labels, "kv_cache_max_concurrency")
    if longest and at_once and round(pool_blocks / at_once) == -(-longest // block_size):
        size_tokens = pool_blocks * block_size
    return KvCapacity(
        block_size=block_size,
        pool_blocks=pool_blocks,
        size_tokens=size_tokens or None,
        prefix_caching=labels.get("enable_prefix_caching", "True") == "True",
        cache_type=labels.get("cache_dtype", "auto"),
    )


def _whole(labels: Mapping[str, str], name: str) -> int | None:
    number = _number(labels, name)
    return None if number is None else int(number)


def _number(labels: Mapping[str, str], name: str) -> float | None:
    try:
        number = float(labels.get(name, ""))
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
