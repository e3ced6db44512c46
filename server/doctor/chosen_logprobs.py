"""Whether the log-probability of a chosen token can be asked for, which rules near the end of a thought live on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.doctor.patient import OK, ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "chosen logprobs"


def check(patient: Patient) -> Finding:
    """Ask for the log-probability of the token that closes a thought."""
    token = patient.thinking_token
    if token is None:
        return ok(NAME, "not needed: there is no thought to close")
    answer = patient.complete(logprobs=1, logprob_token_ids=[token])
    tops = (answer.choice.get("logprobs") or {}).get("top_logprobs") or [{}]
    name = patient.config.upstreams[0].think_end
    if answer.status == OK and tops[0] and name in tops[0]:
        return ok(NAME, f"logprob_token_ids tells that of {name} at each position")
    return warning(
        NAME,
        "logprob_token_ids tells nothing: rules that wait for a likely end of the thought see little of it",
        "use a vLLM that knows logprob_token_ids (0.32 does)",
    )
