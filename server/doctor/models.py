"""Which models upstream serves, and how long their contexts are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.doctor.patient import failure, ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "models"
_SHOWN = 4


def check(patient: Patient) -> Finding:
    """List them."""
    cards = patient.cards
    if not cards:
        return failure(
            NAME, "upstream lists no models", "check that url is that of vLLM's API server and api_key is right"
        )
    told = [f"{card['id']} ({card.get('max_model_len') or 'context unknown'})" for card in cards]
    found = ", ".join(told[:_SHOWN]) + (f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else "")
    if any(not isinstance(card.get("max_model_len"), int) for card in cards if card.get("parent") is None):
        return warning(
            NAME, found, "without a context length, answers are not fitted to it: use vLLM itself as upstream"
        )
    return ok(NAME, found)
