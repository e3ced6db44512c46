"""What one layer keeps of a request in the KV cache, and how many blocks of its own that takes.

The block counts are those of vLLM 0.32 (``v1/kv_cache_interface.py``, ``v1/core/single_type_kv_cache_manager.py``):
tokens that a window or a chunk has left behind are given back in whole blocks. What must not be here: models and their
configurations, pools, prices.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Keeps(StrEnum):
    """How much of the past a layer keeps."""

    FULL = "full"
    """All of it."""
    WINDOW = "window"
    """The last ``span`` tokens."""
    CHUNK = "chunk"
    """The tokens since the last multiple of ``span``."""
    STATE = "state"
    """One state of constant size, whatever the length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCache:
    """The cache of one layer on one device.

    Attributes:
        keeps: How much of the past it keeps.
        token_bytes: Bytes of one token's keys and values; 0 for a state.
        state_bytes: Bytes of one state; 0 for attention.
        span: Tokens of the window or of the chunk; 0 where there is none.
        checkpoints: Blocks that a state's prefill may take besides, to cache the state inside a prompt.
        shape: What else tells two caches apart that need equally many bytes (heads, head sizes).
        latent: Whether it holds one latent vector a token (MLA); such pages cannot be padded.
    """

    keeps: Keeps
    token_bytes: int = 0
    state_bytes: int = 0
    span: int = 0
    checkpoints: int = 0
    shape: tuple[int, ...] = ()
    latent: bool = False

    def page_bytes(self, block_size: int) -> int:
        """Bytes of one block of this layer, before any padding."""
        return self.state_bytes if self.keeps is Keeps.STATE else block_size * self.token_bytes


def ceil_div(numerator: int, denominator: int) -> int:
    """The quotient, rounded up."""
    return -(-numerator // denominator)


def held_blocks(keeps: Keeps, span: int, block_size: int, tokens: int, states: int = 1) -> int:
    """Blocks that one request holds while it decodes, with ``tokens`` of prompt and answer.

    The newest token is the one being computed: what stands before the window of the token after the last computed one
    is given back first, then the new token's block is taken.

    Args:
        keeps: How much of the past the layers keep.
        span: Window or chunk in tokens.
        block_size: Tokens of a block.
        tokens: Prompt and generated tokens, the newest included.
        states: Blocks of a request in a layer that keeps a state.

    Returns:
        The blocks, counted once for all layers of a group.
    """
    if tokens <= 0:
        return 0
    if keeps is Keeps.STATE:
        return states
    skipped = 0
    if keeps is Keeps.WINDOW:
        skipped = max(tokens - span, 0)
    elif keeps is Keeps.CHUNK:
        skipped = (tokens - 1) // span * span
    return ceil_div(tokens, block_size) - skipped // block_size


def most_blocks(keeps: Keeps, span: int, block_size: int, longest: int, in_flight: int, states: int = 1) -> int:
    """The most blocks that one request can ever hold, as vLLM plans its pool with.

    Args:
        keeps: How much of the past the layers keep.
        span: Window or chunk in tokens.
        block_size: Tokens of a block.
        longest: The request's longest prompt and answer together, in tokens.
        in_flight: Tokens that may be scheduled and not yet settled: concurrent batches times the tokens of a batch.
            A window's blocks are given back only once its tokens are settled.
        states: Blocks of a request in a layer that keeps a state.
    """
    if keeps is Keeps.STATE:
        return states
    if keeps is Keeps.WINDOW:
        # One more, since a window may start inside a block.
        return ceil_div(min(span - 1 + in_flight, longest), block_size) + 1
    if keeps is Keeps.CHUNK:
        longest = min(span + in_flight, longest)
    return ceil_div(longest, block_size)
