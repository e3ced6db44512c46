"""Whether streams tell token ids, by which thoughts are followed and cut generations are resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.doctor.patient import OK, failure, ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "token ids"


def check(patient: Patient) -> Finding:
    """Ask for the ids of one token and of its prompt."""
    answer = patient.complete(return_token_ids=True)
    choice = answer.choice
    told = bool(choice.get("token_ids")) and bool(choice.get("prompt_token_ids") or answer.body.get("prompt_token_ids"))
    if answer.status == OK and told:
        return ok(NAME, "return_token_ids tells the ids of prompt and answer")
    remedy = "use a vLLM that knows return_token_ids (0.11 or newer), without a proxy between"
    if patient.thinking_token is None:
        return warning(NAME, "return_token_ids tells nothing; loops cannot be seen and nothing can be resumed", remedy)
    return failure(NAME, "return_token_ids tells nothing: thoughts can neither be followed nor closed", remedy)
