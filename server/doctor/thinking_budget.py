"""Whether the engine itself caps thoughts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.doctor.patient import OK, ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "thinking budget"


def check(patient: Patient) -> Finding:
    """Send ``thinking_token_budget`` with one token."""
    section = patient.config.upstreams[0]
    if patient.complete(thinking_token_budget=1).status == OK:
        return ok(NAME, "thinking_token_budget is accepted: the engine closes thoughts at their cap")
    if patient.thinking_token is None:
        return ok(NAME, f"not there, nor needed: the model has no single token {section.think_end}")
    marks = f'{{"reasoning_start_str":"{section.think_start}","reasoning_end_str":"{section.think_end}"}}'
    return warning(
        NAME,
        "thinking_token_budget is refused: the gateway closes thoughts by resuming, where that loses no parser",
        f"start vLLM with --reasoning-config '{marks}'",
    )
