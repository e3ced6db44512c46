"""Which rules a request is to run: its own field, then its preset, then what the operator runs for all.

Wishes are drafted before the plan, which must know what they live on, and become rules after it, which must know its
limits. A rule that cannot be applied is named in the receipt; one that does not exist is the client's error. What must
not be here: rules themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from suffice.policies import sampling, stopping
from suffice.policies.answers import READERS
from suffice.policies.errors import InvalidBudget
from suffice.policies.plan import Draws, ThinkingCap
from suffice.policies.sampling import Draw
from suffice.policies.stopping.family import Need, Setting, needs_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from suffice.policies.answers import Reader
    from suffice.policies.chain import Rule
    from suffice.policies.plan import Plan
    from suffice.policies.stopping.family import StoppingRule
    from suffice.policies.stopping.lengths import RouteLengths
    from suffice.server.config import Config
    from suffice.server.gateway.dialects.base import Call
    from suffice.server.gateway.field import AnswerField, EarlyExitField, SamplingField

NO_RULE = "none"
"""Name by which a request declines a rule that its preset or the operator would run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """Rules that were asked for, by family; None where nobody asked.

    Attributes:
        sampling: When enough samples are drawn.
        early_exit: When one sample has thought enough.
        answer: How answers are read.
        guards: Rules that run beside them, with their parameters.
        needs: What all of them live on.
        engine_rules: Rules that upstream's engine can run.
    """

    sampling: SamplingField | None
    early_exit: EarlyExitField | None
    answer: AnswerField | None
    guards: dict[str, dict[str, Any]]
    needs: frozenset[Need] = frozenset()
    engine_rules: frozenset[str] = frozenset()

    @property
    def draws(self) -> Draws | None:
        """Sampling, as the plan needs to know it."""
        wish = self.sampling
        return None if wish is None else Draws(most=wish.most, first=lambda most: _draw(wish, most).first)

    @property
    def in_engine(self) -> tuple[str, ...]:
        """Rules that run inside the engine: those that only it can run, and those that have no lag there."""
        rule = self.early_exit
        if rule is None:
            return ()
        can = rule.rule in self.engine_rules and rule.home != "gateway"
        return (rule.rule,) if can or Need.ENTROPIES in self.needs else ()

    @property
    def closes(self) -> bool:
        """Whether a rule of the gateway's may close a thought before its cap."""
        return bool(self.guards) or (self.early_exit is not None and not self.in_engine)

    def engine_arguments(self, step_ids: list[int]) -> dict[str, Any]:
        """The rules for the engine, as ``vllm_xargs``; empty where there is none."""
        if not self.in_engine or self.early_exit is None:
            return {}
        given = ",".join(f"{name}={value}" for name, value in self.early_exit.parameters().items())
        rules = f"{self.early_exit.rule}:{given}" if given else self.early_exit.rule
        return {"suffice_rules": rules} | ({"suffice_step_ids": step_ids} if step_ids else {})

    @property
    def one_shown(self) -> bool:
        """Whether the client sees the winner only."""
        return self.sampling is not None and self.sampling.returns == "winner"


def wishes_of(config: Config, call: Call, preset: str, engine_rules: frozenset[str]) -> Wishes:
    """Merge the sources; the nearest to the request wins, and it can decline with the rule ``none``.

    Raises:
        InvalidBudget: A rule, a parameter or a kind of answer does not exist or is out of range, or ``n`` is asked
            for beside a sampling rule.
    """
    asked, chosen, policies = call.field, config.presets[preset], config.policies
    drawing = asked.sampling or chosen.sampling or policies.sampling
    leaving = asked.early_exit or chosen.early_exit or policies.early_exit
    if call.samples > 1 or len(call.prompts) > 1:
        if asked.sampling is not None and asked.sampling.rule != NO_RULE:
            raise InvalidBudget("n and several prompts cannot be combined with suffice.sampling", param="n")
        drawing = None
    wishes = Wishes(
        sampling=None if drawing is None or drawing.rule == NO_RULE else drawing,
        early_exit=None if leaving is None or leaving.rule == NO_RULE else leaving,
        answer=asked.answer or chosen.answer or policies.answer,
        guards={name: guard.parameters() for name, guard in policies.guards.items()},
    )
    # A draft of every rule finds faults before anything is reserved, and tells what the rules live on.
    _reader(wishes)
    needs = needs_of(_stopping(wishes, Setting()))
    if wishes.sampling is not None:
        needs |= getattr(_draw(wishes.sampling, wishes.sampling.most).rule, "needs", frozenset())
    return Wishes(
        sampling=wishes.sampling,
        early_exit=wishes.early_exit,
        answer=wishes.answer,
        guards=wishes.guards,
        needs=needs,
        engine_rules=engine_rules,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """The rules of one request.

    Attributes:
        rules: All of them, in order of precedence.
        draw: The one that draws samples and knows the winner.
        reader: Reads answers, where a rule compares any.
    """

    rules: Sequence[Rule] = ()
    draw: Draw | None = None
    reader: Reader | None = None


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
        draw = _draw(wishes.sampling, plan.most_samples)
        rules.append(draw)
    reserve = plan.limits.get("answer_reserve")
    setting = Setting(
        thinking_tokens=plan.thinking_tokens,
        sample_tokens=plan.sample_tokens,
        answer_reserve=0 if reserve is None else reserve.value,
        deadline_s=plan.deadline_s,
        lengths=lengths,
    )
    if plan.close_by is not ThinkingCap.NONE:
        rules += [rule for rule in _stopping(wishes, setting) if rule.name not in wishes.in_engine]
    reads = draw is not None or Need.PROBES in wishes.needs
    return RuleSet(rules=rules, draw=draw, reader=_reader(wishes) if reads else None)


def _stopping(wishes: Wishes, setting: Setting) -> list[StoppingRule]:
    rules = [stopping.GUARDS.make(name, given, setting=setting) for name, given in wishes.guards.items()]
    if wishes.early_exit is not None:
        exits = wishes.early_exit
        rules.append(stopping.RULES.make(exits.rule, exits.parameters(), setting=setting))
    return rules


def _draw(wish: SamplingField, most: int) -> Draw:
    rule = sampling.RULES.make(wish.rule, wish.parameters(), most=most)
    return Draw(rule, wave=wish.wave, most=most)


def _reader(wishes: Wishes) -> Reader:
    """Reads answers of the kind that was named; without one, answers are compared as they stand."""
    if wishes.answer is None:
        return READERS.make("exact", {})
    given = wishes.answer.parameters()
    options = given.pop("options", ())
    if not isinstance(options, list | tuple) or not all(isinstance(option, str) for option in options):
        raise InvalidBudget("suffice.answer.options must be an array of texts", param="suffice.answer.options")
    return READERS.make(wishes.answer.kind, given, options=options)
