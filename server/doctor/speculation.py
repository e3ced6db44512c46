"""Whether the engine decodes speculatively, which logits processors and exact lags do not go with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.doctor.patient import ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "speculation"


def check(patient: Patient) -> Finding:
    """Look for its counters on the metrics page."""
    page = patient.metrics
    if page is None:
        return warning(NAME, "not known without a /metrics page", "see metrics page")
    if "vllm:spec_decode_" not in page:
        return ok(NAME, "off")
    return warning(
        NAME,
        "on: rules inside the engine may not run, and a chunk holds several tokens, so that rules outside act later",
        "see plugin for what runs; keep it where it pays more than early exits do",
    )
