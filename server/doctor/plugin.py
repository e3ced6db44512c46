"""What suffice's plugin can do inside the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.doctor.patient import ok, warning
from suffice.server.engine.plugin.discovery import capabilities

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "plugin"


def check(patient: Patient) -> Finding:
    """Ask its route."""
    found = capabilities(patient.config.upstreams[0].url, api_key=patient.api_key)
    reasons = "; ".join(found.why_not)
    if not found.installed:
        return warning(NAME, "not loaded: thoughts are closed from outside, a few tokens late", reasons)
    can = f"version {found.version}, {found.slots} slots, rules {', '.join(found.rules) or 'none'}"
    if reasons:
        return warning(NAME, f"{can}; signals {'work' if found.signals else 'do not work'}", reasons)
    return ok(NAME, f"{can}; signals work, {found.lag_tokens} tokens late")
