r"""Where in a text its answer stands, and the readers of numbers and choices, which need to know.

Only the end of a long text is read. Every search is linear in it and tries a bounded number of places. What must not be
here: votes, and structured answers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from suffice.policies.numbers import canonical, first_number, last_number, plain_text

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_TEXT = 20_000
"""Characters of a text's end that are read."""
MOST_PLACES = 12
"""Places of a kind that are tried, from the last back, before the next kind of place is."""


def answer_part(text: str) -> str:
    """The end of a text, without the thought that models put before their answer."""
    text = text[-MOST_TEXT:]
    after = text.rpartition("</think>")[2]
    return after if after.strip() else text


def boxed(text: str) -> list[str]:
    r"""Contents of ``\boxed{...}`` and ``\fbox{...}``, the last first; braces may nest."""
    contents = []
    for match in reversed(list(re.finditer(r"\\f?boxed\s?\{|\\fbox\s?\{", text))[-MOST_PLACES:]):
        depth, start = 1, match.end()
        for index in range(start, len(text)):
            depth += (text[index] == "{") - (text[index] == "}")
            if depth == 0:
                contents.append(text[start:index])
                break
    return contents


_MARK = re.compile(r"\b(?:is|are|was|be|equals)\b|[:=]|####", re.IGNORECASE)
_ANNOUNCED = re.compile(r"\banswers?\b(?!\s(?:choices|options))|####", re.IGNORECASE)


def announced(text: str) -> list[str]:
    """What follows "the answer is", "Answer:" or "####", up to the end of its line, the last first.

    Where nothing follows on the line, the next line that is not empty is taken.
    """
    found = []
    for match in reversed(list(_ANNOUNCED.finditer(text))[-MOST_PLACES:]):
        rest = text[match.start() : match.start() + 400]
        mark = _MARK.search(rest, 0 if rest.startswith("####") else match.end() - match.start())
        line_end = rest.find("\n")
        if mark is None or 0 <= line_end < mark.start():
            continue
        rest = rest[mark.end() :].lstrip(" \t*_:`")
        line = rest.lstrip().partition("\n")[0]
        if line.strip(" *_`$"):
            found.append(line)
    return found


def squeezed(text: str) -> str:
    """Lower case, single spaces, no final full stop."""
    return " ".join(text.casefold().split()).rstrip(". ")


class NumberReader:
    r"""A number: of the last ``\boxed{}``, else of the last "answer is", else the last number in the text.

    Of an announced equation the side after its last equals sign counts. Units and currencies are dropped. The key is
    exact: ``0.5``, ``1/2`` and ``2/4`` are one. ``40%`` is 40, since a question that asks for a percentage is answered
    with and without the sign; with ``percent="fraction"`` it is 0.4.
    """

    def __init__(self, *, percent: str) -> None:
        self._fraction = percent == "fraction"

    def read(self, text: str) -> str | None:
        """The number's canonical form."""
        text = answer_part(text)
        for place in (*boxed(text), *announced(text)):
            plain = plain_text(place)
            clause = re.split(r"\.(?:\s|$)|[,;]\s|\s\(", plain, maxsplit=1)[0]
            for candidate in (clause.rpartition("=")[2], plain):
                number = first_number(candidate, percent_is_fraction=self._fraction)
                if number is not None:
                    return canonical(number)
        number = last_number(plain_text(text), percent_is_fraction=self._fraction)
        return None if number is None else canonical(number)


class ChoiceReader:
    r"""A letter of a multiple choice: ``\boxed{B}``, "the answer is (B)", "Option B", "**B**", "B.", "(B)" or "B".

    Where no letter is written, the one whose option's text is the answer, word for word. A bare "A" within a sentence
    is never taken, since it is an article.

    Args:
        choices: How many letters there are, from A on.
        options: Texts of the options in order, where they are known.
    """

    def __init__(self, *, choices: int, options: Sequence[str]) -> None:
        last = chr(ord("A") + choices - 1)
        capital, small = f"[B-{last}]", f"[b-{last.lower()}]"
        wrap = r"[ \t\"'*_`$({\[]{0,12}"
        close = r"(?![\w'\u2019])"
        # A small letter, or an A, that goes on as a sentence does is no choice: "the answer is a dog".
        letter = rf"(?-i:({capital}|{small}(?!\s[a-z])|[Aa](?!\s(?!(?:because|since|as|which|for|and)\b)[a-z]))){close}"
        before = r"(?:the\s)?(?:most\slikely\s)?"
        inside = r"(?:\\boxed\s?\{|\\text\s?\{)?"
        naming = r"(?:option\s|choice\s|letter\s)?"
        self._stated = re.compile(rf"^\s{{0,12}}{before}{wrap}{inside}{wrap}{naming}{wrap}{letter}", re.IGNORECASE)
        capitals = rf"(?-i:([A-{last}])){close}"
        self._named = re.compile(
            rf"\b(?:(?:correct|right|best)\s(?:option|choice)\sis|option|choice):?\s?{wrap}{capitals}", re.IGNORECASE
        )
        self._line = re.compile(rf"^{wrap}([A-{last}])[)\]}}*_`$]{{0,12}}(?:[.):]|[ \t]{{0,12}}$)", re.MULTILINE)
        self._bracketed = re.compile(rf"\(([A-{last}])\)")
        self._alone = re.compile(rf"^\W*([A-{last}a-{last.lower()}])\W*$")
        self._options = [squeezed(option) for option in options[:choices]]

    def read(self, text: str) -> str | None:
        """The capital letter."""
        text = answer_part(text).strip()
        whole = self._alone.match(text) if len(text) <= 40 else None  # noqa: PLR2004 - a letter and its wrapping
        if whole is not None:
            return whole[1].upper()
        places = (*boxed(text), *announced(text))
        for place in places:
            match = self._stated.match(place)
            if match is not None:
                return match[1].upper()
        by_text = self._by_text(places)
        if by_text is not None:
            return by_text
        for pattern in (self._named, self._line, self._bracketed):
            letters = pattern.findall(text)
            if letters:
                last: str = letters[-1]
                return last
        return self._by_text((text.rpartition("\n")[2], text))

    def _by_text(self, places: Sequence[str]) -> str | None:
        for place in places:
            said = squeezed(place)
            fitting = [index for index, option in enumerate(self._options) if option and option == said]
            if len(fitting) == 1:
                return chr(ord("A") + fitting[0])
        return None
