"""Wishes into the rules of one request, as far as its plan says that they can be applied.

What must not be here: where wishes come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suffice.policies import sampling, stopping
from suffice.policies.answers import READERS
from suffice.policies.auditing import AuditedExit, AuditedVote
from suffice.policies.errors import InvalidBudget
from suffice.policies.plan import ThinkingCap
from suffice.policies.sampling import Draw
from suffice.policies.sampling.bayesian import Bayesian
from suffice.policies.stopping.family import Need, Setting
from suffice.policies.stopping.length import Length
from suffice.policies.stopping.repetition import Repetition
from suffice.server.gateway.signals import TOP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from suffice.policies.answers import Reader
    from suffice.policies.plan import Plan
    from suffice.policies.rule import Rule
    from suffice.policies.stopping.family import StoppingRule
    from suffice.policies.stopping.lengths import RouteLengths
    from suffice.server.gateway.field import SamplingField
    from suffice.server.gateway.wishes import Wishes

JUDGE = "judge"
"""The kind of answers that a model tells apart."""

_ANSWER_GUARDS = frozenset({Repetition.name, Length.name})
"""Guards that also watch answers, so that they have work on a model that does not think."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """The rules of one request.

    Attributes:
        rules: All of them, in order of precedence.
        draw: The one that draws samples and knows the winner.
        reader: Reads answers, where a rule compares any.
        exits: The early-exit rule of an audited request.
    """

    rules: Sequence[Rule] = ()
    draw: Draw | None = None
    reader: Reader | None = None
    exits: AuditedExit | None = None

    @property
    def vote(self) -> AuditedVote | None:
        """The sampling rule of an audited request."""
        rule = None if self.draw is None else self.draw.rule
        return rule if isinstance(rule, AuditedVote) else None

    @property
    def needs(self) -> frozenset[Need]:
        """What the rules that run in the gateway live on."""
        return frozenset().union(*(getattr(rule, "needs", frozenset()) for rule in self.rules))

    @property
    def top(self) -> int:
        """Most likely tokens of each position that the rules look at, where they look at any."""
        return TOP if self.draw is None else getattr(self.draw.rule, "top", TOP)

    def sample_fields(self, plan: Plan, *, tells_tokens: bool) -> dict[str, Any]:
        """What the rules need of every upstream request of a sample's, beside log-probabilities.

        vLLM itself is let look for loops only where a loop in a thought does not cost the answer.

        Args:
            plan: The limits in force.
            tells_tokens: Whether the API tells token ids.
        """
        loops = next((rule for rule in self.rules if isinstance(rule, Repetition)), None)
        if loops is None or not tells_tokens:
            return {}
        look = plan.resumes or not plan.thinks
        return {"return_token_ids": True} | ({"repetition_detection": loops.engine_field()} if look else {})


def make_rules(wishes: Wishes, plan: Plan, lengths: RouteLengths | None) -> RuleSet:
    """Build what was wished for, as far as the plan says that it can be applied.

    Args:
        wishes: What was asked for.
        plan: The limits in force.
        lengths: How long thoughts and answers of the same route were.
    """
    rules: list[Rule] = []
    draw = None
    if wishes.sampling is not None:
        draw = draw_of(wishes, wishes.sampling, plan.most_samples)
        rules.append(draw)
    reserve = plan.limits.get("answer_reserve")
    setting = Setting(
        thinking_tokens=plan.thinking_tokens,
        sample_tokens=plan.sample_tokens,
        answer_reserve=0 if reserve is None else reserve.value,
        deadline_s=plan.deadline_s,
        lengths=lengths,
    )
    applied = applied_guards(wishes, plan)
    exits: AuditedExit | None = None
    for rule in stopping_rules(wishes, setting):
        if rule.name in applied:
            rules.append(rule)
        elif rule.name not in wishes.guards and exits_here(wishes, plan):
            exits = AuditedExit(rule) if audits_exit(wishes) else None
            rules.append(exits or rule)
    reads = draw is not None or Need.PROBES in wishes.needs
    return RuleSet(rules=rules, draw=draw, reader=reader_of(wishes) if reads else None, exits=exits)


def applied_guards(wishes: Wishes, plan: Plan) -> Mapping[str, dict[str, Any]]:
    """The guards that run: all where thoughts can be closed; on a model without thoughts those that watch answers."""
    if plan.close_by is not ThinkingCap.NONE:
        return wishes.guards
    return {} if plan.thinks else {name: given for name, given in wishes.guards.items() if name in _ANSWER_GUARDS}


def exits_here(wishes: Wishes, plan: Plan) -> bool:
    """Whether an early-exit rule runs in the gateway."""
    return wishes.early_exit is not None and not wishes.in_engine and plan.close_by is not ThinkingCap.NONE


def audits_exit(wishes: Wishes) -> bool:
    """Whether the early-exit rule is audited; one without probes has no answer to be judged by."""
    return wishes.audited and Need.PROBES in wishes.needs


def audits_vote(wishes: Wishes) -> bool:
    """Whether the sampling rule is audited: the one that learns from full votes must see some."""
    return wishes.audited and wishes.sampling is not None and wishes.sampling.rule == Bayesian.name


def stopping_rules(wishes: Wishes, setting: Setting) -> list[StoppingRule]:
    """The guards and the early-exit rule that were wished for.

    Raises:
        InvalidBudget: One does not exist, or a parameter is unknown or out of range.
    """
    rules = [stopping.GUARDS.make(name, given, setting=setting) for name, given in wishes.guards.items()]
    if wishes.early_exit is not None:
        exits = wishes.early_exit
        rules.append(stopping.RULES.make(exits.rule, exits.parameters(), setting=setting))
    return rules


def draw_of(wishes: Wishes, wish: SamplingField, most: int) -> Draw:
    """The sampling rule that was wished for; raises as ``stopping_rules``."""
    rule = sampling.RULES.make(wish.rule, wish.parameters(), most=most, prior=wishes.prior)
    return Draw(AuditedVote(rule) if audits_vote(wishes) else rule, wave=wish.wave, most=most)


def reader_of(wishes: Wishes) -> Reader:
    """Reads answers of the kind that was named; without one, answers are compared as they stand."""
    if wishes.answer is None:
        return READERS.make("exact", {})
    given = wishes.answer.parameters()
    if wishes.answer.kind == JUDGE:
        unknown = next(iter(given.keys() - {"judge"}), None)
        if unknown is not None:
            raise InvalidBudget(f"judge takes no {unknown[:64]!r}", param=f"suffice.answer.{unknown[:64]}")
        return READERS.make("exact", {})
    options = given.pop("options", ())
    if not isinstance(options, list | tuple) or not all(isinstance(option, str) for option in options):
        raise InvalidBudget("suffice.answer.options must be an array of texts", param="suffice.answer.options")
    return READERS.make(wishes.answer.kind, given, options=options)
