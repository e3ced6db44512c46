"""Records back into what they were written of: events, decisions, a plan, and the rules that stood beside it.

``to_loggable`` writes an event or a decision; here it is read. A plan and its rules are written and read here, so that
a log alone rebuilds the machine of a request. Nothing in a record is text of a client's or a model's. What must not be
here: files, and what is done with what was read.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, replace
from enum import Enum
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from suffice.policies import decisions, events
from suffice.policies import sampling as votes
from suffice.policies.auditing import AuditedExit, AuditedVote
from suffice.policies.budget import Bound
from suffice.policies.errors import BadRecord, InvalidBudget
from suffice.policies.plan import NotApplied, Plan, ThinkingCap
from suffice.policies.sampling.draw import Draw
from suffice.policies.sampling.prior import Prior
from suffice.policies.stopping import GUARDS, RULES, Setting
from suffice.policies.stopping.length import Length

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from suffice.policies.events import Loggable
    from suffice.policies.rule import Rule

T = TypeVar("T")

EVENTS: Mapping[str, type[events.Event]] = {kind.__name__: kind for kind in get_args(events.AnyEvent)}
DECISIONS: Mapping[str, type[decisions.Decision]] = {
    kind.__name__: kind for kind in {*get_args(decisions.RuleDecision), *get_args(decisions.Action)}
}
_HINTS: dict[type, dict[str, Any]] = {
    kind: get_type_hints(kind, vars(decisions) | vars(events)) for kind in (*EVENTS.values(), *DECISIONS.values())
}


def event_from_loggable(record: Mapping[str, Any]) -> events.AnyEvent:
    """The event that a record was written of, without its private fields; keys it does not know are passed over.

    Raises:
        BadRecord: It is no event's record, or a value is missing or of a wrong type.
    """
    event: events.AnyEvent = _read(EVENTS, "event", record)  # type: ignore[assignment]
    return event


def decision_from_loggable(record: Mapping[str, Any]) -> decisions.Action | decisions.RuleDecision:
    """The decision that a record was written of; raises as ``event_from_loggable``."""
    decision: decisions.Action | decisions.RuleDecision = _read(DECISIONS, "decision", record)  # type: ignore[assignment]
    return decision


def _read(kinds: Mapping[str, type[T]], key: str, record: Mapping[str, Any]) -> T:
    kind = kinds.get(str(record.get(key)))
    if kind is None:
        raise BadRecord(f"no {key} is named {str(record.get(key))[:64]!r}")
    values = {}
    for one in fields(kind):  # type: ignore[arg-type]  # every kind is a dataclass
        if one.name in getattr(kind, "private", ()):
            continue
        if one.name in record:
            values[one.name] = _value(_HINTS[kind][one.name], record[one.name], f"{kind.__name__}.{one.name}")
        elif one.default is MISSING:
            raise BadRecord(f"{kind.__name__}.{one.name} is missing")
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    """A JSON value as the type that a field wants."""
    if get_origin(hint) in (Union, UnionType):
        if value is None:
            return None
        hint = next(kind for kind in get_args(hint) if kind is not NoneType)
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_value(get_args(hint)[0], item, where) for item in value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            raise BadRecord(f"{where} has no value {str(value)[:64]!r}") from None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number if hint is float else type(value) is hint:
        return value
    raise BadRecord(f"{where} is of a wrong type")


def sparse(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not at their defaults, JSON-ready as far as its values are; sets as lists."""
    found = {}
    for one in fields(value):
        held = getattr(value, one.name)
        if one.default is MISSING or held != one.default:
            found[one.name] = sorted(held) if isinstance(held, frozenset) else held
    return found


def plan_to_record(plan: Plan) -> dict[str, Loggable]:
    """A plan as JSON-ready values."""
    record = sparse(plan)
    record["limits"] = {name: [bound.value, bound.source] for name, bound in plan.limits.items()}
    if plan.not_applied:
        record["not_applied"] = [[item.rule, item.why] for item in plan.not_applied]
    return record


def plan_from_record(record: Mapping[str, Any]) -> Plan:
    """The plan that a record was written of.

    Raises:
        BadRecord: A value is missing, unknown or of a wrong form.
    """
    try:
        values = dict(record)
        values["limits"] = {
            name: Bound(value=value, source=source) for name, (value, source) in values["limits"].items()
        }
        values["not_applied"] = tuple(NotApplied(rule=rule, why=why) for rule, why in values.get("not_applied", ()))
        for name in ("thinking_cap", "close_by"):
            if name in values:
                values[name] = ThinkingCap(values[name])
        return Plan(**values)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadRecord(f"a plan cannot be read: {type(error).__name__}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSpec:
    """A rule by what it takes to build it anew.

    Attributes:
        family: ``sampling``, ``guards`` or ``early_exit``.
        rule: Its name.
        parameters: Its parameters, as they were given.
        wave: Of a sampling rule, samples that may run beside each other.
        lengths: Of the rule that knows how long others were, the longest thought and answer it lets be.
        prior: Of the rule that learns from votes, what it had learned, as JSON-ready values.
        audited: Whether it was only asked what it would have done.
        usual_tokens: Of a rule that weighs what thinking on costs, the length that a thought usually has.
    """

    family: str
    rule: str
    parameters: dict[str, Any] = field(default_factory=dict)
    wave: int = 1
    lengths: tuple[int | None, int | None] | None = None
    prior: dict[str, Any] | None = None
    audited: bool = False
    usual_tokens: int | None = None

    def to_record(self) -> dict[str, Loggable]:
        """The same as JSON-ready values."""
        record = sparse(self)
        if not self.parameters:
            del record["parameters"]
        if self.lengths is not None:
            record["lengths"] = list(self.lengths)
        return record


def specs_from_record(records: Iterable[Mapping[str, Any]]) -> tuple[RuleSpec, ...]:
    """The rules that records were written of.

    Raises:
        BadRecord: A value is missing or unknown.
    """
    try:
        specs = []
        for record in records:
            lengths = record.get("lengths")
            specs.append(RuleSpec(**{**record, "lengths": None if lengths is None else (lengths[0], lengths[1])}))
        return tuple(specs)
    except (LookupError, TypeError) as error:
        raise BadRecord(f"a rule cannot be read: {type(error).__name__}") from None


def build_rule(spec: RuleSpec, plan: Plan) -> Rule:
    """A fresh rule under a plan, as it was built live.

    Raises:
        BadRecord: There is no such rule, or it does not take these parameters.
    """
    try:
        match spec.family:
            case "sampling":
                prior = None if spec.prior is None else Prior.from_json(spec.prior)
                vote = votes.RULES.make(spec.rule, spec.parameters, most=plan.most_samples, prior=prior)
                return Draw(AuditedVote(vote) if spec.audited else vote, wave=spec.wave, most=plan.most_samples)
            case "guards" if spec.lengths is not None:
                return Length.at(*spec.lengths)
            case "guards":
                return GUARDS.make(spec.rule, spec.parameters, setting=setting_of(plan))
            case "early_exit":
                setting = replace(setting_of(plan), usual_tokens=spec.usual_tokens)
                rule = RULES.make(spec.rule, spec.parameters, setting=setting)
                return AuditedExit(rule) if spec.audited else rule
    except (InvalidBudget, ValueError) as error:
        raise BadRecord(str(error)) from None
    raise BadRecord(f"no family of rules is named {spec.family[:64]!r}")


def setting_of(plan: Plan) -> Setting:
    """What a plan tells stopping rules before the first token."""
    reserve = plan.limits.get("answer_reserve")
    return Setting(
        thinking_tokens=plan.thinking_tokens,
        sample_tokens=plan.sample_tokens,
        answer_reserve=0 if reserve is None else reserve.value,
        deadline_s=plan.deadline_s,
    )
