"""Whether thoughts travel apart from answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.doctor.patient import OK, ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "reasoning parser"
TOKENS = 64


def check(patient: Patient) -> Finding:
    """Ask a short question and look where the thought stands."""
    section = patient.config.upstreams[0]
    if patient.thinking_token is None:
        return ok(NAME, f"not needed: the model has no single token {section.think_end}")
    body = {
        "model": patient.model,
        "messages": [{"role": "user", "content": "1+1?"}],
        "max_tokens": TOKENS,
        "temperature": 0,
    }
    answer = patient.post("/v1/chat/completions", body)
    message = answer.choice.get("message") or {}
    if answer.status != OK:
        remedy = "give the model a chat template, or let clients use the completions API only"
        return warning(NAME, f"a chat completion is answered with status {answer.status}", remedy)
    if message.get("reasoning") or message.get("reasoning_content"):
        return ok(NAME, "a chat answer's thought has a field of its own")
    return warning(
        NAME,
        "a chat answer has no thought apart from its content: clients see it as text, or the model did not think",
        "start vLLM with --reasoning-parser and the parser of this model",
    )
