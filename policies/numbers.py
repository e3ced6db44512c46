r"""Numbers as people and models write them, read exactly.

Read are ``1,234.5``, ``1.234,5``, ``$5``, ``-3``, ``3/4``, ``2 1/2``, ``\frac{3}{4}``, ``40 %``,
``1.2e3``, ``1.2 x 10^3``, ``2^{10}`` and ``3 million``. Values are fractions, so that 0.5, 1/2 and 50/100 are one
answer. Units are dropped, never converted; number words below a thousand, and groups of three digits with a plain space
between them, are not read. Work is linear in the text. What must not be here: where in a text an answer stands.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_DIGITS = 60
_MOST_EXPONENT = 60

_LATEX = (
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox|operatorname)\s?\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[dtc]?frac\s?\{\s?(-?[\d.,]{1,60})\s?\}\s?\{\s?(-?[\d.,]{1,60})\s?\}"), r" \1/\2 "),
    (re.compile(r"\\[dtc]?frac\s?(\d)\s?(\d)"), r" \1/\2 "),
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])"), " x "),
    (re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])"), " "),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"(?<=\d)(?:\\[,!; ]|\{,\}|[\u00a0\u2009\u202f_'\u2019])(?=\d{3}(?!\d))"), ","),
)
_TABLE = str.maketrans({"\u2212": "-", "\uff0d": "-", "\u00d7": "x", "\u00a0": " ", "\u2009": " ", "\u202f": " "})

_NUMBER = re.compile(
    r"""
    (?<![\w.])
    (?P<sign>(?<![\w)\]}%])-|)\s?[$\u20ac\u00a3\u00a5]?\s?(?P<inner>-?)
    (?:
      (?P<english>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?)
    | (?P<european>\d{1,3}(?:\.\d{3})+,\d+(?!\d)|\d{1,3}(?:\.\d{3}){2,}(?![\d.]))
    | (?<![(\[,])(?P<comma>\d+,(?:\d{1,2}|\d{4,}))(?![\d,]|\.\d)
    | (?P<plain>\d*\.\d+|\d+)
    )
    (?:[eE](?P<exponent>[-+]?\d{1,3})(?!\w))?
    (?:\^\{?(?P<power>-?\d{1,3})\}?)?
    (?:\s{0,3}[x*]\s{0,3}10\s?\^\s?\{?(?P<ten>-?\d{1,3})\}?)?
    (?:\s?/\s?(?P<below>\d+)(?![\d/.]))?
    (?:\s(?P<part>\d+)/(?P<parts>\d+)(?![\d/.]))?
    (?:\s?(?P<percent>%|per\s?cent\b)|\s(?P<word>thousand|million|billion|trillion)\b)?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_WORDS = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def plain_text(text: str) -> str:
    """The text with LaTeX and typographic forms of numbers in their plain form."""
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    return text.translate(_TABLE)


def first_number(text: str, *, percent_is_fraction: bool = False) -> Fraction | None:
    """The first number in a text that ``plain_text`` made, passing over those of absurd size.

    Args:
        text: The text.
        percent_is_fraction: Whether ``40 %`` is 0.4 rather than 40.
    """
    return _first(_NUMBER.finditer(text), percent_is_fraction=percent_is_fraction)


def last_number(text: str, *, percent_is_fraction: bool = False) -> Fraction | None:
    """The last number in a text; otherwise like ``first_number``."""
    return _first(reversed(list(_NUMBER.finditer(text))), percent_is_fraction=percent_is_fraction)


def _first(matches: Iterator[re.Match[str]], *, percent_is_fraction: bool) -> Fraction | None:
    for match in matches:
        value = _value(match, percent_is_fraction=percent_is_fraction)
        if value is not None:
            return value
    return None


def _value(match: re.Match[str], *, percent_is_fraction: bool) -> Fraction | None:
    part = match.groupdict()
    if any(text is not None and len(text) > _MOST_DIGITS for text in part.values()):
        return None
    if part["english"]:
        digits = part["english"].replace(",", "")
    elif part["european"]:
        digits = part["european"].replace(".", "").replace(",", ".")
    else:
        digits = (part["comma"] or part["plain"]).replace(",", ".")
    value = Fraction(digits)
    shift = int(part["exponent"] or 0) + int(part["ten"] or 0)
    power = int(part["power"] or 1)
    if abs(shift) > _MOST_EXPONENT or abs(power) * len(digits) > _MOST_DIGITS or (power < 0 and value == 0):
        return None
    value = value**power * Fraction(10) ** shift
    if part["below"]:
        if int(part["below"]) == 0:
            return None
        value /= int(part["below"])
    if part["parts"]:
        if int(part["parts"]) == 0:
            return None
        value += Fraction(int(part["part"]), int(part["parts"]))
    if part["word"]:
        value *= _WORDS[part["word"].lower()]
    if part["percent"] and percent_is_fraction:
        value /= 100
    return -value if (part["sign"] == "-") != (part["inner"] == "-") else value


def canonical(value: Fraction) -> str:
    """A fraction as the shortest exact text: a whole number, a decimal, or ``p/q`` where no decimal ends."""
    if value.denominator == 1:
        return str(value.numerator)
    twos = fives = 0
    rest = value.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    places = max(twos, fives)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
