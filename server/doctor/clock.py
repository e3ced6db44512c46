"""Whether this machine's clock and upstream's agree; budgets by the day and hour go by this one."""

from __future__ import annotations

import email.utils
import time
from typing import TYPE_CHECKING

from suffice.server.doctor.patient import ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "clock"
APART_S = 5.0
"""Seconds of difference that are still fine; the header tells whole seconds."""


def check(patient: Patient) -> Finding:
    """Compare with the date of an answer."""
    answer = patient.get("/health")
    here = time.time()
    try:
        there = email.utils.parsedate_to_datetime(answer.date or "").timestamp()
    except ValueError:
        return ok(NAME, "upstream tells no date to compare with")
    apart = here - there
    if abs(apart) > APART_S:
        return warning(NAME, f"{apart:+.0f} s against upstream's", "run a time service on both machines")
    return ok(NAME, f"within {APART_S:g} s of upstream's")
