"""What the desk is told of a request, and whether its samples may be paused unseen.

What must not be here: who starts when.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from suffice.policies.allocation.tickets import ServiceClass
from suffice.policies.budget import Bound
from suffice.server.desk.seat import Visit
from suffice.server.ledger.amounts import Resource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from suffice.policies.plan import Plan
    from suffice.server.gateway.dialects.base import Call, Dialect
    from suffice.server.ledger.amounts import Account
    from suffice.server.ledger.keys import KeyRecord

_STATEFUL = (
    "stop", "frequency_penalty", "presence_penalty", "repetition_penalty", "repetition_detection", "bad_words",
)  # fmt: skip
"""Fields whose effect hangs on tokens generated before, which a resumed generation takes for its prompt."""


def tenant_of(key: KeyRecord) -> str:
    """Who shares fairly with others: the team, or the key without one."""
    return f"team:{key.team}" if key.team else f"key:{key.id}"


def visit_of(dialect: Dialect, call: Call, key: KeyRecord, plan: Plan, request_id: str, received: float) -> Visit:
    """A request as the desk sees it.

    Args:
        dialect: The API it came by.
        call: The checked request.
        key: Whose it is.
        plan: Its limits.
        request_id: Its name.
        received: When it came, in the desk's seconds.
    """
    service = ServiceClass(call.field.service_class)
    budget = plan.limits.get("kv_block_seconds")
    return Visit(
        id=request_id,
        key=key.id,
        tenant=tenant_of(key),
        route=dialect.name,
        model=call.model,
        service=service,
        prompt_tokens=plan.prompt_tokens // plan.prompts,
        sample_tokens=plan.sample_tokens,
        samples=plan.samples,
        prompts=plan.prompts,
        received=received,
        deadline_s=plan.deadline_s,
        block_seconds=None if budget is None else float(budget.value),
        pausable=service is ServiceClass.BULK and plan.resumes and _stateless(call.body) and _known(dialect, call),
    )


def memory_bounded(plan: Plan, accounts: Iterable[Account], worst: float) -> Plan:
    """The plan with the KV memory that its accounts let it have, where one of them counts memory.

    What is reserved is also the most that the request may take, so that no account is overdrawn.

    Args:
        plan: The plan.
        accounts: Who pays.
        worst: KV-block-seconds that it takes if every sample runs to its limit.
    """
    if not any(limit.resource is Resource.KV_BLOCK_MS for account in accounts for limit in account.limits):
        return plan
    named = plan.limits.get("kv_block_seconds")
    most = max(math.ceil(worst), 1)
    if named is not None and named.value <= most:
        return plan
    return replace(plan, limits=plan.limits | {"kv_block_seconds": Bound(value=most, source="account")})


def _known(dialect: Dialect, call: Call) -> bool:
    """Whether the stream tells the tokens that a sample would go on from."""
    return dialect.facts(call).tells_tokens


def _stateless(body: dict[str, Any]) -> bool:
    """Whether an answer that goes on from its own tokens is the one that it would have been.

    A seed names one series of random numbers, which a resumed generation would begin anew.
    """
    seeded = body.get("seed") is not None and body.get("temperature") != 0
    return not seeded and not any(body.get(name) for name in _STATEFUL)
