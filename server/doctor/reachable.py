"""Whether upstream answers, and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.doctor.patient import OK, CannotTell, failure, ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "reachable"
SLOW_S = 0.25
"""Seconds from which on a page without any work is slow: every request pays this way at least once."""
_TIMES = 5


def check(patient: Patient) -> Finding:
    """Fetch the health page a few times; the median tells the way there and back."""
    start = "start vLLM, and check url, api_key and the network between"
    try:
        answers = [patient.get("/health") for _ in range(_TIMES)]
    except CannotTell as error:
        return failure(NAME, str(error), start)
    median = sorted(answer.seconds for answer in answers)[_TIMES // 2]
    if answers[-1].status != OK:
        return failure(NAME, f"/health answers with status {answers[-1].status}", start)
    found = f"/health in {1000 * median:.1f} ms (median of {_TIMES})"
    if median > SLOW_S:
        return warning(NAME, found, "run the gateway nearer to vLLM, or find out what keeps its API server busy")
    return ok(NAME, found)
