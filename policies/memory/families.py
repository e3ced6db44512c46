"""From a model's ``config.json`` to what each of its layers keeps in the KV cache.

Families are told apart by the fields of their configurations, with the defaults that Hugging Face's configuration
classes fill in where a file leaves one out. A kind of cache that is not known here raises: a guess would promise
memory that is not there. What must not be here: blocks, groups, pools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from suffice.policies.errors import UnknownModel
from suffice.policies.memory.cache_types import attention_bytes, latent_bytes
from suffice.policies.memory.layers import Keeps, LayerCache
from suffice.policies.memory.states import keeps_checkpoints, state_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    Config = Mapping[str, Any]

_TEXT = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where configurations of multimodal models keep the language model's part."""

_KINDS = {
    "full_attention": "full",
    "attention": "full",
    "global": "full",
    "indexed_attention": "full",
    "deepseek_sparse_attention": "full",
    "sliding_attention": "window",
    "chunked_attention": "chunk",
    "linear_attention": "state",
    "mamba": "state",
    "mamba2": "state",
    "conv": "state",
    "hybrid": "both",
    "mlp": "none",
    "moe": "none",
}
"""Names of layer kinds in configurations. ``both``: attention and a state side by side."""

_PATTERN_LETTERS = {"M": "state", "*": "full", "-": "none", "E": "none"}
"""Nemotron-H's ``hybrid_override_pattern``."""

_WINDOW_PATTERNS = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3_text": 6,
    "gemma3n": 5,
    "gemma3n_text": 5,
    "gemma4": 6,
    "gemma4_text": 6,
    "cohere2": 4,
    "olmo3": 4,
    "gpt_oss": 2,
}
"""Families in which one layer of so many sees everything and the others a window, where the file lists no layers."""

_UNKNOWN = {
    "compress_ratios": "a compressed latent cache",
    "attn_type_list": "lightning attention",
    "block_configs": "layers of different shapes",
    "rswa_window": "a reference sliding window",
}
"""Fields of families whose caches are not described here."""


def text_config(config: Config) -> Config:
    """The language model's part of a configuration; the whole of it for a plain language model."""
    for name in _TEXT:
        inner = config.get(name)
        if isinstance(inner, dict):
            outer = {key: value for key, value in config.items() if key not in _TEXT}
            return text_config({**outer, **inner})
    return config


def layer_caches(config: Config, *, cache_type: str = "auto", tensor_parallel: int = 1) -> tuple[LayerCache, ...]:
    """What each layer keeps, in order; layers that keep nothing are absent.

    Args:
        config: A model's ``config.json``.
        cache_type: vLLM's ``--kv-cache-dtype``; ``auto`` follows the checkpoint.
        tensor_parallel: Devices that share the model; the caches are those of one device.

    Raises:
        UnknownModel: The configuration does not tell, or tells of a cache not known here.
    """
    text = text_config(config)
    for name, what in _UNKNOWN.items():
        if text.get(name):
            raise UnknownModel(f"{text.get('model_type', 'this model')} has {what} ({name}), which is not known here")
    if text.get("model_type") == "minicpm3":
        raise UnknownModel("minicpm3 computes latent attention but caches padded heads, which is not known here")
    if cache_type == "auto":
        cache_type = checkpoint_cache_type(text)
    kinds = _layer_kinds(text)
    sharing = int(text.get("num_kv_shared_layers") or 0)
    kinds = kinds[: len(kinds) - sharing]
    state = state_bytes(text, tensor_parallel) if {"state", "both"} & set(kinds) else None
    checkpoints = int(keeps_checkpoints(text))
    caches: list[LayerCache] = []
    for kind in kinds:
        if kind in {"state", "both"}:
            if state is None:
                raise UnknownModel("the configuration names layers with a state but not the state's size")
            caches.append(LayerCache(keeps=Keeps.STATE, state_bytes=state, checkpoints=checkpoints))
        if kind not in {"state", "none"}:
            caches.extend(_attention(text, kind, cache_type, tensor_parallel))
    return tuple(caches)


def checkpoint_cache_type(text: Config) -> str:
    """What ``--kv-cache-dtype auto`` stands for: the checkpoint's own choice, else 16 bits."""
    quantisation = text.get("quantization_config") or text.get("compression_config") or {}
    inner = quantisation.get("quantization") or {}
    scheme = next(
        (
            found
            for found in (
                quantisation.get("kv_cache_scheme"),
                inner.get("kv_cache_quant_algo"),
                quantisation.get("kv_cache_quant_algo"),
            )
            if found
        ),
        None,
    )
    if isinstance(scheme, dict):
        return "nvfp4" if scheme.get("num_bits") == 4 else "fp8"  # noqa: PLR2004 - four bits
    return "auto" if scheme is None else "nvfp4" if "NVFP4" in str(scheme).upper() else "fp8"


def _attention(text: Config, kind: str, cache_type: str, tensor_parallel: int) -> list[LayerCache]:
    """The caches of one attention layer: one, or two where an indexer keeps keys of its own."""
    if _is_latent(text):
        size = int(text["kv_lora_rank"]) + int(text["qk_rope_head_dim"])
        caches = [
            LayerCache(keeps=Keeps.FULL, token_bytes=latent_bytes(size, cache_type), shape=(size,), latent=True),
        ]
        if text.get("index_topk") and text.get("index_head_dim"):
            head = int(text["index_head_dim"])
            # Eight bits an element, and a 32-bit scale for each 128 of them.
            indexer = LayerCache(keeps=Keeps.FULL, token_bytes=head + head // 128 * 4, shape=(head, 1), latent=True)
            caches.append(indexer)
        return caches
    heads, size = _kv_heads(text), _head_size(text)
    if kind != "window" and text.get("global_head_dim"):
        size = int(text["global_head_dim"])
        if text.get("attention_k_eq_v") and text.get("num_global_key_value_heads"):
            heads = int(text["num_global_key_value_heads"])
    heads = max(heads // tensor_parallel, 1)
    span = 0
    keeps = Keeps.FULL
    if kind == "window":
        keeps, span = Keeps.WINDOW, int(_window(text) or 0)
    elif kind == "chunk":
        keeps, span = Keeps.CHUNK, int(text.get("attention_chunk_size") or 8192)
    value_size = int(text.get("v_head_dim") or size)
    token_bytes = attention_bytes(heads, size, value_size, cache_type)
    return [LayerCache(keeps=keeps, token_bytes=token_bytes, span=span, shape=(heads, size, value_size))]


def _is_latent(text: Config) -> bool:
    return bool(text.get("kv_lora_rank")) and bool(text.get("qk_rope_head_dim"))


def _window(text: Config) -> int | None:
    """The window in force, or None."""
    if text.get("use_sliding_window") is False:
        return None
    window = text.get("sliding_window")
    return int(window) if isinstance(window, int) and window > 0 else None


def _layers(text: Config) -> int:
    return _first(text, ("num_hidden_layers", "n_layer", "n_layers", "num_layers"), "the number of layers")


def _kv_heads(text: Config) -> int:
    if text.get("new_decoder_architecture") is not True and text.get("multi_query") is True:
        return 1
    for name in ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num", "num_attention_groups"):
        if text.get(name):
            return int(text[name])
    return _first(text, ("num_attention_heads", "n_head", "n_heads"), "the number of KV heads")


def _head_size(text: Config) -> int:
    for name in ("head_dim", "attention_head_dim", "hidden_size_per_head"):
        if text.get(name):
            return int(text[name])
    hidden = _first(text, ("hidden_size", "n_embd", "d_model"), "the hidden size")
    return hidden // _first(text, ("num_attention_heads", "n_head", "n_heads"), "the number of attention heads")


def _first(text: Config, names: tuple[str, ...], what: str) -> int:
    for name in names:
        if isinstance(text.get(name), int):
            return int(text[name])
    raise UnknownModel(f"the configuration does not tell {what} ({names[0]})")


def _layer_kinds(text: Config) -> list[str]:
    """The kind of each layer: listed, or by the family's rule."""
    listed = text.get("layer_types") or text.get("layers_block_type")
    if listed:
        return [_named(name, text) for name in listed]
    if pattern := text.get("hybrid_override_pattern"):
        return [_PATTERN_LETTERS.get(letter, "none") for letter in pattern]
    return _ruled(text)


def _named(name: str, text: Config) -> str:
    kind = _KINDS.get(name)
    if kind is None:
        raise UnknownModel(f"the configuration names layers of a kind not known here: {name!r}")
    # A listed window counts only where one is set.
    return "full" if kind == "window" and _window(text) is None else kind


def _ruled(text: Config) -> list[str]:
    """Layer kinds by rule, where the file does not list them."""
    model_type = str(text.get("model_type", ""))
    if model_type in {"mamba", "mamba2", "falcon_mamba"}:
        return ["state"] * _layers(text)
    layers = _layers(text)
    if model_type == "falcon_h1":
        return ["both"] * layers
    if "attn_layer_period" in text:
        period, offset = int(text["attn_layer_period"]), int(text.get("attn_layer_offset", 0))
        return ["full" if index % period == offset else "state" for index in range(layers)]
    if text.get("attn_layer_indices") is not None:
        return ["full" if index in text["attn_layer_indices"] else "state" for index in range(layers)]
    if text.get("full_attn_idxs") is not None:
        return ["full" if index in text["full_attn_idxs"] else "state" for index in range(layers)]
    linear = text.get("linear_attn_config")
    if isinstance(linear, dict):  # numbered from one
        return ["state" if index + 1 in linear["kda_layers"] else "full" for index in range(layers)]
    if text.get("linear_num_value_heads"):
        interval = int(text.get("full_attention_interval") or 4)
        return ["full" if (index + 1) % interval == 0 else "state" for index in range(layers)]
    if model_type.startswith("llama4"):
        return _chunked(text, layers)
    return _windowed(text, layers, model_type)


def _chunked(text: Config, layers: int) -> list[str]:
    """Llama 4: layers with rotary positions see their chunk only, the others everything."""
    if "attention_chunk_size" in text and not text["attention_chunk_size"]:
        return ["full"] * layers
    rotary = text.get("no_rope_layers")
    if not rotary:
        interval = int(text.get("no_rope_layer_interval") or 4)
        rotary = [int((index + 1) % interval != 0) for index in range(layers)]
    return ["chunk" if has_rope else "full" for has_rope in rotary[:layers]]


def _windowed(text: Config, layers: int, model_type: str) -> list[str]:
    """Plain transformers: all layers see everything, or all a window, or some each by a pattern."""
    if _window(text) is None:
        return ["full"] * layers
    pattern = text.get("sliding_window_pattern") or text.get("_sliding_window_pattern")
    if not isinstance(pattern, int):
        pattern = _WINDOW_PATTERNS.get(model_type)
    if pattern:
        return ["window" if (index + 1) % pattern else "full" for index in range(layers)]
    first = text.get("max_window_layers")
    if isinstance(first, int) and "use_sliding_window" in text:
        return ["window" if index >= first else "full" for index in range(layers)]
    return ["window"] * layers
