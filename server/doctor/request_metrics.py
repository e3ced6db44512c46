"""Whether upstream tells the times of each request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.doctor.patient import ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "request metrics"


def check(patient: Patient) -> Finding:
    """Look for them in an answer."""
    if patient.complete().body.get("metrics"):
        return ok(NAME, "answers tell the engine's queue, prefill and decode times")
    return warning(
        NAME,
        "answers do not tell the engine's own times: receipts know the gateway's only",
        "start vLLM with --enable-per-request-metrics",
    )
