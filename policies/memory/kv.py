"""The KV cache of one model on one device: bytes, blocks, and how many requests they hold.

The one place that gateway, planner and benchmarks ask. What must not be here: how families differ (``families``), how
groups form (``grouping``), time (``block_seconds``), what an engine reports (``capacity``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suffice.policies.memory.families import layer_caches
from suffice.policies.memory.grouping import Group, form_groups
from suffice.policies.memory.layers import Keeps

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST = 1 << 24
"""No context is looked for beyond this many tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvModel:
    """What a model's requests take of the KV cache.

    Attributes:
        groups: Its groups of layers; each draws its own blocks.
        prefix_caching: Whether samples of one prompt share its full blocks.
        in_flight: Tokens that may be scheduled and not yet settled (vLLM: concurrent batches times
            ``--max-num-batched-tokens``), which windows and chunks hold beyond their span.
    """

    groups: tuple[Group, ...]
    prefix_caching: bool = True
    in_flight: int = 16384

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of the pool on one device: the heaviest group's page."""
        return max((group.page_bytes for group in self.groups), default=0)

    @property
    def token_bytes(self) -> float:
        """Bytes that one more token costs a long request, in the long run; a state or a window costs nothing more."""
        full = (self.block_bytes / group.block_size for group in self.groups if group.keeps is Keeps.FULL)
        return sum(full)

    def blocks_for(self, prompt: int, generated: int = 0) -> int:
        """Blocks that one decoding request holds, with so many prompt and generated tokens."""
        return sum(group.held(prompt + generated) for group in self.groups)

    def shared_blocks(self, prompt: int) -> int:
        """Blocks that all samples of one prompt share.

        The last prompt token is always computed anew, so a prompt that ends with a block does not share that block
        (``KVCacheManager.get_computed_blocks``). Windows, chunks and states are counted as not shared.
        """
        if not self.prefix_caching or prompt <= 0:
            return 0
        full = (group for group in self.groups if group.keeps is Keeps.FULL)
        return sum((prompt - 1) // group.block_size for group in full)

    def blocks_for_samples(self, prompt: int, generated: tuple[int, ...]) -> int:
        """Blocks that samples of one prompt hold together.

        Args:
            prompt: Tokens of the prompt.
            generated: Generated tokens of each sample.
        """
        if not generated:
            return 0
        shared = self.shared_blocks(prompt)
        return shared + sum(self.blocks_for(prompt, tokens) - shared for tokens in generated)

    def most_blocks(self, longest: int) -> int:
        """The most blocks that one request of at most so many tokens ever holds, as vLLM plans."""
        return sum(group.most(longest, self.in_flight) for group in self.groups)

    def settled_blocks(self, longest: int) -> int:
        """The most blocks that one request of at most so many tokens holds once its prompt is computed."""
        return sum(group.most(longest, 1) for group in self.groups)

    def blocks_at(self, concurrency: int, context: int) -> int:
        """Blocks that so many requests of a full context take at once.

        The tokens in flight, whose blocks a window gives back late, are those of the whole engine, so they count once
        and not with each request.
        """
        settled = self.settled_blocks(context)
        return concurrency * settled + self.most_blocks(context) - settled

    def pool_blocks(self, memory_bytes: int) -> int:
        """Blocks that a pool of so many bytes a device has; one of them is vLLM's null block."""
        return memory_bytes // self.block_bytes if self.block_bytes else 0

    def concurrency(self, blocks: int, context: int) -> float:
        """Requests of a full context that a pool holds at once, as vLLM logs it (``kv_cache_max_concurrency``).

        With windows it is far below what runs in practice: see ``blocks_at``.
        """
        needed = self.most_blocks(context)
        return blocks / needed if needed else float("inf")

    def size_tokens(self, blocks: int, context: int) -> int:
        """Capacity in tokens at a context (vLLM's ``kv_cache_size_tokens``)."""
        needed = self.most_blocks(context)
        return int(blocks / needed * context) if needed else 0

    def longest_context(self, blocks: int, concurrency: int) -> int:
        """The longest context at which so many requests fit at once; 0 where not even one token does.

        Args:
            blocks: Blocks of the pool; the null block is taken off here.
            concurrency: Requests at once.
        """
        usable = blocks - 1

        def fits(context: int) -> bool:
            return self.blocks_at(concurrency, context) <= usable

        if not fits(1):
            return 0
        low, high = 1, LONGEST
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return low


def kv_model(
    config: Mapping[str, Any],
    *,
    cache_type: str = "auto",
    tensor_parallel: int = 1,
    block_size: int = 16,
    kernel_block: int = 16,
    prefix_caching: bool = True,
    in_flight: int = 16384,
    speculative_tokens: int = 0,
) -> KvModel:
    """The KV cache of a model from its ``config.json``.

    Args:
        config: The file's content.
        cache_type: vLLM's ``--kv-cache-dtype``.
        tensor_parallel: vLLM's ``--tensor-parallel-size``.
        block_size: vLLM's ``--block-size``.
        kernel_block: Tokens that an attention kernel's block is a multiple of: 16 on most GPUs, 32 on a CPU.
        prefix_caching: Whether prefix caching is on.
        in_flight: Concurrent batches times ``--max-num-batched-tokens``.
        speculative_tokens: Tokens drafted at a time.

    Raises:
        UnknownModel: The configuration does not tell, or tells of a cache not known here.
    """
    caches = layer_caches(config, cache_type=cache_type, tensor_parallel=tensor_parallel)
    attends = any(cache.keeps is not Keeps.STATE for cache in caches)
    groups = form_groups(
        caches,
        block_size=block_size,
        kernel_block=kernel_block,
        prefix_caching=prefix_caching and attends,  # vLLM caches no prefixes of a model that only keeps states
        speculative_tokens=speculative_tokens,
    )
    return KvModel(groups=groups, prefix_caching=prefix_caching and attends, in_flight=in_flight)
