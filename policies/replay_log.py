"""Replay of a request's log: the same machine and the same rules on the recorded events give the same decisions.

What must not be here: files, and what another policy would have decided.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from suffice.policies.chain import Chain
from suffice.policies.errors import BadRecord, IllegalEvent
from suffice.policies.recording import UNLOGGED, Recalled, needs_of
from suffice.policies.records import (
    EVENTS,
    build_rule,
    decision_from_loggable,
    event_from_loggable,
    plan_from_record,
    specs_from_record,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from suffice.policies.decisions import Action, RuleDecision
    from suffice.policies.events import AnyEvent
    from suffice.policies.plan import Plan
    from suffice.policies.records import RuleSpec
    from suffice.policies.rule import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An event that was answered otherwise in replay.

    Attributes:
        record: Index of the event among the request's records.
        event: The event's name.
        recorded: What was decided live.
        replayed: What was decided in replay; None where the event could not follow there.
    """

    record: int
    event: str
    recorded: tuple[Action | RuleDecision, ...]
    replayed: tuple[Action, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What came of a replay.

    Attributes:
        chain: The machine at the end of the log.
        decisions: Everything that was decided in replay, in order.
        differences: Where that is not what was decided live; empty if the log tells the truth.
    """

    chain: Chain
    decisions: tuple[Action, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One event of a log with what was decided on it.

    Attributes:
        index: Where it stands among the records.
        record: Its record.
        event: The event.
        decided: What followed.
    """

    index: int
    record: Mapping[str, Any]
    event: AnyEvent
    decided: tuple[Action | RuleDecision, ...]


def planned_of(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first record of a request, which tells its plan.

    Raises:
        BadRecord: The log has none.
    """
    if not records or records[0].get("event") != "Planned":
        raise BadRecord("the request's records do not begin with its plan")
    return records[0]


def steps(records: Iterable[Mapping[str, Any]]) -> Iterator[Step]:
    """The chain's events of a request in order; records that are none of its own are passed over.

    Raises:
        BadRecord: A record cannot be read.
    """
    held: Step | None = None
    for index, record in enumerate(records):
        if "decision" in record and held is not None:
            held = replace(held, decided=(*held.decided, decision_from_loggable(record)))
        elif record.get("event") in EVENTS:
            if held is not None:
                yield held
            held = Step(index=index, record=record, event=event_from_loggable(record), decided=())
    if held is not None:
        yield held


def rules_of(specs: Iterable[RuleSpec], plan: Plan) -> list[Rule]:
    """Fresh rules for replay: those that see text want again what they wanted live.

    Raises:
        BadRecord: A rule cannot be built.
    """
    built = [build_rule(spec, plan) for spec in specs]
    return [Recalled(rule.name) if needs_of(rule) & UNLOGGED else rule for rule in built]


def recall(rules: Iterable[Rule], record: Mapping[str, Any]) -> None:
    """Tell rules that are recalled what a chunk's record says that they wanted.

    Raises:
        BadRecord: It cannot be read.
    """
    recalled = {rule.name: rule for rule in rules if isinstance(rule, Recalled)}
    for want in record.get("wants", ()):
        rule = recalled.get(want.get("by"))
        if rule is not None:
            rule.recall(record["sample"], want)


def replay(records: Sequence[Mapping[str, Any]]) -> Replayed:
    """Drive a fresh chain with the same rules through a request's events and compare every decision.

    Args:
        records: All records of one request, its plan first.

    Raises:
        BadRecord: A record cannot be read.
    """
    planned = planned_of(records)
    plan = plan_from_record(planned.get("plan", {}))
    rules = rules_of(specs_from_record(planned.get("rules", ())), plan)
    chain = Chain(plan, rules)
    decisions: list[Action] = []
    differences: list[Difference] = []
    for step in steps(records):
        recall(rules, step.record)
        name = type(step.event).__name__
        try:
            actions = chain.observe(step.event)
        except IllegalEvent:
            differences.append(Difference(record=step.index, event=name, recorded=step.decided, replayed=None))
            continue
        decisions += actions
        if actions != step.decided:
            differences.append(Difference(record=step.index, event=name, recorded=step.decided, replayed=actions))
    return Replayed(chain=chain, decisions=tuple(decisions), differences=tuple(differences))
