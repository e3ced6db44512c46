"""Whether streams tell running token counts, which every hard limit is metered by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.doctor.patient import failure, ok

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "streaming usage"
TOKENS = 4


def check(patient: Patient) -> Finding:
    """Stream a few tokens and follow the counts."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {
        "model": patient.model,
        "prompt": "a",
        "max_tokens": TOKENS,
        "min_tokens": TOKENS,
        "stream_options": options,
    }
    frames = patient.stream("/v1/completions", body)
    counts = [(frame.get("usage") or {}).get("completion_tokens") for frame in frames if frame.get("choices")]
    if not frames:
        return failure(NAME, "a stream was refused", "check vLLM's log for the reason")
    numbers = [count for count in counts if isinstance(count, int)]
    if not numbers or len(numbers) < len(counts):
        return failure(
            NAME, "frames carry no running usage", "use a vLLM that knows continuous_usage_stats, without a proxy"
        )
    if numbers != sorted(numbers) or numbers[-1] != TOKENS:
        return failure(
            NAME, f"the counts do not add up: {numbers}", "use vLLM itself as upstream, without a proxy between"
        )
    return ok(NAME, f"{len(numbers)} frames count to {numbers[-1]} tokens")
