"""Collects every source of a limit for one request and asks the pure layer for the plan.

Authority runs from the operator down: key, route, model, then the request's own field, the standard fields, the preset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.policies.budget import Budget
from suffice.policies.errors import InvalidBudget, PromptTooLong
from suffice.policies.plan import Asked, Plan, make_plan
from suffice.policies.stopping import Need
from suffice.server.errors import ContextExceeded, InvalidRequest, ModelNotFound

if TYPE_CHECKING:
    from suffice.server.config import Config
    from suffice.server.gateway.dialects.base import Call, Dialect
    from suffice.server.gateway.facts import Served
    from suffice.server.gateway.wishes import Wanting, Wishes
    from suffice.server.ledger.keys import KeyRecord

TEMPLATE_SLACK = 64
"""Tokens that a template may add to a long conversation beyond what it adds to one message."""

TOOL_SLACK = 1024
"""Tokens of instructions that a template may add once tools are there."""


def preset_name(config: Config, call: Call, header: str | None) -> str:
    """The preset of a request: its own field, ``model@preset``, the header, or the default.

    Raises:
        InvalidRequest: No preset has that name.
    """
    name = call.field.preset or call.preset or header or config.policies.default_preset
    if name not in config.presets:
        known = ", ".join(sorted(config.presets))
        raise InvalidRequest(f"no preset is named {name[:64]!r}; there are {known}", param="suffice.preset")
    return name


def prompt_estimate(call: Call, model: Served) -> int:
    """Upper estimate of the length of all prompts, in tokens."""
    tools = TOOL_SLACK if call.body.get("tools") else 0
    estimate = call.prompt_bytes + len(call.prompts) * (model.template_tokens + TEMPLATE_SLACK) + tools
    return estimate if model.context is None else min(estimate, len(call.prompts) * model.context)


def plan_request(
    config: Config,
    dialect: Dialect,
    call: Call,
    key: KeyRecord,
    model: Served,
    preset: str,
    wishes: Wishes,
    *,
    prompt_tokens: int | None = None,
) -> Plan:
    """Merge all limits.

    Args:
        config: The operator's ceilings, presets and effort table.
        dialect: The API of the request.
        call: The checked request.
        key: Its key, with ceilings of its own.
        model: The model that will answer.
        preset: The preset in force.
        wishes: The rules that it is to run.
        prompt_tokens: The prompt's exact length, where it is known; otherwise it is estimated from above.

    Raises:
        InvalidRequest: They leave no room for an answer.
    """
    asked = asked_of(
        config,
        call,
        key_limits(key),
        model.name,
        preset,
        wishes,
        prompt_tokens=prompt_estimate(call, model) if prompt_tokens is None else prompt_tokens,
        prompt_exact=prompt_tokens is not None,
    )
    try:
        return make_plan(asked, model.facts(), dialect.facts(call))
    except PromptTooLong as error:
        raise ContextExceeded(str(error), param=error.param) from None
    except InvalidBudget as error:
        raise InvalidRequest(str(error), param=error.param, code="impossible_budget") from None


def key_limits(key: KeyRecord) -> Budget:
    """The ceilings of a key."""
    return Budget(
        total_tokens=key.max_total_tokens,
        thinking_tokens=key.max_thinking_tokens,
        samples=key.max_samples,
        deadline_ms=key.max_deadline_ms,
    )


def asked_of(
    config: Config,
    call: Wanting,
    key: Budget,
    model: str,
    preset: str,
    wishes: Wishes,
    *,
    prompt_tokens: int,
    prompt_exact: bool,
) -> Asked:
    """Every source of a limit in order of authority, and what else the pure layer must know of a request.

    Args:
        config: The operator's ceilings, presets and effort table.
        call: What the request says of limits and rules.
        key: The ceilings of its key.
        model: Name of the model that will answer.
        preset: The preset in force.
        wishes: The rules that it is to run.
        prompt_tokens: Length of all prompts, or an upper estimate.
        prompt_exact: Which of the two.
    """
    section = config.models.get(model)
    effort_table: dict[str, int | None] = {str(effort): cap for effort, cap in config.policies.effort.items()}
    if section is not None and section.effort is not None:
        effort_table |= section.effort
    sources: list[tuple[str, Budget]] = [("key", key), ("gateway", config.policies.ceilings.budget())]
    if section is not None:
        sources.append(("model", section.ceilings.budget()))
    sources.append(("request", call.field.limits()))
    sources += call.sources
    if call.effort is not None:
        sources.append(("reasoning_effort", Budget(thinking_tokens=effort_table.get(call.effort))))
    preset_budget = config.presets[preset].budget.budget()
    if call.explicit_max or call.field.budget.total_tokens is not None:
        # A preset stands in for lengths that nobody named; it does not cut what the caller asked for.
        preset_budget = Budget(
            thinking_tokens=preset_budget.thinking_tokens,
            answer_reserve=preset_budget.answer_reserve,
            samples=preset_budget.samples,
            deadline_ms=preset_budget.deadline_ms,
        )
    sources.append(("preset", preset_budget))
    return Asked(
        samples=call.samples,
        prompts=len(call.prompts),
        prompt_tokens=prompt_tokens,
        prompt_exact=prompt_exact,
        explicit_length=call.explicit_max,
        sources=tuple(sources),
        reserve_default=config.policies.answer_reserve,
        draws=wishes.draws,
        probes=Need.PROBES in wishes.needs,
        closes=wishes.closes,
        extends=Need.PAUSE_AT_CLOSE in wishes.needs,
        in_engine=wishes.in_engine,
        closer=wishes.closer,
        judge_tokens=0 if wishes.judge is None else wishes.judge.max_tokens,
        token_wise=wishes.token_wise,
        hints=wishes.hints,
    )


def find_model(served: dict[str, Served], name: str) -> Served:
    """The model that a request names.

    Raises:
        ModelNotFound: Upstream serves none of that name.
    """
    model = served.get(name)
    if model is None:
        raise ModelNotFound(f"the model {name[:128]!r} does not exist", param="model")
    return model
