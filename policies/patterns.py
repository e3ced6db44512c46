"""Regular expressions that cannot be made to hang: matched in time linear in the text, whatever the pattern.

Patterns come with requests, and Python's own matcher takes exponential time on some. Here all ways to match advance
together, one character at a time (Thompson 1968; Pike's variant keeps the groups), with the same meaning: leftmost,
first alternative first. The syntax is Python's without what needs memory of the past: no back-references, look-around,
possessive or atomic groups. What must not be here: what a match means.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_PATTERN = 300
"""Characters of a pattern."""
MOST_STEPS = 120
"""Instructions that it may compile to; ``{m,n}`` counts as so many copies."""

_Place = tuple[int, int]
"""Where the wanted group began and ended; -1 where it did not."""


class BadPattern(ValueError):
    """The pattern is no regular expression, too large, or uses what cannot be matched in linear time."""


@dataclass(slots=True)
class _Step:
    """One instruction: test a character, or go on without one."""

    kind: str
    test: Callable[[str], bool] | None = None
    to: tuple[int, ...] = ()
    """Where to go on, first choice first."""
    at: Any = None
    """Which position to require, or which end of the wanted group this is."""


class LinearPattern:
    """A compiled pattern.

    Args:
        pattern: Its text. Of groups only the first is kept, or the one named ``answer``; without any, the whole match.

    Raises:
        BadPattern: See there.
    """

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MOST_PATTERN:
            raise BadPattern(f"a pattern may have {MOST_PATTERN} characters")
        try:
            tree = parser.parse(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise BadPattern(f"not a regular expression: {error}") from None
        self._steps: list[_Step] = []
        self._group = tree.state.groupdict.get("answer", 1 if tree.state.groups > 1 else 0)
        if self._group == 0:
            self._emit(_Step("save", at=0))
        self._compile(tree, tree.state.flags)
        if self._group == 0:
            self._emit(_Step("save", at=1))
        self._emit(_Step("match"))

    def find(self, line: str) -> str | None:
        """The wanted group of the leftmost match in a line; None without a match or where the group took no part.

        Costs at most ``len(line) * MOST_STEPS`` steps.
        """
        threads: dict[int, _Place] = {}
        passed: set[int] = set()
        found: _Place | None = None
        for position in range(len(line) + 1):
            if found is None:
                self._follow(threads, passed, (0, (-1, -1)), line, position)
            elif not threads:
                break
            ahead: dict[int, _Place] = {}
            passed = set()
            for index, place in threads.items():
                step = self._steps[index]
                if step.kind == "match":
                    found = place
                    break  # Whatever comes after it was a later choice.
                if position < len(line) and step.test is not None and step.test(line[position]):
                    self._follow(ahead, passed, (index + 1, place), line, position + 1)
            threads = ahead
        return None if found is None or -1 in found else line[found[0] : found[1]]

    def _follow(
        self, threads: dict[int, _Place], passed: set[int], start: tuple[int, _Place], line: str, position: int
    ) -> None:
        """Add every instruction that is reached without a character, in order of preference, each once a position."""
        pending = [start]
        while pending:
            index, now = pending.pop()
            if index in threads or index in passed:
                continue
            step = self._steps[index]
            if step.kind in {"test", "match"}:
                threads[index] = now
                continue
            passed.add(index)
            if step.kind == "fork":
                pending.extend((target, now) for target in reversed(step.to))
            elif step.kind == "save":
                kept = (position, -1) if step.at == 0 else (now[0], position)
                pending.append((index + 1, kept))
            elif _holds(step.at, line, position):
                pending.append((index + 1, now))

    def _emit(self, step: _Step) -> int:
        if len(self._steps) >= MOST_STEPS:
            raise BadPattern("the pattern is too large, counting every repetition")
        self._steps.append(step)
        return len(self._steps) - 1

    def _compile(self, tree: Any, flags: int) -> None:
        for operation, argument in tree:
            if operation in _TESTS:
                self._emit(_Step("test", test=_test(operation, argument, flags)))
            elif operation is sre.AT and argument in _POSITIONS:
                self._emit(_Step("require", at=_POSITIONS[argument]))
            elif operation is sre.SUBPATTERN:
                self._compile_group(argument, flags)
            elif operation is sre.BRANCH:
                self._compile_branches(argument[1], flags)
            elif operation in {sre.MAX_REPEAT, sre.MIN_REPEAT}:
                self._compile_repeat(argument, flags, greedy=operation is sre.MAX_REPEAT)
            else:
                name = str(operation).lower().replace("_", " ")
                raise BadPattern(f"not supported, since it cannot be matched in linear time: {name}")

    def _compile_group(self, argument: Any, flags: int) -> None:
        number, added, removed, inner = argument
        wanted = number is not None and number == self._group
        if wanted:
            self._emit(_Step("save", at=0))
        self._compile(inner, (flags | added) & ~removed)
        if wanted:
            self._emit(_Step("save", at=1))

    def _compile_branches(self, branches: list[Any], flags: int) -> None:
        ends = []
        for branch in branches[:-1]:
            fork = self._emit(_Step("fork"))
            self._compile(branch, flags)
            ends.append(self._emit(_Step("fork")))
            self._steps[fork].to = (fork + 1, len(self._steps))
        self._compile(branches[-1], flags)
        for end in ends:
            self._steps[end].to = (len(self._steps),)

    def _compile_repeat(self, argument: Any, flags: int, *, greedy: bool) -> None:
        least, most, inner = argument
        for _ in range(least):
            self._compile(inner, flags)
        if most is sre.MAXREPEAT:
            fork = self._emit(_Step("fork"))
            self._compile(inner, flags)
            self._emit(_Step("fork", to=(fork,)))
            self._steps[fork].to = self._choice(fork + 1, len(self._steps), greedy=greedy)
            return
        forks = []
        for _ in range(most - least):
            forks.append(self._emit(_Step("fork")))
            self._compile(inner, flags)
        for fork in forks:
            self._steps[fork].to = self._choice(fork + 1, len(self._steps), greedy=greedy)

    @staticmethod
    def _choice(inside: int, after: int, *, greedy: bool) -> tuple[int, int]:
        return (inside, after) if greedy else (after, inside)


_TESTS = frozenset({sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN})

_POSITIONS = {
    sre.AT_BEGINNING: "start",
    sre.AT_BEGINNING_STRING: "start",
    sre.AT_END: "end",
    sre.AT_END_STRING: "end",
    sre.AT_BOUNDARY: "edge",
    sre.AT_NON_BOUNDARY: "inside",
}


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    sre.CATEGORY_DIGIT: str.isdecimal,
    sre.CATEGORY_NOT_DIGIT: lambda c: not c.isdecimal(),
    sre.CATEGORY_SPACE: str.isspace,
    sre.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
    sre.CATEGORY_WORD: _is_word,
    sre.CATEGORY_NOT_WORD: lambda c: not _is_word(c),
}


def _holds(what: str, line: str, position: int) -> bool:
    if what == "start":
        return position == 0
    if what == "end":
        return position == len(line)
    before = position > 0 and _is_word(line[position - 1])
    after = position < len(line) and _is_word(line[position])
    return (before != after) == (what == "edge")


def _test(operation: Any, argument: Any, flags: int) -> Callable[[str], bool]:
    """A test of one character."""
    if operation is sre.ANY:
        return lambda _: True  # A line has no line breaks.
    items = argument if operation is sre.IN else [(sre.LITERAL, argument)]
    negated = operation is sre.NOT_LITERAL
    ranges: list[tuple[int, int]] = []
    categories: list[Callable[[str], bool]] = []
    for kind, value in items:
        if kind is sre.NEGATE:
            negated = True
        elif kind is sre.LITERAL:
            ranges.append((value, value))
        elif kind is sre.RANGE:
            ranges.append(value)
        else:
            categories.append(_CATEGORIES[value])

    def one(character: str) -> bool:
        code = ord(character)
        return any(low <= code <= high for low, high in ranges) or any(test(character) for test in categories)

    if flags & re.IGNORECASE:
        return lambda c: negated != any(one(form) for form in {c, c.lower(), c.upper()} if len(form) == 1)
    return lambda c: negated != one(c)
