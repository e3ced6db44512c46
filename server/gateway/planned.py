"""The ``Planned`` record: a request without its text, so that its plan and its rules can be made again from a log.

It holds the plan and the rules as they were, and what they were made from: what the request, its key, its model and
its API say of limits. So another policy can be merged anew with what is recorded. What must not be here: text of a
client's. A pattern, the options of a choice and the words that lead a probe to its answer are told by kind or not at
all; the operator's own by a digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError
from suffice.policies.budget import Budget
from suffice.policies.errors import BadRecord, InvalidBudget
from suffice.policies.plan import ApiFacts, ModelFacts, make_plan
from suffice.policies.records import RuleSpec, plan_to_record, sparse, specs_from_record
from suffice.policies.sampling.prior import Prior
from suffice.policies.stopping.length import Length
from suffice.policies.stopping.probe_exit import ProbeExit
from suffice.server.gateway.field import SufficeField
from suffice.server.gateway.planner import asked_of, key_limits, prompt_estimate
from suffice.server.gateway.rulesets import applied_guards, audits_exit, audits_vote, exits_here, make_rules
from suffice.server.gateway.wishes import wishes_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from suffice.policies.plan import Plan
    from suffice.policies.rule import Rule
    from suffice.server.config import Config
    from suffice.server.gateway.dialects.base import Call, Dialect
    from suffice.server.gateway.facts import Served
    from suffice.server.gateway.wishes import Wishes
    from suffice.server.ledger.keys import KeyRecord


def planned(  # noqa: PLR0913, PLR0917 - all that a request is made of
    config: Config,
    dialect: Dialect,
    call: Call,
    key: KeyRecord,
    model: Served,
    preset: str,
    wishes: Wishes,
    plan: Plan,
    rules: Sequence[Rule],
    *,
    at: float,
) -> dict[str, Any]:
    """The record that begins a request's lines.

    Args:
        config: The operator's file.
        dialect: The API of the request.
        call: The checked request.
        key: Its key.
        model: The model that answers.
        preset: The preset in force.
        wishes: The rules that were asked for.
        plan: What was planned.
        rules: The rules as they were built.
        at: Seconds since the request was received.
    """
    request: dict[str, Any] = {
        "prompts": len(call.prompts),
        "samples": call.samples,
        "prompt_tokens": plan.prompt_tokens,
        "sources": [[name, sparse(budget)] for name, budget in call.sources],
        "field": _without_text(call.field),
    }
    if call.effort is not None:
        request["effort"] = call.effort
    if call.explicit_max:
        request["explicit_max"] = True
    if call.greedy:
        request["greedy"] = True
    if wishes.audited:
        request["audited"] = True
    if plan.prompt_tokens != prompt_estimate(call, model):
        request["prompt_exact"] = True
    if preset != config.policies.default_preset:
        request["preset"] = preset
    if limits := sparse(key_limits(key)):
        request["key"] = limits
    return {
        "event": "Planned",
        "at": at,
        "api": dialect.name,
        "model": model.name,
        "key": key.id,
        "preset": preset,
        "plan": plan_to_record(plan),
        "rules": [spec.to_record() for spec in specs_of(wishes, plan, rules)],
        "in_engine": _in_engine(wishes),
        "answer": answers_read(config, call.field, preset),
        "suffix": probes_led(config, call.field, preset),
        "request": request,
        "facts": {"model": sparse(model.facts()), "api": sparse(dialect.facts(call))},
    }


def specs_of(wishes: Wishes, plan: Plan, rules: Sequence[Rule]) -> list[RuleSpec]:
    """The rules of a request by what it takes to build them again; in the order of ``make_rules``."""
    specs = []
    if wishes.sampling is not None:
        drawing = wishes.sampling
        specs.append(
            RuleSpec(
                family="sampling",
                rule=drawing.rule,
                parameters=drawing.parameters(),
                wave=drawing.wave,
                prior=None if wishes.prior is None or not wishes.prior.learned else wishes.prior.to_json(),
                audited=audits_vote(wishes),
            )
        )
    length = next((rule for rule in rules if isinstance(rule, Length)), None)
    for name, given in applied_guards(wishes, plan).items():
        told = (length.thought_tokens, length.answer_tokens) if length is not None and name == Length.name else None
        specs.append(RuleSpec(family="guards", rule=name, parameters=given, lengths=told))
    leaving = wishes.early_exit
    if leaving is not None and exits_here(wishes, plan):
        given, audited = leaving.parameters(), audits_exit(wishes)
        usual = next((rule.usual for rule in rules if isinstance(rule, ProbeExit)), None)
        specs.append(
            RuleSpec(family="early_exit", rule=leaving.rule, parameters=given, audited=audited, usual_tokens=usual)
        )
    return specs


def _in_engine(wishes: Wishes) -> list[dict[str, Any]]:
    leaving = wishes.early_exit
    if leaving is None or not wishes.in_engine:
        return []
    return [{"rule": leaving.rule, "parameters": leaving.parameters()}]


def answers_read(config: Config, field: SufficeField, preset: str) -> str:
    """How answers are read, for comparing: the kind, and whose it is; the operator's parameters by a digest."""
    if field.answer is not None:
        return f"request:{field.answer.kind}"
    chosen = config.presets[preset].answer or config.policies.answer
    if chosen is None:
        return "operator:exact"
    return f"operator:{chosen.kind}" + _digest(chosen.parameters())


def probes_led(config: Config, field: SufficeField, preset: str) -> str:
    """Whose words lead probes to their answers, for comparing; the operator's by a digest."""
    if field.early_exit is not None:
        return "operator" if field.early_exit.suffix is None else "request"
    chosen = config.presets[preset].early_exit or config.policies.early_exit
    return "operator" + _digest(None if chosen is None else chosen.suffix)


def _digest(value: Any) -> str:
    if not value:
        return ""
    return ":" + hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def _without_text(field: SufficeField) -> dict[str, Any]:
    """The field as it was set, but for what can be text."""
    kept: dict[str, Any] = field.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"answer"})
    leaving = kept.get("early_exit")
    if leaving is not None:
        leaving.pop("suffix", None)
    for name in ("sampling", "early_exit"):
        # What is left out because it is the default would be an absent field, which says something else.
        rule = getattr(field, name)
        if rule is not None:
            kept[name] = kept.get(name, {}) | {"rule": rule.rule}
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """A request as its record tells it; see ``Wanting``."""

    field: SufficeField
    samples: int
    prompts: Sequence[Any]
    sources: Sequence[tuple[str, Budget]]
    effort: str | None
    explicit_max: bool
    greedy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Replanned:
    """What another policy would have planned for a recorded request.

    Attributes:
        plan: The plan.
        specs: The rules.
        in_engine: Rules that would run inside the engine.
        one_shown: Whether the client would see the winner only.
        alike: Whether answers are read, and probes led to theirs, as they were live.
    """

    plan: Plan
    specs: tuple[RuleSpec, ...]
    in_engine: list[dict[str, Any]]
    one_shown: bool
    alike: bool


def replan(config: Config, record: Mapping[str, Any]) -> Replanned:
    """Merge another policy with what a record tells of a request.

    Raises:
        BadRecord: The record cannot be read.
        InvalidBudget: The policy would refuse the request.
    """
    try:
        request = record["request"]
        call = RecordedCall(
            field=SufficeField.model_validate(request["field"]),
            samples=request["samples"],
            prompts=(None,) * request["prompts"],
            sources=tuple((name, Budget(**limits)) for name, limits in request["sources"]),
            effort=request.get("effort"),
            explicit_max=request.get("explicit_max", False),
            greedy=request.get("greedy", False),
        )
        key = Budget(**request.get("key", {}))
        told = record["facts"]["model"]
        model = ModelFacts(**{**told, "engine_rules": frozenset(told.get("engine_rules", ()))})
        api = ApiFacts(**record["facts"]["api"])
        preset = request.get("preset") or config.policies.default_preset
        prompt_tokens, exact = request["prompt_tokens"], request.get("prompt_exact", False)
        name, answer, suffix = record["model"], record["answer"], record["suffix"]
    except (LookupError, TypeError, AttributeError, ValidationError) as error:
        raise BadRecord(f"a plan's record cannot be read: {type(error).__name__}") from None
    if preset not in config.presets:
        raise InvalidBudget(f"no preset is named {preset[:64]!r}", param="suffice.preset")
    ran = specs_from_record(record.get("rules", ()))
    learned = next((Prior.from_json(spec.prior) for spec in ran if spec.prior is not None), None)
    audited = request.get("audited", False)
    wishes = wishes_of(config, call, preset, model.engine_rules, prior_of=lambda _: learned, audited=audited)
    asked = asked_of(config, call, key, name, preset, wishes, prompt_tokens=prompt_tokens, prompt_exact=exact)
    plan = make_plan(asked, model, api)
    rules = make_rules(wishes, plan, lengths=None).rules
    told_lengths = {str(spec.parameters): spec.lengths for spec in ran if spec.rule == Length.name}
    usual = next((spec.usual_tokens for spec in ran if spec.family == "early_exit"), None)
    specs = tuple(
        replace(spec, lengths=told_lengths.get(str(spec.parameters)))
        if spec.rule == Length.name
        else replace(spec, usual_tokens=usual if spec.family == "early_exit" else None)
        for spec in specs_of(wishes, plan, rules)
    )
    read = answer if answer.startswith("request:") else answers_read(config, call.field, preset)
    led = suffix if suffix == "request" else probes_led(config, call.field, preset)
    return Replanned(
        plan=plan,
        specs=specs,
        in_engine=_in_engine(wishes),
        one_shown=wishes.one_shown,
        alike=read == answer and led == suffix,
    )
