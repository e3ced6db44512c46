"""Whether the engine schedules by priority."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.doctor.patient import OK, ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "priority"


def check(patient: Patient) -> Finding:
    """Send one token with a priority."""
    if patient.complete(priority=1).status == OK:
        return ok(NAME, "the engine schedules by priority: classes are kept apart inside it too")
    return warning(
        NAME,
        "the engine takes first come first served: classes are kept apart in the gateway's queue only",
        "start vLLM with --scheduling-policy priority",
    )
