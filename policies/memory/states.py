"""Bytes of the constant-size state that a Mamba or linear-attention layer keeps of a request.

Shapes are those of vLLM 0.32 (``model_executor/layers/mamba/mamba_utils.py``). A state is split over the devices of a
tensor-parallel group. What must not be here: blocks, attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "auto": 2}


def keeps_checkpoints(config: Mapping[str, Any]) -> bool:
    """Whether prefill may export a state from inside a prompt: Mamba-2 and Kimi's delta attention."""
    names = ("mamba_num_heads", "mamba_n_heads", "n_mamba_heads", "linear_attn_config")
    return config.get("model_type") == "mamba2" or any(config.get(name) for name in names)


def state_bytes(config: Mapping[str, Any], tensor_parallel: int = 1) -> int | None:
    """Bytes of one state of one layer on one device.

    Args:
        config: The text part of a model's ``config.json``.
        tensor_parallel: Devices that share the model.

    Returns:
        The bytes, or None where the configuration describes no such layer.
    """
    if config.get("linear_num_value_heads"):
        return _gated_delta_net(config, tensor_parallel)
    if isinstance(config.get("linear_attn_config"), dict):
        return _delta_attention(config["linear_attn_config"], tensor_parallel)
    if config.get("conv_L_cache"):
        channels = int(config.get("conv_dim") or config["hidden_size"]) // tensor_parallel
        return channels * (int(config["conv_L_cache"]) - 1) * 2
    for described in (_nemotron, _second_mamba, _zamba, _plain_second_mamba, _first_mamba):
        elements = described(config, tensor_parallel)
        if elements is not None:
            convolution, recurrence, size = elements
            return convolution * 2 + recurrence * size
    return None


def _mamba2(
    width: int, groups: int, heads: int, head_size: int, state: int, kernel: int, tensor_parallel: int
) -> tuple[int, int]:
    """Elements of the convolution's state and of the recurrence's."""
    if groups % tensor_parallel:
        groups = tensor_parallel  # each device needs the group of its heads
    convolution = (width + 2 * groups * state) // tensor_parallel * (kernel - 1)
    return convolution, heads // tensor_parallel * head_size * state


def _nemotron(config: Mapping[str, Any], tensor_parallel: int) -> tuple[int, int, int] | None:
    heads = config.get("mamba_num_heads")
    if heads is None:
        return None
    size = config["mamba_head_dim"]
    groups = config.get("mamba_n_groups") or config.get("n_groups") or 8
    kernel = config.get("mamba_d_conv") or config.get("conv_kernel") or 4
    state = config.get("ssm_state_size") or config.get("mamba_state_dim") or 128
    elements = _mamba2(heads * size, groups, heads, size, state, kernel, tensor_parallel)
    return *elements, _SIZES[config.get("mamba_ssm_cache_dtype") or "float32"]


def _second_mamba(config: Mapping[str, Any], tensor_parallel: int) -> tuple[int, int, int] | None:
    heads = config.get("mamba_n_heads")
    if heads is None:
        return None
    width = config.get("mamba_d_ssm") or int(config.get("mamba_expand", 2) * config["hidden_size"])
    size = config.get("mamba_d_head", "auto")
    size = width // heads if size in ("auto", None) else int(size)
    groups, state = config.get("mamba_n_groups", 1), config.get("mamba_d_state", 256)
    elements = _mamba2(width, groups, heads, size, state, config.get("mamba_d_conv", 4), tensor_parallel)
    return *elements, _SIZES["auto"]


def _zamba(config: Mapping[str, Any], tensor_parallel: int) -> tuple[int, int, int] | None:
    heads = config.get("n_mamba_heads")
    if heads is None or "mamba_ngroups" not in config:
        return None
    width = config.get("mamba_expand", 2) * config["hidden_size"]
    size = config.get("mamba_headdim") or width // heads
    groups, state = config["mamba_ngroups"], config.get("mamba_d_state", 64)
    elements = _mamba2(width, groups, heads, size, state, config.get("mamba_d_conv", 4), tensor_parallel)
    return *elements, _SIZES["auto"]


def _plain_second_mamba(config: Mapping[str, Any], tensor_parallel: int) -> tuple[int, int, int] | None:
    if config.get("model_type") != "mamba2":
        return None
    width = config.get("expand", 2) * config["hidden_size"]
    heads, size = config["num_heads"], config["head_dim"]
    groups, state = config.get("n_groups", 8), config["state_size"]
    elements = _mamba2(width, groups, heads, size, state, config.get("conv_kernel", 4), tensor_parallel)
    return *elements, _SIZES["auto"]


def _first_mamba(config: Mapping[str, Any], tensor_parallel: int) -> tuple[int, int, int] | None:
    if config.get("mamba_d_state"):
        width = config.get("mamba_expand", 2) * config["hidden_size"]
        state, kernel = config["mamba_d_state"], config.get("mamba_d_conv", 4)
    elif config.get("state_size") and config.get("conv_kernel"):
        width = config.get("intermediate_size") or config.get("expand", 2) * config["hidden_size"]
        state, kernel = config["state_size"], config["conv_kernel"]
    else:
        return None
    share = width // tensor_parallel
    return share * (kernel - 1), share * state, _SIZES["auto"]


def _gated_delta_net(config: Mapping[str, Any], tensor_parallel: int) -> int:
    """Qwen3-Next and its successors."""
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    key_size, value_size = config["linear_key_head_dim"], config["linear_value_head_dim"]
    channels = key_size * keys * 2 + value_size * values
    convolution = channels // tensor_parallel * (config["linear_conv_kernel_dim"] - 1)
    recurrence: int = values // tensor_parallel * value_size * key_size
    return int(convolution) * 2 + recurrence * _SIZES[config.get("mamba_ssm_dtype") or "auto"]


def _delta_attention(linear: Mapping[str, Any], tensor_parallel: int) -> int:
    """Kimi's delta attention, whose recurrence is kept in 32 bits."""
    heads, size = int(linear["num_heads"]), int(linear["head_dim"])
    kernel = int(linear.get("short_conv_kernel_size", 4))
    return 3 * heads * size // tensor_parallel * (kernel - 1) * 2 + heads // tensor_parallel * size * size * 4
