"""Reads the answer out of a sample's text, as a key that equal answers share, and sorts keys into classes.

A reader is pure and total: ``read(text)`` gives a canonical key or None, in bounded time on any text, since only the
end of a long text is read, where answers stand. Keys are compared as texts; ``Classes`` turns them into the whole
numbers that vote rules compare. What must not be here: votes, and any model that judges equality.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from suffice.policies.answer_data import CodeReader, JsonReader, ToolCallReader
from suffice.policies.answer_text import ChoiceReader, NumberReader, answer_part, squeezed
from suffice.policies.errors import InvalidBudget
from suffice.policies.patterns import BadPattern, LinearPattern
from suffice.policies.rules import Kind, Parameter, Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["READERS", "Classes", "Reader"]

MOST_MATCHED = 2_000
"""Characters of a text's end that a pattern of the caller's is matched with."""


class Reader(Protocol):
    """Reads answers of one kind."""

    def read(self, text: str) -> str | None:
        """The canonical answer in a text; None where there is none. Never raises."""
        ...


class ExactReader:
    """The whole answer, without regard to case, spacing and final full stops."""

    def read(self, text: str) -> str | None:
        """The text in lower case with single spaces."""
        return squeezed(answer_part(text)) or None


class RegexReader:
    """What a pattern of the caller's finds: its group ``answer``, or its first group, or all of it.

    Lines are tried from the last to the first, and the first match of a line counts; a pattern does not see beyond its
    line. The syntax is Python's without back-references and look-around, so that time is linear; see ``patterns``.

    Raises:
        InvalidBudget: The pattern is not supported; the message says what of it.
    """

    def __init__(self, *, pattern: str) -> None:
        if not pattern:
            raise InvalidBudget("an answer of kind regex needs a pattern", param="suffice.answer.pattern")
        try:
            self._pattern = LinearPattern(pattern)
        except BadPattern as error:
            raise InvalidBudget(f"suffice.answer.pattern: {error}", param="suffice.answer.pattern") from None

    def read(self, text: str) -> str | None:
        """The group that was found, stripped; None where it is empty."""
        for line in reversed(answer_part(text)[-MOST_MATCHED:].splitlines()):
            found = self._pattern.find(line)
            if found is not None:
                return found.strip() or None
        return None


def _kind(
    name: str, make: Callable[..., Reader], what: str, parameters: Mapping[str, Parameter] | None = None
) -> Kind[Reader]:
    def built(*, options: Sequence[str] = (), **values: Any) -> Reader:
        return make(options=options, **values) if name == "choice" else make(**values)

    return Kind(name=name, make=built, parameters=parameters or {}, what=what, guarantee="total, in bounded time")


_EXCLUDE = Parameter(default="", what="fields to leave out, with commas between them")

READERS: Registry[Reader] = Registry(
    "suffice.answer",
    {
        kind.name: kind
        for kind in (
            _kind(
                "number",
                NumberReader,
                "a number, however it is written",
                {"percent": Parameter(default="number", choices=("number", "fraction"), what="what 40% is: 40 or 0.4")},
            ),
            _kind(
                "choice",
                ChoiceReader,
                "a letter of a multiple choice",
                {"choices": Parameter(default=5, least=2, most=26, what="letters from A on")},
            ),
            _kind("exact", ExactReader, "the whole answer, without regard to case and spacing"),
            _kind(
                "regex",
                RegexReader,
                "what a pattern finds",
                {"pattern": Parameter(default="", what="a regular expression with a group for the answer")},
            ),
            _kind(
                "json",
                JsonReader,
                "a JSON value, without regard to order of keys and forms of numbers",
                {
                    "fields": Parameter(default="", what="top-level fields to compare, with commas between them"),
                    "exclude": _EXCLUDE,
                },
            ),
            _kind("tool_call", ToolCallReader, "names and arguments of tool calls", {"exclude": _EXCLUDE}),
            _kind("code", CodeReader, "code, without regard to comments and layout"),
        )
    },
    "kind",
)
"""Readers by name. Built with ``options``, the texts of a multiple choice's options, beside the parameters."""


class Classes:
    """Numbers the answers of one request in order of discovery, so that rules compare them without seeing any.

    Args:
        tolerance: Relative difference up to which two numbers are one answer. Each is compared with the first of a
            class, so a class never drifts.
    """

    def __init__(self, *, tolerance: float = 0.0) -> None:
        self._tolerance = tolerance
        self._known: dict[str, int] = {}
        self._firsts: list[str] = []
        self._values: list[float | None] = []

    def of(self, key: str | None) -> int | None:
        """The class of a key; a new one where it equals none that was met. O(classes) with a tolerance, else O(1)."""
        if key is None:
            return None
        known = self._known.get(key)
        if known is not None:
            return known
        value = _as_float(key) if self._tolerance > 0 else None
        number = self._near(value)
        if number is None:
            number = len(self._firsts)
            self._firsts.append(key)
            self._values.append(value)
        self._known[key] = number
        return number

    def _near(self, value: float | None) -> int | None:
        if value is None:
            return None
        for number, other in enumerate(self._values):
            if other is not None and abs(value - other) <= self._tolerance * max(abs(value), abs(other)):
                return number
        return None

    def alias(self, key: str, like: str) -> None:
        """Have a key that was not met yet count as one that was: a judge from outside found them equal.

        A judge must be asked before a key is first used, since votes that were cast cannot be moved.

        Raises:
            ValueError: The key has a class of its own already, or the other one has none.
        """
        target = self._known.get(like)
        if target is None or self._known.get(key, target) != target:
            raise ValueError("an answer cannot be merged into another after it was counted")
        self._known[key] = target

    def is_new(self, key: str) -> bool:
        """Whether a key has no class yet, so that a judge may still be asked."""
        return key not in self._known

    @property
    def keys(self) -> tuple[str, ...]:
        """The first key of every class, in order of discovery."""
        return tuple(self._firsts)


def _as_float(key: str) -> float | None:
    above, slash, below = key.partition("/")
    try:
        return float(above) / float(below) if slash else float(above)
    except (ValueError, OverflowError, ZeroDivisionError):
        return None
