"""All checks in order, each kept from failing by what the world does to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.doctor import (
    adapters,
    chosen_logprobs,
    clock,
    data_directory,
    kv_capacity,
    ledger,
    metrics_page,
    models,
    plugin,
    port,
    priority,
    prompt_details,
    reachable,
    reasoning_parser,
    request_metrics,
    speculation,
    streaming,
    thinking_budget,
    token_ids,
    version,
)
from suffice.server.doctor.patient import CannotTell, Health, failure, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from suffice.server.doctor.patient import Finding, Patient

UPSTREAM = (
    version,
    models,
    streaming,
    token_ids,
    thinking_budget,
    reasoning_parser,
    chosen_logprobs,
    priority,
    prompt_details,
    request_metrics,
    adapters,
    plugin,
    metrics_page,
    kv_capacity,
    speculation,
    clock,
)
HERE = (data_directory, ledger, port)


def examine(patient: Patient) -> Iterator[Finding]:
    """Every finding as it is made; an upstream that cannot be reached is not asked further."""
    first = reachable.check(patient)
    yield first
    if first.health is not Health.FAILURE:
        for one in UPSTREAM:
            try:
                yield one.check(patient)
            except CannotTell as error:
                yield warning(one.NAME, f"cannot be told: {error}", "see the findings above")
            except (TypeError, AttributeError, LookupError, ValueError) as error:
                remedy = "use vLLM itself as upstream, without a proxy between"
                yield failure(one.NAME, f"upstream's answer cannot be understood ({type(error).__name__})", remedy)
    for here in HERE:
        yield here.check(patient)


def exit_code(findings: list[Finding]) -> int:
    """0 where all is well, 1 with warnings, 2 with failures."""
    worst = {finding.health for finding in findings}
    return 2 if Health.FAILURE in worst else 1 if Health.WARNING in worst else 0
