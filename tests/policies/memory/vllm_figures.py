"""Asks the installed vLLM what its own code makes of each configuration; prints JSON. Run in the engine's environment.

Layer kinds come from Hugging Face's configuration classes, sizes and groups from vLLM's specs, block counts from a
real ``KVCacheManager``. Nothing of suffice is imported.
"""

import contextlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import vllm.config.vllm as current
from transformers import CONFIG_MAPPING
from vllm.model_executor import models
from vllm.model_executor.layers.attention.mla_attention import MLACommonBackend
from vllm.model_executor.layers.mamba.mamba_utils import MambaStateShapeCalculator as Shapes
from vllm.platforms.interface import Platform
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.utils.torch_utils import STR_DTYPE_TO_TORCH_DTYPE, nvfp4_kv_cache_full_dim
from vllm.v1 import kv_cache_interface as interface
from vllm.v1.attention.backend import MultipleOf
from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend
from vllm.v1.core import kv_cache_utils as utils
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.kv_cache_layout import KVCacheLayout
from vllm.v1.request import Request

sys.path.insert(0, str(Path(__file__).parent))
from kv_configs import CONFIGS

BLOCK = 16
IN_FLIGHT = 16384


def state_spec(hf, tp, mode):
    kind = hf.model_type
    bf16, f32 = torch.bfloat16, torch.float32
    checkpoints = 1
    dtypes = (bf16, bf16)
    if kind == "mamba2":
        width = hf.expand * hf.hidden_size
        shapes = Shapes.mamba2_state_shape(
            tp, width, hf.n_groups, hf.num_heads, hf.head_dim, hf.state_size, hf.conv_kernel
        )
    elif kind == "jamba":
        width = hf.mamba_expand * hf.hidden_size
        shapes = Shapes.mamba1_state_shape(tp, width, hf.mamba_d_state, hf.mamba_d_conv)
        checkpoints = 0
    elif kind == "nemotron_h":
        shapes = Shapes.mamba2_state_shape(
            tp,
            hf.mamba_num_heads * hf.mamba_head_dim,
            hf.n_groups,
            hf.mamba_num_heads,
            hf.mamba_head_dim,
            hf.ssm_state_size,
            hf.conv_kernel,
        )
        dtypes = (bf16, f32)
    elif kind == "falcon_h1":
        shapes = Shapes.mamba2_state_shape(
            tp, hf.mamba_d_ssm, hf.mamba_n_groups, hf.mamba_n_heads, hf.mamba_d_head, hf.mamba_d_state, hf.mamba_d_conv
        )
    else:
        shapes = Shapes.gated_delta_net_state_shape(
            tp,
            hf.linear_num_key_heads,
            hf.linear_num_value_heads,
            hf.linear_key_head_dim,
            hf.linear_value_head_dim,
            hf.linear_conv_kernel_dim,
        )
        checkpoints = 0
    return interface.MambaSpec(
        block_size=BLOCK,
        shapes=shapes,
        dtypes=dtypes,
        mamba_cache_mode=mode,
        num_prefill_checkpoint_blocks=checkpoints,
    )


def layer_specs(hf, tp, cache_dtype, mode):
    dtype = torch.bfloat16 if cache_dtype == "auto" else STR_DTYPE_TO_TORCH_DTYPE[cache_dtype]
    quant = interface.get_kv_quant_mode(cache_dtype)
    kind = hf.model_type
    if kind == "mamba2":
        return {f"layer.{i}": state_spec(hf, tp, mode) for i in range(hf.num_hidden_layers)}
    if getattr(hf, "kv_lora_rank", None):
        spec = interface.MLAAttentionSpec(
            block_size=BLOCK,
            num_kv_heads=1,
            max_tp_shards=1,
            head_size=hf.kv_lora_rank + 64,
            dtype=dtype,
            cache_dtype_str=cache_dtype,
            kv_quant_mode=quant,
            state_content_bytes={"fp8_ds_mla": 656, "nvfp4_ds_mla": 352}.get(cache_dtype),
        )
        if quant.is_per_token_head:
            spec = MLACommonBackend.customize_spec(spec)
        return {f"layer.{i}": spec for i in range(hf.num_hidden_layers)}
    heads = max(1, hf.num_key_value_heads // tp)
    size = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    common = {"num_kv_heads": heads, "head_size": size, "dtype": dtype, "kv_quant_mode": quant}
    backend = FourBit if quant.is_nvfp4 else TritonAttentionBackend
    types = getattr(hf, "layer_types", None) or getattr(hf, "layers_block_type", None)
    if types is None or kind == "mistral":
        name = "sliding_attention" if getattr(hf, "sliding_window", None) else "full_attention"
        types = [name] * hf.num_hidden_layers
    specs = {}
    hybrid = any(t in ("linear_attention", "mamba", "hybrid") for t in types)
    block, padded = BLOCK, None
    if hybrid:
        state = state_spec(hf, tp, mode)
        one = backend.customize_spec(interface.FullAttentionSpec(block_size=1, **common)).page_size_bytes
        block, padded = align(state.page_size_bytes, one)
    for i, layer in enumerate(types):
        if layer in ("linear_attention", "mamba", "hybrid"):
            specs[f"layer.{i}.state"] = interface.replace(
                state_spec(hf, tp, mode), block_size=block, page_size_padded=padded
            )
        if layer in ("full_attention", "hybrid", "attention"):
            spec = interface.FullAttentionSpec(block_size=block, **common)
        elif layer == "sliding_attention":
            spec = interface.SlidingWindowSpec(block_size=block, sliding_window=hf.sliding_window, **common)
        elif layer == "chunked_attention":
            spec = interface.ChunkedLocalAttentionSpec(
                block_size=block, attention_chunk_size=hf.attention_chunk_size, **common
            )
        else:
            continue
        specs[f"layer.{i}"] = backend.customize_spec(spec)
    return specs


class FourBit:
    """What vLLM's FlashInfer backend, which imports only with a GPU's packages, makes of a spec."""

    @staticmethod
    def customize_spec(spec):
        size = nvfp4_kv_cache_full_dim(spec.head_size)
        return interface.replace(spec, num_head_slots=2 * spec.num_kv_heads, state_content_bytes=size)


def align(state_bytes, token_bytes):
    """vLLM's own ``Platform._align_hybrid_block_size``, with the model's classes stood in for by their page sizes."""

    class Model:
        @classmethod
        def get_mamba_specs_from_config(cls, _):
            return [SimpleNamespace(page_size_bytes=state_bytes)]

    class Backend:
        @staticmethod
        def get_supported_kernel_block_sizes():
            return [MultipleOf(16)]

        @staticmethod
        def customize_spec(spec):
            return SimpleNamespace(page_size_bytes=token_bytes)

    class Here(Platform):
        @classmethod
        def _find_non_ssm_backends(cls, _):
            return [Backend]

    cache = SimpleNamespace(
        cache_dtype="auto",
        block_size=BLOCK,
        mamba_cache_mode="align",
        mamba_page_size_padded=None,
        mamba_block_size=None,
    )
    model = SimpleNamespace(
        dtype=torch.bfloat16,
        use_mla=False,
        architecture="",
        get_num_kv_heads=lambda _: 1,
        get_head_size=lambda: 1,
    )
    config = SimpleNamespace(cache_config=cache, model_config=model, parallel_config=None)
    registry, models.ModelRegistry = (
        models.ModelRegistry,
        SimpleNamespace(resolve_model_cls=lambda *_, **__: (Model, "")),
    )
    keep, current.set_current_vllm_config = current.set_current_vllm_config, lambda _: contextlib.nullcontext()
    try:
        Here._align_hybrid_block_size(config, Backend)
    finally:
        models.ModelRegistry, current.set_current_vllm_config = registry, keep
    return cache.block_size, cache.mamba_page_size_padded or state_bytes


def figures(name, tp=1, cache_dtype="auto", mode="align", longest=32768):
    fields = dict(CONFIGS[name])
    hf = CONFIG_MAPPING[fields.pop("model_type")](**fields)
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(disable_hybrid_kv_cache_manager=False),
        attention_config=SimpleNamespace(hisparse_config=None),
        speculative_config=None,
        max_in_flight_tokens=IN_FLIGHT,
        model_config=SimpleNamespace(max_model_len=longest),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1),
        cache_config=SimpleNamespace(mamba_cache_mode=mode, get_resolved_kv_cache_layout=lambda: KVCacheLayout.LBNHC),
    )
    specs = layer_specs(hf, tp, cache_dtype, mode)
    groups = utils.get_kv_cache_groups(config, dict(specs))
    block_bytes = utils._get_kv_cache_bytes_per_block(groups, KVCacheLayout.LBNHC)
    blocks = 40 * 2**30 // block_bytes
    concurrency = utils.get_max_concurrency_for_kv_cache_config(
        config, SimpleNamespace(kv_cache_groups=groups, num_blocks=blocks)
    )
    return {
        "groups": len(groups),
        "block_bytes": block_bytes,
        "blocks": blocks,
        "concurrency": concurrency,
        "size_tokens": int(concurrency * longest),
        "longest_one": utils._estimate_max_model_len_from_groups(
            SimpleNamespace(**{**vars(config), "model_config": SimpleNamespace(max_model_len=1 << 24)}),
            groups,
            (blocks - 1) * block_bytes,
        ),
    }


def held(kind, span, prompt, generated):
    """Blocks that a real manager holds after each generated token, of a request that has its group to itself."""
    common = {"block_size": BLOCK, "num_kv_heads": 4, "head_size": 64, "dtype": torch.bfloat16}
    spec = {
        "full": lambda: interface.FullAttentionSpec(**common),
        "window": lambda: interface.SlidingWindowSpec(sliding_window=span, **common),
        "chunk": lambda: interface.ChunkedLocalAttentionSpec(attention_chunk_size=span, **common),
    }[kind]()
    manager = block_manager(spec, caching=False)
    request = Request("r", list(range(prompt)), SamplingParams(max_tokens=generated + 1), None)
    manager.allocate_slots(request, prompt)
    request.num_computed_tokens = prompt
    counts = []
    for _ in range(generated):
        request.append_output_token_ids(7)
        manager.allocate_slots(request, 1)
        request.num_computed_tokens += 1
        counts.append(sum(not block.is_null for block in manager.coordinator.get_blocks("r")[0]))
    return counts


def held_by_samples(prompt, samples):
    """Blocks of the pool that samples of one prompt take together, right after prefill."""
    spec = interface.FullAttentionSpec(block_size=BLOCK, num_kv_heads=4, head_size=64, dtype=torch.bfloat16)
    manager = block_manager(spec, caching=True)
    hasher = utils.get_request_block_hasher(BLOCK, sha256)
    free = manager.block_pool.get_num_free_blocks()
    for index in range(samples):
        request = Request(str(index), list(range(prompt)), SamplingParams(), None, block_hasher=hasher)
        blocks, hit, *_ = manager.get_computed_blocks(request)
        manager.allocate_slots(request, prompt - hit, hit, blocks)
    return free - manager.block_pool.get_num_free_blocks()


def block_manager(spec, caching):
    utils.init_none_hash(sha256)
    config = interface.KVCacheConfig(
        num_blocks=4096, kv_cache_tensors=[], kv_cache_groups=[interface.KVCacheGroupSpec(["layer"], spec)]
    )
    return KVCacheManager(
        config,
        max_model_len=4096,
        scheduler_block_size=BLOCK,
        hash_block_size=BLOCK,
        max_in_flight_tokens=8192,
        enable_caching=caching,
    )


def main():
    asked = json.loads(sys.stdin.read())
    told = {
        "figures": [figures(**case) for case in asked["figures"]],
        "held": [held(*case) for case in asked["held"]],
        "samples": [held_by_samples(*case) for case in asked["samples"]],
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
