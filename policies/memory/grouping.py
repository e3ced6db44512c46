"""Layers into groups that share a block table, as vLLM 0.32 forms them, and what a block then weighs.

All groups draw their blocks from one pool, so every block weighs the same: pages of unequal size are made equal by
larger blocks or by padding, and a kind with more layers than another is cut into several groups
(``v1/core/kv_cache_utils.py``, ``platforms/interface.py``). Modelled is the layout that backends use unless told
otherwise, in which a layer's blocks lie together. What must not be here: models, memory sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from suffice.policies.errors import UnknownModel
from suffice.policies.memory.layers import Keeps, LayerCache, ceil_div, held_blocks, most_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

_FEW_MORE = 1.5
"""Below this ratio of the largest to the smallest kind, groups take the larger's size and pad the smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Layers that share one block table.

    Attributes:
        keeps: How much of the past they keep.
        span: Window or chunk in tokens; 0 where there is none.
        layers: Layers in the group.
        block_size: Tokens of a block.
        page_bytes: Bytes of one block in all layers of the group.
        states: Blocks of a decoding request where a state is kept.
        most_states: The most blocks that it ever takes there.
    """

    keeps: Keeps
    span: int
    layers: int
    block_size: int
    page_bytes: int
    states: int = 1
    most_states: int = 1

    def held(self, tokens: int) -> int:
        """Blocks that a decoding request of so many tokens holds in this group."""
        return held_blocks(self.keeps, self.span, self.block_size, tokens, self.states)

    def most(self, longest: int, in_flight: int) -> int:
        """The most blocks that a request of at most ``longest`` tokens ever holds in this group."""
        return most_blocks(self.keeps, self.span, self.block_size, longest, in_flight, self.most_states)


@dataclass(frozen=True, slots=True)
class _Page:
    """One layer's cache with the block it was given."""

    cache: LayerCache
    block_size: int
    page_bytes: int


def form_groups(
    caches: Sequence[LayerCache],
    *,
    block_size: int = 16,
    kernel_block: int = 16,
    prefix_caching: bool = True,
    speculative_tokens: int = 0,
) -> tuple[Group, ...]:
    """Group a model's layers.

    Args:
        caches: What each layer keeps.
        block_size: vLLM's ``--block-size``.
        kernel_block: Tokens that an attention kernel's block is a multiple of: 16 on most GPUs, 32 on a CPU.
        prefix_caching: Whether prefixes are cached; a state is then copied to a new block at times, and kept twice.
        speculative_tokens: Tokens drafted at a time, each of which a state needs a block for.

    Returns:
        The groups; none for a model that keeps nothing.

    Raises:
        UnknownModel: The pages cannot be made equal.
    """
    if not caches:
        return ()
    states = (speculative_tokens, prefix_caching)
    pages = _aligned(caches, block_size, kernel_block)
    if _one_kind(pages):
        return (_group(pages, sum(page.page_bytes for page in pages), states),)
    pages = _equal_pages(pages)
    page_bytes = pages[0].page_bytes
    buckets: dict[object, list[_Page]] = {}
    for page in pages:
        cache = page.cache
        identity = (cache.keeps, cache.span, cache.token_bytes, cache.shape, cache.state_bytes, page.block_size)
        buckets.setdefault(identity, []).append(page)
    sizes = [len(bucket) for bucket in buckets.values()]
    size = max(sizes) if max(sizes) < min(sizes) * _FEW_MORE else min(sizes)
    groups: list[Group] = []
    for bucket in buckets.values():
        count = ceil_div(len(bucket), size)
        # Every count-th layer, so that a pipeline's stages get equal shares of each group.
        groups.extend(_group(bucket[index::count], size * page_bytes, states) for index in range(count))
    return tuple(groups)


def _group(pages: Sequence[_Page], page_bytes: int, states: tuple[int, bool]) -> Group:
    first = pages[0]
    speculative_tokens, prefix_caching = states
    most = 1 + speculative_tokens + (1 + first.cache.checkpoints if prefix_caching else 0)
    return Group(
        keeps=first.cache.keeps,
        span=first.cache.span,
        layers=len(pages),
        block_size=first.block_size,
        page_bytes=page_bytes,
        states=1 + speculative_tokens,
        most_states=most,
    )


def _one_kind(pages: Sequence[_Page]) -> bool:
    """Whether all layers need the same blocks, whatever their sizes; states must also weigh the same."""
    first = pages[0]
    return all(
        page.cache.keeps is first.cache.keeps
        and page.cache.span == first.cache.span
        and page.block_size == first.block_size
        and (first.cache.keeps is not Keeps.STATE or page.page_bytes == first.page_bytes)
        for page in pages
    )


def _aligned(caches: Sequence[LayerCache], block_size: int, kernel_block: int) -> list[_Page]:
    """Pages at the block size, which grows until an attention page can hold a state; states are padded to it."""
    states = [cache.state_bytes for cache in caches if cache.keeps is Keeps.STATE]
    attention = [cache for cache in caches if cache.keeps is not Keeps.STATE]
    if not states or not attention:
        return [_Page(cache, block_size, cache.page_bytes(block_size)) for cache in caches]
    unit = max(kernel_block, block_size)
    if attention[0].latent:
        unit = max(unit, 128)  # the kernels of latent attention read 128 tokens at a time
    token_bytes = attention[0].token_bytes
    needed = unit * ceil_div(max(states), unit * token_bytes)
    block_size = max(block_size, kernel_block * ceil_div(needed, kernel_block))
    padded = block_size * token_bytes
    return [
        _Page(cache, block_size, padded if cache.keeps is Keeps.STATE else cache.page_bytes(block_size))
        for cache in caches
    ]


def _equal_pages(pages: Sequence[_Page]) -> list[_Page]:
    """Pages of one size: larger blocks where the sizes divide, padding where they do not."""
    largest = max(page.page_bytes for page in pages)
    equal: list[_Page] = []
    for page in pages:
        if page.cache.keeps is not Keeps.STATE and page.page_bytes < largest and largest % page.page_bytes == 0:
            grown = page.block_size * (largest // page.page_bytes)
            equal.append(replace(page, block_size=grown, page_bytes=largest))
        elif page.page_bytes == largest or not page.cache.latent:
            equal.append(replace(page, page_bytes=largest))
        else:
            raise UnknownModel("pages of latent and of other attention cannot be made equal")
    return equal
