"""Whether adapters can be loaded while upstream runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.doctor.patient import NOT_FOUND, ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "adapters"


def check(patient: Patient) -> Finding:
    """Look for the route by a method that it does not take, so that nothing is loaded."""
    if patient.get("/v1/load_lora_adapter").status != NOT_FOUND:
        return ok(NAME, "adapters can be loaded at run time")
    return warning(
        NAME,
        "there is no route to load adapters: what the sidecar trains cannot be served without a restart",
        "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, reachable by the gateway only",
    )
