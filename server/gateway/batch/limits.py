"""The limits of a whole batch: the operator's ceilings and the request's own, each with its source.

A batch is one request: ceilings on ``total_tokens`` and ``deadline_ms`` bound all of it. ``samples`` bounds what each
question may draw, and lengths bound each sample. What must not be here: the plan of one sample, which is planned like
any request within what it was granted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from suffice.policies.allocation.batch import BatchRule
from suffice.policies.budget import Bound, Budget, tightest
from suffice.policies.plan import DEFAULT_TOTAL, PROBE_SHARE
from suffice.server.errors import InvalidRequest
from suffice.server.gateway.planner import key_limits

if TYPE_CHECKING:
    from suffice.server.config import Config
    from suffice.server.gateway.batch.request import BatchRequest
    from suffice.server.gateway.facts import Served
    from suffice.server.ledger.keys import KeyRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What holds for a batch.

    Attributes:
        rule: How it is drawn.
        total_tokens: Tokens of all samples of all runs.
        sample_tokens: Tokens of one sample.
        concurrency: Samples beside each other.
        deadline_s: Seconds from receipt to the end; None for no end.
        bounds: Each limit with its source.
    """

    rule: BatchRule
    total_tokens: int
    sample_tokens: int
    concurrency: int
    deadline_s: float | None
    bounds: dict[str, Bound]


def batch_limits(config: Config, request: BatchRequest, key: KeyRecord, model: Served, preset: str) -> BatchLimits:
    """Merge all limits; the tightest source wins.

    Raises:
        InvalidRequest: They leave no room for one answer.
    """
    field = request.questions[0].call.field.budget
    section = config.models.get(model.name)
    sources = [("key", key_limits(key)), ("gateway", config.policies.ceilings.budget())]
    if section is not None:
        sources.append(("model", section.ceilings.budget()))
    own = Budget(
        total_tokens=request.total_tokens,
        sample_tokens=request.sample_tokens or _longest_named(request),
        answer_reserve=field.answer_reserve,
        samples=request.sampling.most,
        deadline_ms=request.deadline_ms,
    )
    sources.append(("request", own))
    preset_budget = config.presets[preset].budget.budget()
    # A preset stands in for lengths that nobody named; it does not cut what the caller asked for.
    length = preset_budget.sample_tokens if own.sample_tokens is None else None
    rest = Budget(
        sample_tokens=length,
        answer_reserve=preset_budget.answer_reserve,
        samples=preset_budget.samples,
        deadline_ms=preset_budget.deadline_ms,
    )
    bounds = tightest(*sources, ("preset", rest))
    if "sample_tokens" not in bounds:
        bounds["sample_tokens"] = Bound(value=DEFAULT_TOTAL.sample_tokens or 0, source="default")
    total = bounds["total_tokens"]
    if bounds["sample_tokens"].value > total.value:
        bounds["sample_tokens"] = Bound(value=total.value, source=total.source)
    least = least_tokens(bounds.get("answer_reserve"), model)
    if bounds["sample_tokens"].value < least:
        limit = "total_tokens" if total.value < least else "sample_tokens"
        raise InvalidRequest(
            f"{limit} of {bounds[limit].value} (set by {bounds[limit].source}) is too little for one answer, which "
            f"takes {least}",
            param=limit,
            code="impossible_budget",
        )
    most = bounds["samples"].value
    deadline = bounds.get("deadline_ms")
    allowed = config.server.batch_concurrency
    return BatchLimits(
        rule=BatchRule(least=min(request.sampling.least, most), most=most, least_tokens=least),
        total_tokens=total.value,
        sample_tokens=bounds["sample_tokens"].value,
        concurrency=allowed if request.concurrency is None else min(request.concurrency, allowed),
        deadline_s=None if deadline is None else deadline.value / 1000,
        bounds=bounds,
    )


def _longest_named(request: BatchRequest) -> int | None:
    """The longest sample that any question names in a standard field, where all name one."""
    named = [
        min((limits.sample_tokens for _, limits in question.call.sources if limits.sample_tokens), default=None)
        for question in request.questions
    ]
    known = [length for length in named if length is not None]
    return max(known) if len(known) == len(named) else None


def least_tokens(reserve: Bound | None, model: Served) -> int:
    """Tokens that a sample needs for a closed thought and its reserve, with what probes may take of them."""
    closing = model.facts().close_tokens if model.thought is not None else 0
    # Where nobody names a reserve it is a quarter of the sample, so that what closes the thought must be less than
    # the other three.
    need = 2 * closing + 2 if reserve is None else reserve.value + closing
    return need * PROBE_SHARE // (PROBE_SHARE - 1) + 1
