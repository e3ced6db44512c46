"""Rules for one request, made from what it asks: the very objects that run in the gateway and in replay.

What can run here are the rules that hear of chunks and of nothing else, and live on what the engine can tell: ids and
measurements, not probes, text or time. What must not be here: any rule.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from suffice.policies.events import Chunk
from suffice.policies.rules import Kind, Parameter, Registry
from suffice.policies.stopping import GUARDS, RULES, Need, Setting, StoppingRule
from suffice.policies.stopping.length import Length

if TYPE_CHECKING:
    from suffice.server.engine.plugin.arguments import Arguments

MEASURED = frozenset({Need.ENTROPIES, Need.CLOSE_LOGPROB, Need.TOP_LOGPROBS})
"""What is measured on the logits."""
KNOWN = MEASURED | {Need.TOKEN_IDS}
"""All that the engine can tell a rule."""


def _length(*, thought_tokens: int, answer_tokens: int, setting: Setting) -> Length:  # noqa: ARG001 - as its family
    return Length.at(thought_tokens or None, answer_tokens or None)


_LENGTH: Kind[StoppingRule] = Kind(
    name=Length.name,
    make=_length,
    parameters={
        "thought_tokens": Parameter(default=0, least=0, most=10_000_000, what="longest thought let be; 0 for any"),
        "answer_tokens": Parameter(default=0, least=0, most=10_000_000, what="longest answer let be; 0 for any"),
    },
    what="ends what is longer than the gateway found the route's thoughts or answers to be",
    guarantee="exact: at the token that exceeds the length",
)
"""The gateway has the past lengths; the engine is told what follows from them."""


@cache
def registry() -> Registry[StoppingRule]:
    """The rules that can run in the engine."""
    kinds: dict[str, Kind[StoppingRule]] = {Length.name: _LENGTH}
    for family in (RULES, GUARDS):
        for name, kind in family.kinds.items():
            rule = family.make(name, {}, setting=Setting())
            if rule.listens == {Chunk} and rule.needs <= KNOWN:
                kinds.setdefault(name, kind)
    return Registry("vllm_xargs.suffice_rules", kinds)


def make_rules(asked: Arguments, *, thinking_tokens: int | None, max_tokens: int | None) -> tuple[StoppingRule, ...]:
    """The rules that a request asks for.

    Args:
        asked: The request's wishes.
        thinking_tokens: The cap on its thought, whoever holds it.
        max_tokens: The most it may generate.

    Raises:
        InvalidBudget: No such rule or parameter, or a value out of range.
    """
    setting = Setting(
        thinking_tokens=thinking_tokens, sample_tokens=max_tokens, step_ids=frozenset(asked.step_ids)
    )  # fmt: skip
    return tuple(registry().make(name, given, setting=setting) for name, given in asked.rules)


def measures(rules: tuple[StoppingRule, ...]) -> bool:
    """Whether any of them lives on the logits."""
    return any(rule.needs & MEASURED for rule in rules)


def reads_confidence(rules: tuple[StoppingRule, ...]) -> bool:
    """Whether any of them lives on confidences."""
    return any(Need.TOP_LOGPROBS in rule.needs for rule in rules)
