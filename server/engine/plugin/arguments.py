"""What a request asks of the engine: flat keys in ``vllm_xargs``, checked strictly before the request is admitted.

    suffice_rules             "engine_entropy:threshold=0.2;repetition": rules by name with their parameters
    suffice_thinking_tokens   the thought is closed at this many tokens; a signal can move it while it runs
    suffice_slot              line of the signal table that the request listens to, with
    suffice_nonce             a fresh random number from 1 to 2**53 - 1, which tells it from the slot's other tenants
    suffice_think_start       token ids that open and
    suffice_think_end         that close a thought, where the engine was not told them by ``--reasoning-config``
    suffice_step_ids          ids of the tokens that end a sentence or a line, for rules that go by steps

Keys are flat because vLLM takes nothing else there. What must not be here: torch, vLLM.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suffice.policies.errors import InvalidBudget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from suffice.policies.rules import Value

PREFIX = "suffice_"
SLOTS = 4096
"""Slots in a signal table."""
MAX_NONCE = 2**53 - 1
"""So that every JSON reader keeps it exact."""
MAX_TOKENS = 2**32 - 1
MAX_RULES = 8
MAX_MARK_TOKENS = 32
MAX_STEP_IDS = 4096
_MAX_TOKEN_ID = 2**31 - 1
_MAX_TEXT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """One request's wishes.

    Attributes:
        rules: Names of rules with the parameters given, in order.
        thinking_tokens: Most tokens of the thought; None where it is not capped here.
        slot: Slot of the signal table; None where the request takes no signals.
        nonce: What tells it from the slot's other tenants; 0 without a slot.
        think_start: Ids that open a thought; empty for the engine's own.
        think_end: Ids that close one; empty for the engine's own.
        step_ids: Ids of the tokens that end a step of a thought.
    """

    rules: tuple[tuple[str, dict[str, Value]], ...] = ()
    thinking_tokens: int | None = None
    slot: int | None = None
    nonce: int = 0
    think_start: tuple[int, ...] = ()
    think_end: tuple[int, ...] = ()
    step_ids: tuple[int, ...] = ()


def read_arguments(extra: Mapping[str, Any] | None) -> Arguments | None:
    """The request's wishes, or None where it has none.

    Raises:
        InvalidBudget: An unknown key, a value of a wrong type or out of range, or a key without its partner.
    """
    if not extra:
        return None
    given = {key: value for key, value in extra.items() if isinstance(key, str) and key.startswith(PREFIX)}
    if not given:
        return None
    for key in given:
        if key not in _KEYS:
            close = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_KEYS)}"
            raise InvalidBudget(f"vllm_xargs has no {key[:64]!r}; {hint}", param=_path(key))
    if ("suffice_slot" in given) != ("suffice_nonce" in given):
        raise InvalidBudget("suffice_slot and suffice_nonce go together", param=_path("suffice_slot"))
    return Arguments(
        rules=_rules(given["suffice_rules"]) if "suffice_rules" in given else (),
        thinking_tokens=_integer(given, "suffice_thinking_tokens", 0, MAX_TOKENS),
        slot=_integer(given, "suffice_slot", 0, SLOTS - 1),
        nonce=_integer(given, "suffice_nonce", 1, MAX_NONCE) or 0,
        think_start=_token_ids(given, "suffice_think_start", MAX_MARK_TOKENS),
        think_end=_token_ids(given, "suffice_think_end", MAX_MARK_TOKENS),
        step_ids=_token_ids(given, "suffice_step_ids", MAX_STEP_IDS),
    )


_KEYS = (
    "suffice_rules",
    "suffice_thinking_tokens",
    "suffice_slot",
    "suffice_nonce",
    "suffice_think_start",
    "suffice_think_end",
    "suffice_step_ids",
)


def _path(key: str) -> str:
    return f"vllm_xargs.{key[:64]}"


def _is_integer(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _integer(given: Mapping[str, Any], key: str, least: int, most: int) -> int | None:
    if key not in given:
        return None
    value = given[key]
    if not _is_integer(value, least, most):
        raise InvalidBudget(f"{key} must be a whole number from {least} to {most}", param=_path(key))
    checked: int = value
    return checked


def _token_ids(given: Mapping[str, Any], key: str, most: int) -> tuple[int, ...]:
    if key not in given:
        return ()
    value = given[key]
    ids = value if isinstance(value, list) else [value]
    if not 1 <= len(ids) <= most or not all(_is_integer(one, 0, _MAX_TOKEN_ID) for one in ids):
        raise InvalidBudget(f"{key} must be a token id or a list of up to {most}", param=_path(key))
    return tuple(ids)


def _rules(text: Any) -> tuple[tuple[str, dict[str, Value]], ...]:
    param = _path("suffice_rules")
    if not isinstance(text, str) or not 0 < len(text) <= _MAX_TEXT:
        raise InvalidBudget(f"suffice_rules must be a text of up to {_MAX_TEXT} characters", param=param)
    parts = text.split(";")
    if len(parts) > MAX_RULES:
        raise InvalidBudget(f"suffice_rules names {len(parts)} rules; the most is {MAX_RULES}", param=param)
    rules: list[tuple[str, dict[str, Value]]] = []
    for part in parts:
        name, _, tail = part.partition(":")
        parameters: dict[str, Value] = {}
        for pair in tail.split(",") if tail else ():
            key, equals, value = pair.partition("=")
            if not key or not equals or key in parameters:
                raise InvalidBudget(f"suffice_rules: {pair[:64]!r} is not one more name=value", param=param)
            parameters[key] = _value(value)
        if not name or any(name == other for other, _ in rules):
            raise InvalidBudget("suffice_rules names a rule twice or leaves a name empty", param=param)
        rules.append((name, parameters))
    return tuple(rules)


def _value(text: str) -> Value:
    """A number, a truth value or else a text, as it stands."""
    if text in {"true", "false"}:
        return text == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    return text
