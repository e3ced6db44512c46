"""Which rules a request is to run: its own field, then its preset, then what the operator runs for all.

Wishes are drafted before the plan, which must know what they live on, and become rules after it, which must know its
limits. A rule that cannot be applied is named in the receipt; one that does not exist is the client's error. What must
not be here: rules themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from suffice.policies.errors import InvalidBudget
from suffice.policies.plan import GUARDS, Draws, NotApplied
from suffice.policies.sampling.bayesian import Bayesian
from suffice.policies.stopping.family import Need, Setting, needs_of
from suffice.server.gateway.rulesets import JUDGE, draw_of, reader_of, stopping_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from suffice.policies.budget import Budget
    from suffice.policies.sampling import Draw, Prior
    from suffice.server.config import Config, JudgeSection
    from suffice.server.gateway.field import AnswerField, EarlyExitField, SamplingField, SufficeField


class Wanting(Protocol):
    """What a request says of limits and rules: a checked call, or the record of one."""

    @property
    def field(self) -> SufficeField:
        """The ``suffice`` field."""
        ...

    @property
    def samples(self) -> int:
        """``n``."""
        ...

    @property
    def prompts(self) -> Sequence[Any]:
        """The prompts."""
        ...

    @property
    def greedy(self) -> bool:
        """Whether it asks for temperature 0."""
        ...

    @property
    def sources(self) -> Sequence[tuple[str, Budget]]:
        """Limits in the standard fields, each with the field's name."""
        ...

    @property
    def effort(self) -> str | None:
        """``reasoning_effort`` and its likes."""
        ...

    @property
    def explicit_max(self) -> bool:
        """Whether the client itself named the length of an answer."""
        ...


NO_RULE = "none"
"""Name by which a request declines a rule that its preset or the operator would run."""

_MOST_FORECAST = 128
"""Largest vote that a learned prior is worked out for; the work grows with its square."""


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
        judge: The model that tells which answers are equal, where one does.
        prior: What past votes of the same kind taught, for the rule that learns.
        audited: Whether the request runs in full, its rules being asked only what they would have done.
        hints: What will not do what the caller may expect.
    """

    sampling: SamplingField | None
    early_exit: EarlyExitField | None
    answer: AnswerField | None
    guards: dict[str, dict[str, Any]]
    needs: frozenset[Need] = frozenset()
    engine_rules: frozenset[str] = frozenset()
    judge: JudgeSection | None = None
    prior: Prior | None = None
    audited: bool = False
    hints: tuple[NotApplied, ...] = ()

    @property
    def draws(self) -> Draws | None:
        """Sampling, as the plan needs to know it."""
        wish = self.sampling
        return None if wish is None else Draws(most=wish.most, first=lambda most: draw_of(self, wish, most).first)

    @property
    def closer(self) -> str:
        """What the rules that close thoughts are called in a receipt that says they could not be applied."""
        return "early_exit" if self.early_exit is not None else GUARDS

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

    @property
    def token_wise(self) -> tuple[str, ...]:
        """The sampling rule, where it lives on the likeliest tokens of each position."""
        return (self.sampling.rule,) if self.sampling is not None and Need.TOP_LOGPROBS in self.needs else ()

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


def wishes_of(
    config: Config,
    call: Wanting,
    preset: str,
    engine_rules: frozenset[str],
    *,
    prior_of: Callable[[str], Prior | None] | None = None,
    audited: bool = False,
) -> Wishes:
    """Merge the sources; the nearest to the request wins, and it can decline with the rule ``none``.

    Args:
        config: The operator's file.
        call: What the request says.
        preset: The preset in force.
        engine_rules: Rules that upstream's engine can run.
        prior_of: What past votes taught, by kind of answer.
        audited: Whether the request was drawn for an audit.

    Raises:
        InvalidBudget: A rule, a parameter, a verifier, a judge or a kind of answer does not exist or is out of range,
            or ``n`` is asked for beside a sampling rule.
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
        guards={name: guard.parameters() for name, guard in (policies.guards | chosen.guards).items()},
        engine_rules=engine_rules,
    )
    # A draft of every rule finds faults before anything is reserved, and tells what the rules live on.
    reader_of(wishes)
    needs = needs_of(stopping_rules(wishes, Setting()))
    hints: tuple[NotApplied, ...] = ()
    prior = None
    drawn = wishes.sampling
    if drawn is not None:
        draft = draw_of(wishes, drawn, drawn.most)
        needs |= draft.needs
        hints = _sampling_hints(drawn, draft, config.policies.verifiers, greedy=call.greedy)
        if prior_of is not None and drawn.rule == Bayesian.name and drawn.most <= _MOST_FORECAST:
            prior = prior_of(answer_kind(wishes))
    return replace(
        wishes,
        needs=needs,
        judge=_judge(wishes, config.policies.judges),
        prior=prior,
        audited=audited,
        hints=hints,
    )


def answer_kind(wishes: Wishes) -> str:
    """How answers are read, by name."""
    return "exact" if wishes.answer is None else wishes.answer.kind


def _sampling_hints(
    wish: SamplingField, draw: Draw, verifiers: Mapping[str, Any], *, greedy: bool
) -> tuple[NotApplied, ...]:
    """What a caller may expect of its samples in vain.

    Raises:
        InvalidBudget: There is no such verifier, or the rule has no use for one.
    """
    param = "suffice.sampling.verifier"
    hints = []
    if wish.verifier is not None:
        if wish.verifier not in verifiers:
            known = ", ".join(sorted(verifiers)) or "none"
            raise InvalidBudget(f"no verifier is named {wish.verifier!r}; there are {known}", param=param)
        if not draw.rule.scored:
            raise InvalidBudget(f"{wish.rule} takes no verifier; best_of_n does", param=param)
    elif draw.rule.scored:
        why = "no verifier is named, so that no sample has a score and the first with an answer wins"
        hints.append(NotApplied(rule=wish.rule, why=why))
    if greedy:
        why = "temperature is 0: samples hardly differ, and equal samples agree whether they are right or not"
        hints.append(NotApplied(rule="sampling", why=why))
    return tuple(hints)


def _judge(wishes: Wishes, judges: Mapping[str, JudgeSection]) -> JudgeSection | None:
    name = judge_name(wishes)
    if name is None:
        return None
    if name not in judges:
        known = ", ".join(sorted(judges)) or "none"
        raise InvalidBudget(f"no judge is named {name[:64]!r}; there are {known}", param="suffice.answer.judge")
    return judges[name]


def judge_name(wishes: Wishes) -> str | None:
    """Name of the judge that was asked for."""
    if wishes.answer is None or wishes.answer.kind != JUDGE:
        return None
    return str(wishes.answer.parameters().get("judge", ""))
