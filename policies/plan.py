"""From what was asked and what is allowed to one immutable plan.

``make_plan`` is the only place where sources of limits meet: operator ceilings, the request's own field, the
standard fields, the preset and the defaults. The plan says what holds, who set it, and how thinking is capped. What
must not be here: names of HTTP fields' owners beyond the labels shown in a receipt, and any I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from suffice.policies.budget import Bound, Budget, tightest
from suffice.policies.errors import InvalidBudget, PromptTooLong

if TYPE_CHECKING:
    from collections.abc import Callable


class ThinkingCap(StrEnum):
    """Who closes a thought that reaches its limit."""

    ENGINE = "engine"
    """vLLM forces the end of the thought (``thinking_token_budget``)."""
    GATEWAY = "gateway"
    """The gateway ends the segment there, and resumes it with the thought closed."""
    NONE = "none"
    """Nobody needs to, or nobody can; the receipt tells which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of the model that will answer.

    Attributes:
        context: Longest prompt and answer together, in tokens; None where upstream does not say.
        thinks: Whether it has tokens that open and close a thought.
        engine_cap: Whether upstream accepts ``thinking_token_budget``.
        engine_signal: Whether the engine takes decisions about running requests from the gateway.
        engine_rules: Rules that run inside the engine.
        close_tokens: How many tokens closing a thought costs when the engine forces it.
    """

    context: int | None = None
    thinks: bool = False
    engine_cap: bool = False
    engine_signal: bool = False
    engine_rules: frozenset[str] = frozenset()
    close_tokens: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiFacts:
    """What one API lets the gateway do for a request.

    Attributes:
        samples: Whether the API knows several samples.
        engine_cap_min: Smallest thinking limit that the API can pass to the engine; None where it passes none.
        can_resume: Whether a cut generation can be resumed by token ids without losing a parser of upstream's.
        tells_tokens: Whether its stream tells token ids and running counts, which rules inside a sample live on.
        no_cap_reason: Why thinking cannot be capped here, for the receipt, when it cannot.
    """

    samples: bool = True
    engine_cap_min: int | None = 0
    can_resume: bool = True
    tells_tokens: bool = True
    no_cap_reason: str = "this API passes no thinking budget to the engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Sampling that a rule ends.

    Attributes:
        most: Samples drawn at most.
        first: How many of them to launch at the start, given how many may be drawn at most.
    """

    most: int
    first: Callable[[int], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotApplied:
    """A rule that was asked for and could not be applied, with the reason, for the receipt."""

    rule: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the request asks for, after its shapes were checked.

    Attributes:
        samples: ``n``, for each prompt; 1 where the request names none.
        prompt_tokens: An upper estimate of the length of all prompts.
        prompt_exact: Whether that is the exact length.
        explicit_length: Whether the caller named the length of an answer in a standard field.
        prompts: Prompts in the request (the completions API takes several); each gets ``samples``.
        sources: Limits by source, in order of authority; operator ceilings first.
        reserve_default: Answer reserve where no source names one, as far as the total allows.
        draws: Sampling by a rule, where one was asked for.
        probes: Whether a rule takes probes.
        closes: Whether a rule may close a thought before its cap.
        extends: Whether a rule may reopen a thought that ended by itself.
        in_engine: Rules that only the engine can run.
        closer: What the rules that close thoughts are called, where they cannot be applied.
        judge_tokens: Tokens that a judge of answers' equality may generate for one vote; 0 without one.
        token_wise: Rules beside them that live on log-probabilities of single tokens.
        hints: What was found already that cannot be applied, or will not do what the caller may expect.
    """

    samples: int
    prompt_tokens: int
    prompt_exact: bool = False
    prompts: int = 1
    explicit_length: bool = False
    sources: tuple[tuple[str, Budget], ...] = ()
    reserve_default: int = 256
    draws: Draws | None = None
    probes: bool = False
    closes: bool = False
    extends: bool = False
    in_engine: tuple[str, ...] = ()
    closer: str = "early_exit"
    judge_tokens: int = 0
    token_wise: tuple[str, ...] = ()
    hints: tuple[NotApplied, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that was decided before the first token.

    Attributes:
        samples: Samples to launch at the start.
        most_samples: Samples that may ever be launched.
        total_tokens: Tokens that all samples together may generate.
        sample_tokens: Tokens that one sample may generate.
        thinking_tokens: Tokens that one thought may take; None where thinking is not capped.
        thinking_cap: Who closes a thought.
        close_tokens: Tokens that closing a thought takes.
        deadline_s: Seconds from receipt to the end of the answer.
        prompts: Prompts; sample ``i`` answers prompt ``i * prompts // samples``.
        prompt_tokens: Upper estimate of the length of all prompts.
        limits: Every limit in force with its source.
        not_applied: What could not be applied, and why.
        probe_tokens: The part of the total that is set aside for probes and for a judge of answers.
        judge_tokens: Tokens that a judge may generate for one vote, as far as there are any.
        resumes: Whether a cut generation can be resumed without losing a parser of upstream's.
        close_by: Who closes a thought that a rule has had enough of; NONE where nobody can.
        votes: Whether the samples' answers are read and counted.
        pause_at_close: Whether generation pauses where the model closes its thought.
    """

    samples: int
    most_samples: int
    total_tokens: int
    sample_tokens: int
    thinking_tokens: int | None
    thinking_cap: ThinkingCap
    deadline_s: float | None
    prompts: int
    prompt_tokens: int
    limits: dict[str, Bound]
    not_applied: tuple[NotApplied, ...] = ()
    probe_tokens: int = 0
    close_by: ThinkingCap = ThinkingCap.GATEWAY
    votes: bool = False
    pause_at_close: bool = False
    close_tokens: int = 0
    judge_tokens: int = 0
    resumes: bool = True

    def prompt_of(self, sample: int) -> int:
        """Which prompt a sample answers; samples that a rule draws later answer the only one."""
        return sample * self.prompts // self.samples if self.prompts > 1 else 0

    @property
    def thinks(self) -> bool:
        """Whether the model has tokens that open and close a thought."""
        return self.close_tokens > 0

    @property
    def answer_reserve(self) -> int:
        """Tokens of each sample that are kept for its answer; 1 where nothing reserves any."""
        reserve = self.limits.get("answer_reserve")
        return 1 if reserve is None else reserve.value

    @property
    def binding_limit(self) -> str:
        """Which limit a sample that ran to its end ran into."""
        sample = self.limits.get("sample_tokens")
        return "total_tokens" if sample is None or sample.value > self.sample_tokens else "sample_tokens"

    @property
    def worst_case_tokens(self) -> int:
        """Prompt and generated tokens to reserve before anything is sent upstream."""
        return self.prompt_tokens + self.total_tokens


DEFAULT_TOTAL = Budget(sample_tokens=4096)
"""Ceiling of a sample when nobody names one: vLLM's own default is all of the context, which starves its neighbours."""


def make_plan(asked: Asked, model: ModelFacts, api: ApiFacts) -> Plan:
    """Merge all limits into a plan.

    A sample gets an equal share of the total, so that all of a launch may run at once and the sum still holds.

    Raises:
        InvalidBudget: The limits leave no room for an answer.
    """
    limits = tightest(*asked.sources)
    if "sample_tokens" not in limits and "total_tokens" not in limits:
        limits["sample_tokens"] = Bound(value=DEFAULT_TOTAL.sample_tokens or 0, source="default")
    most = _samples(asked, limits) * asked.prompts
    first = most if asked.draws is None else max(1, min(asked.draws.first(most), most))
    if model.context is not None:
        # A length that the caller named stands or is refused by upstream; any other is fitted to the context.
        room = model.context if asked.explicit_length else model.context - asked.prompt_tokens // asked.prompts
        if room < 1 and asked.prompt_exact:
            raise PromptTooLong(
                f"the prompt has {asked.prompt_tokens} tokens and the model's context {model.context}", param="messages"
            )
        _bound(limits, "sample_tokens", Bound(value=max(room, 1), source="model"))
    total = limits["total_tokens"].value if "total_tokens" in limits else most * limits["sample_tokens"].value
    not_applied, close_by = _closing(asked, model, api)
    not_applied += tuple(
        NotApplied(rule=rule, why="upstream does not run it: it needs suffice's plugin in the engine")
        for rule in asked.in_engine
        if rule not in model.engine_rules
    )
    if not api.tells_tokens:
        why = "this API's stream tells no log-probabilities, so that all votes weigh the same"
        not_applied += tuple(NotApplied(rule=rule, why=why) for rule in asked.token_wise)
    probing = (asked.probes and close_by is not ThinkingCap.NONE) or asked.judge_tokens > 0
    # Samples that a rule may never draw need no share now: each wave divides what the ones before it left.
    share = total // first
    probes = share // PROBE_SHARE if probing else 0
    if share - probes < 1:
        param = limits["total_tokens"].source if "total_tokens" in limits else "total_tokens"
        raise InvalidBudget(
            f"total_tokens of {total} (set by {param}) leaves nothing for each of {first} samples",
            param="suffice.budget.total_tokens",
        )
    sample_tokens = min(limits["sample_tokens"].value, share) if "sample_tokens" in limits else share
    probes = sample_tokens // PROBE_SHARE if probing else 0
    sample_tokens -= probes
    fits = sample_tokens
    if model.context is not None and asked.prompt_exact:
        # A length that the caller named may be more than the context has left; the answer must fit all the same.
        fits = max(1, min(fits, model.context - asked.prompt_tokens // asked.prompts))
    thinking, cap, uncapped = _thinking(limits, fits, asked.reserve_default, model, api)
    deadline = limits.get("deadline_ms")
    return Plan(
        samples=first,
        most_samples=most,
        total_tokens=min(total, most * (sample_tokens + probes)),
        sample_tokens=sample_tokens,
        thinking_tokens=thinking,
        thinking_cap=cap,
        deadline_s=None if deadline is None else deadline.value / 1000,
        prompts=asked.prompts,
        prompt_tokens=asked.prompt_tokens,
        limits=limits,
        not_applied=(*uncapped, *not_applied, *asked.hints),
        probe_tokens=most * probes if most * (sample_tokens + probes) <= total else first * probes,
        close_by=close_by,
        votes=asked.draws is not None,
        pause_at_close=asked.extends and close_by is not ThinkingCap.NONE and api.can_resume,
        close_tokens=model.close_tokens if model.thinks else 0,
        judge_tokens=asked.judge_tokens,
        resumes=api.can_resume,
    )


GUARDS = "guards"
"""What the operator's own rules are called where they cannot be applied."""

PROBE_SHARE = 8
"""Probes may take one part in this many of a sample's tokens; what they leave is charged to nobody."""


def _closing(asked: Asked, model: ModelFacts, api: ApiFacts) -> tuple[tuple[NotApplied, ...], ThinkingCap]:
    """Who closes a thought early, or why nobody does. The engine's way comes first: it needs no abort and no resume."""
    if not (asked.closes or asked.probes or asked.extends):
        return (), ThinkingCap.GATEWAY if api.can_resume else ThinkingCap.NONE
    if not model.thinks:
        missing = NotApplied(rule=asked.closer, why="the model has no thinking tokens")
        # The gateway's guards are for any model; on one that does not think those that watch thoughts have no work.
        return () if asked.closer == GUARDS else (missing,), ThinkingCap.NONE
    if not api.tells_tokens:
        return (NotApplied(rule=asked.closer, why="this API's stream tells no token ids"),), ThinkingCap.NONE
    if model.engine_signal:
        return (), ThinkingCap.ENGINE
    if api.can_resume:
        return (), ThinkingCap.GATEWAY
    why = "resuming would lose a parser of upstream's, and the engine takes no signals"
    return (NotApplied(rule=asked.closer, why=why),), ThinkingCap.NONE


def _bound(limits: dict[str, Bound], name: str, bound: Bound) -> None:
    held = limits.get(name)
    if held is None or bound.value < held.value:
        limits[name] = bound


def _samples(asked: Asked, limits: dict[str, Bound]) -> int:
    """Samples of each prompt: ``n``, lowered to a ceiling of the operator's, refused above the request's own."""
    ceiling = limits.get("samples")
    if asked.draws is not None:
        return asked.draws.most if ceiling is None else min(asked.draws.most, ceiling.value)
    if ceiling is None or asked.samples <= ceiling.value:
        return asked.samples
    if ceiling.source == "request":
        raise InvalidBudget(
            f"n is {asked.samples} but suffice.budget.samples allows {ceiling.value}",
            param="suffice.budget.samples",
        )
    return ceiling.value


def _thinking(
    limits: dict[str, Bound], sample_tokens: int, reserve_default: int, model: ModelFacts, api: ApiFacts
) -> tuple[int | None, ThinkingCap, tuple[NotApplied, ...]]:
    """Limit of one thought, who enforces it, and what could not be.

    The cap is ``min(asked, sample - reserve - closing)``: what a thought may take so that the closing tokens and the
    answer still fit. The reserve that nobody named shrinks with small budgets, to a quarter of them.
    """
    asked_cap = limits.get("thinking_tokens")
    if not model.thinks:
        missing = (
            ()
            if asked_cap is None or asked_cap.source in _IMPLIED
            else (NotApplied(rule="thinking_tokens", why="the model has no thinking tokens"),)
        )
        return None, ThinkingCap.NONE, missing
    named = limits.get("answer_reserve")
    reserve = min(reserve_default, sample_tokens // 4) if named is None else named.value
    reserve = max(reserve, 1)
    room = sample_tokens - reserve - model.close_tokens
    if room < 0 and named is not None:
        raise InvalidBudget(
            f"answer_reserve of {reserve} does not fit into {sample_tokens} tokens of a sample",
            param="suffice.budget.answer_reserve",
        )
    if room < 0 and "total_tokens" in limits and limits["total_tokens"].source == "request":
        least = reserve + model.close_tokens
        raise InvalidBudget(
            f"total_tokens leaves {sample_tokens} for a sample; closing its thought and answering takes {least}",
            param="suffice.budget.total_tokens",
        )
    # A tiny standard field (max_tokens: 1 of a health check) is honoured as OpenAI honours it: cut by length.
    room = max(room, 0)
    if named is None:
        limits["answer_reserve"] = Bound(value=reserve, source="default")
    if asked_cap is None or room < asked_cap.value:
        limits["thinking_tokens"] = Bound(value=room, source="answer_reserve")
    cap = limits["thinking_tokens"].value
    if model.engine_cap and api.engine_cap_min is not None and cap >= api.engine_cap_min:
        return cap, ThinkingCap.ENGINE, ()
    if api.can_resume:
        return cap, ThinkingCap.GATEWAY, ()
    return None, ThinkingCap.NONE, (NotApplied(rule="thinking_tokens", why=api.no_cap_reason),)


_IMPLIED = frozenset({"preset", "reasoning_effort", "default"})
"""Sources that speak of thinking to any model; on one that does not think there is nothing to report."""
