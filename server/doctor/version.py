"""Which vLLM upstream is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from suffice.server.doctor.patient import OK, ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "version"
TESTED = (0, 32)
"""Oldest minor version that suffice is tested with."""


def check(patient: Patient) -> Finding:
    """Compare what upstream says of itself with what is tested."""
    oldest = ".".join(map(str, TESTED))
    answer = patient.get("/version")
    version = answer.body.get("version")
    if answer.status != OK or not isinstance(version, str):
        return warning(NAME, "upstream does not tell its version", f"use vLLM {oldest} or newer")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < TESTED:
        return warning(
            NAME, f"vLLM {version}", f"suffice is tested with {oldest} and newer; what follows tells what works"
        )
    return ok(NAME, f"vLLM {version}")
