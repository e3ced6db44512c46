"""Whether upstream tells how much of a prompt came from its cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.doctor.patient import ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "prompt details"


def check(patient: Patient) -> Finding:
    """Look at the usage of two equal requests: some versions tell nothing where nothing was cached."""
    answers = [patient.complete(prompt="cached " * 300) for _ in range(2)]
    if any((answer.body.get("usage") or {}).get("prompt_tokens_details") for answer in answers):
        return ok(NAME, "usage tells cached prompt tokens")
    return warning(
        NAME,
        "usage does not tell cached prompt tokens: what prefixes save cannot be shown",
        "start vLLM with --enable-prompt-tokens-details",
    )
