"""Whether the size of the KV cache is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.doctor.patient import ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "KV capacity"
_REMEDY = "use vLLM 0.32 or newer, or shorten --max-model-len and raise --gpu-memory-utilization where it is small"


def check(patient: Patient) -> Finding:
    """Read it from the metrics page and hold it against the longest context."""
    labels = patient.labels("vllm:cache_config_info") or {}
    try:
        block = int(labels["block_size"])
        tokens = int(labels.get("kv_cache_size_tokens") or int(labels["num_gpu_blocks"]) * block)
    except (LookupError, ValueError):
        return warning(NAME, "not told: requests that can never fit are found out by upstream only", _REMEDY)
    contexts = [card["max_model_len"] for card in patient.cards if isinstance(card.get("max_model_len"), int)]
    found = f"{tokens:,} tokens in blocks of {block}"
    if contexts and tokens < max(contexts):
        return warning(NAME, f"{found}, less than the context of {max(contexts):,}", _REMEDY)
    return ok(NAME, found + (f", {tokens / max(contexts):.1f} contexts of {max(contexts):,}" if contexts else ""))
