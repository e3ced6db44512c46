"""Whether upstream's metrics page has the names that load is read by."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from suffice.server.doctor.patient import ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "metrics page"

NEEDED = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions_total",
    "vllm:generation_tokens_total",
    "vllm:cache_config_info",
)
FORMER = {"vllm:kv_cache_usage_perc": "vllm:gpu_cache_usage_perc"}
"""Names that older engines used."""


def check(patient: Patient) -> Finding:
    """Look for the names."""
    page = patient.metrics
    if page is None:
        remedy = "let the gateway reach /metrics on vLLM's port, and do not start vLLM with --disable-log-stats"
        return warning(NAME, "there is no /metrics page: admission and price do not see the load", remedy)
    names = set(re.findall(r"^(vllm:\w+)", page, re.MULTILINE))
    missing = [name for name in NEEDED if name not in names]
    old = [former for name, former in FORMER.items() if name in missing and former in names]
    if not missing:
        return ok(NAME, f"all {len(NEEDED)} names that load is read by")
    if old:
        return warning(NAME, f"old names only: {', '.join(old)}", "use vLLM 0.32 or newer")
    return warning(NAME, f"missing: {', '.join(missing)}", "start vLLM without --disable-log-stats, or use a newer one")
