"""Bytes of one token's keys and values by the data type of the KV cache.

The figures follow vLLM 0.32's backends (``customize_spec``): data types that carry a scale with each token and head
are larger than their elements alone. What must not be here: models, blocks.
"""

from __future__ import annotations

from suffice.policies.errors import UnknownModel

ELEMENT_BYTES = {
    "auto": 2,
    "float16": 2,
    "bfloat16": 2,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "fp8_inc": 1,
    "int8_per_token_head": 1,
    "fp8_per_token_head": 1,
    "int4_per_token_head": 1,
    "nvfp4": 1,
    "nvfp4_4over6": 1,
}
"""Bytes of a stored element; two four-bit numbers share one."""

LATENT_BYTES = {"fp8_ds_mla": 656, "nvfp4_ds_mla": 352}
"""Bytes of a whole latent token, where the layout is packed and no formula of its size."""

CACHE_TYPES = (*ELEMENT_BYTES, *LATENT_BYTES)

_SCALES = 8
"""Two 32-bit scales, of the key and of the value, with each token and head."""


def attention_bytes(heads: int, key_size: int, value_size: int, cache_type: str) -> int:
    """Bytes of one token in one layer of multi-head, grouped-query or multi-query attention.

    Args:
        heads: KV heads on one device.
        key_size: Elements of one head's key.
        value_size: Elements of one head's value.
        cache_type: vLLM's ``--kv-cache-dtype``.

    Raises:
        UnknownModel: No such type, or one for latent attention only.
    """
    element = _element_bytes(cache_type)
    if cache_type.startswith("nvfp4"):
        return heads * (_nvfp4(key_size) + _nvfp4(value_size))
    if cache_type == "int4_per_token_head":
        key_size, value_size = key_size // 2, value_size // 2
    scales = _SCALES if cache_type.endswith("_per_token_head") else 0
    return heads * ((key_size + value_size) * element + scales)


def latent_bytes(size: int, cache_type: str) -> int:
    """Bytes of one token in one layer of latent attention (MLA), the same on every device.

    Args:
        size: Elements of the latent vector: ``kv_lora_rank + qk_rope_head_dim``.
        cache_type: vLLM's ``--kv-cache-dtype``.

    Raises:
        UnknownModel: No such type, or one that latent attention has no kernel for.
    """
    if cache_type in LATENT_BYTES:
        return LATENT_BYTES[cache_type]
    if cache_type.startswith("nvfp4"):
        raise UnknownModel(f"a latent KV cache has no {cache_type}; there is nvfp4_ds_mla")
    element = _element_bytes(cache_type)
    if cache_type == "int4_per_token_head":
        size //= 2
    return size * element + (_SCALES if cache_type.endswith("_per_token_head") else 0)


def _nvfp4(size: int) -> int:
    """Four-bit elements and one 8-bit scale for each 16 of them."""
    return size // 2 + size // 16


def _element_bytes(cache_type: str) -> int:
    known = ELEMENT_BYTES.get(cache_type)
    if known is None:
        hint = "it is for latent attention" if cache_type in LATENT_BYTES else f"there are {', '.join(CACHE_TYPES)}"
        raise UnknownModel(f"no KV cache is kept in {cache_type!r} here: {hint}")
    return known
