"""What fits: how much KV cache a device has room for, what that holds, what limits it and what relaxing that buys.

An estimate made before an engine runs. vLLM measures what activations and graphs take when it starts; here that is one
number, named as the estimate it is. What must not be here: files, flags' parsing, output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from suffice.policies.memory.families import checkpoint_cache_type, text_config
from suffice.policies.memory.kv import KvModel, kv_model

if TYPE_CHECKING:
    from collections.abc import Mapping

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be served, and on what.

    Attributes:
        memory: Bytes of one device.
        weights: Bytes of the model's weights, over all devices.
        context: Longest prompt and answer together, in tokens.
        concurrency: Requests of that length at once.
        cache_type: vLLM's ``--kv-cache-dtype``.
        tensor_parallel: Devices that share the model.
        utilization: vLLM's ``--gpu-memory-utilization``.
        block_size: vLLM's ``--block-size``.
        batched_tokens: vLLM's ``--max-num-batched-tokens``.
        overhead: Bytes of activations, graphs and context on each device; None for an estimate.
        prefix_caching: Whether prefix caching is on.
    """

    memory: int
    weights: int
    context: int
    concurrency: int
    cache_type: str = "auto"
    tensor_parallel: int = 1
    utilization: float = 0.92
    block_size: int = 16
    batched_tokens: int = 8192
    overhead: int | None = None
    prefix_caching: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxed:
    """One change and what it buys.

    Attributes:
        change: The change, as a flag where there is one.
        concurrency: Requests of the wished context that fit then.
        context: The longest context at the wished concurrency then.
        price: What it costs.
    """

    change: str
    concurrency: int
    context: int
    price: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPlan:
    """What a wish comes to.

    Attributes:
        fits: Whether the wished concurrency at the wished context fits.
        kv: The model's cache.
        weights: Bytes of weights on each device.
        overhead: Bytes set aside on each device for activations, graphs and context.
        pool: Bytes of the KV cache on each device; 0 where none is left.
        blocks: Blocks of the pool.
        concurrency: Requests of the wished context that fit.
        context: The longest context at the wished concurrency, no longer than the model's own.
        own_context: The longest context that the model was made for, or None.
        binding: What limits: ``weights``, ``kv``, ``context`` or ``nothing``.
        why: The limit in one sentence.
        relaxed: What relaxing each limit buys, best first.
        flags: vLLM's flags for it.
    """

    fits: bool
    kv: KvModel
    weights: int
    overhead: int
    pool: int
    blocks: int
    concurrency: int
    context: int
    own_context: int | None
    binding: str
    why: str
    relaxed: tuple[Relaxed, ...]
    flags: tuple[str, ...]


def plan_kv(config: Mapping[str, Any], wish: Wish) -> KvPlan:
    """Work out what fits.

    Args:
        config: A model's ``config.json``.
        wish: What is to be served, and on what.

    Raises:
        UnknownModel: The configuration does not tell what the layers keep.
    """
    plan = _without_advice(config, wish)
    advice: list[Relaxed] = []
    for change, price, other in _changes(config, wish, plan):
        then = _without_advice(config, other)
        if (then.concurrency, then.context) > (plan.concurrency, plan.context):
            advice.append(Relaxed(change=change, concurrency=then.concurrency, context=then.context, price=price))
    advice.sort(key=lambda change: (-change.concurrency, -change.context))
    return replace(plan, relaxed=tuple(advice))


def _without_advice(config: Mapping[str, Any], wish: Wish) -> KvPlan:
    text = text_config(config)
    kv = kv_model(
        config,
        cache_type=wish.cache_type,
        tensor_parallel=wish.tensor_parallel,
        block_size=wish.block_size,
        prefix_caching=wish.prefix_caching,
        in_flight=2 * wish.batched_tokens,  # vLLM schedules one step ahead
    )
    weights = wish.weights // wish.tensor_parallel
    overhead = estimated_overhead(text, wish) if wish.overhead is None else wish.overhead
    pool = max(math.ceil(wish.memory * wish.utilization) - weights - overhead, 0)
    blocks = kv.pool_blocks(pool)
    own = text.get("max_position_embeddings")
    own = own if isinstance(own, int) else None
    settled = kv.settled_blocks(wish.context)
    concurrency = max(blocks - 1 - kv.most_blocks(wish.context) + settled, 0) // max(settled, 1)
    context = kv.longest_context(blocks, wish.concurrency) if blocks else 0
    context = context if own is None else min(context, own)
    binding, why = _binding(wish, kv, pool, blocks, concurrency, own)
    return KvPlan(
        fits=binding == "nothing",
        kv=kv,
        weights=weights,
        overhead=overhead,
        pool=pool,
        blocks=blocks,
        concurrency=concurrency,
        context=context,
        own_context=own,
        binding=binding,
        why=why,
        relaxed=(),
        flags=_flags(wish, concurrency),
    )


def estimated_overhead(text: Mapping[str, Any], wish: Wish) -> int:
    """Bytes of activations, graphs and context on each device: a rough estimate, on the safe side for dense models.

    One GiB for the device's context, communication and captured graphs, and for a full batch of tokens two buffers of
    the MLP's width and six of the hidden width at 16 bits, and the logits of 256 requests at 32 bits.
    """
    hidden = int(text.get("hidden_size") or text.get("n_embd") or text.get("d_model") or 4096)
    inner = text.get("moe_intermediate_size") or text.get("intermediate_size") or 4 * hidden
    inner = int(inner if isinstance(inner, int) else max(inner)) * int(text.get("num_experts_per_tok") or 1)
    activations = wish.batched_tokens * (6 * hidden + 2 * inner // wish.tensor_parallel) * 2
    return GIB + activations + 256 * int(text.get("vocab_size") or 32000) * 4


def _binding(wish: Wish, kv: KvModel, pool: int, blocks: int, concurrency: int, own: int | None) -> tuple[str, str]:
    if own is not None and wish.context > own:
        return "context", f"the model was made for {own} tokens; {wish.context} are asked for"
    if blocks <= 1:
        return "weights", "weights and activations leave no memory for a KV cache"
    needed = kv.blocks_at(wish.concurrency, wish.context)
    if concurrency < wish.concurrency:
        return "kv", (
            f"{wish.concurrency} requests of {wish.context} tokens take {needed * kv.block_bytes / GIB:.1f} GiB of KV "
            f"cache on each device; {pool / GIB:.1f} GiB are there"
        )
    return "nothing", f"{needed} of {blocks - 1} KV blocks are needed"


def _changes(config: Mapping[str, Any], wish: Wish, plan: KvPlan) -> list[tuple[str, str, Wish]]:
    """Changes that could help, each with its price."""
    changes = []
    stored = wish.cache_type if wish.cache_type != "auto" else checkpoint_cache_type(text_config(config))
    if stored in {"auto", "float16", "bfloat16"}:
        price = "a little accuracy; calibrated scales help"
        changes.append(("--kv-cache-dtype fp8", price, replace(wish, cache_type="fp8")))
    if wish.utilization < 0.95:  # noqa: PLR2004 - what is left for others on the device
        price = "less room for what else runs on the device"
        changes.append(("--gpu-memory-utilization 0.95", price, replace(wish, utilization=0.95)))
    double = 2 * wish.tensor_parallel
    price = f"{wish.tensor_parallel} more device{'s' if wish.tensor_parallel > 1 else ''}"
    changes.append((f"--tensor-parallel-size {double}", price, replace(wish, tensor_parallel=double)))
    if plan.weights > plan.pool:
        changes.append(("weights of half the size (8-bit)", "some accuracy", replace(wish, weights=wish.weights // 2)))
    if plan.context and plan.context < wish.context:
        change = f"--max-model-len {plan.context}"
        changes.append((change, "shorter prompts and answers", replace(wish, context=plan.context)))
    return changes


def _flags(wish: Wish, concurrency: int) -> tuple[str, ...]:
    flags = [f"--max-model-len {wish.context}", f"--max-num-seqs {max(min(wish.concurrency, concurrency), 1)}"]
    flags.append(f"--gpu-memory-utilization {wish.utilization:g}")
    flags.append(f"--max-num-batched-tokens {wish.batched_tokens}")
    if wish.block_size != 16:  # noqa: PLR2004 - vLLM's default
        flags.append(f"--block-size {wish.block_size}")
    if wish.cache_type != "auto":
        flags.append(f"--kv-cache-dtype {wish.cache_type}")
    if wish.tensor_parallel > 1:
        flags.append(f"--tensor-parallel-size {wish.tensor_parallel}")
    if not wish.prefix_caching:
        flags.append("--no-enable-prefix-caching")
    return tuple(flags)
