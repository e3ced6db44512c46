"""Sizes and counts as people write them: ``80GiB``, ``32k``, ``8B``. What must not be here: what they are sizes of."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?|\.[0-9]+)\s*([a-zA-Z]*)\s*")
_BYTES = {
    "": 1,
    "b": 1,
    "k": 1 << 10,
    "m": 1 << 20,
    "g": 1 << 30,
    "t": 1 << 40,
    **{f"{letter}ib": 1 << (10 * power) for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
}
_TOKENS = {"": 1, "k": 1 << 10, "m": 1 << 20}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def parse_bytes(text: str) -> int:
    """A size: ``80GiB`` and ``80G`` are binary, ``80GB`` is decimal.

    Raises:
        ValueError: It is none; the message says how sizes are written.
    """
    return _parse(text, _BYTES, "a size such as 80GiB, 24G or 500MB")


def parse_tokens(text: str) -> int:
    """A length in tokens: ``32k`` is 32768.

    Raises:
        ValueError: It is none; the message says how lengths are written.
    """
    return _parse(text, _TOKENS, "a length such as 8192, 32k or 1M")


def parse_count(text: str) -> int:
    """A number of things: ``8B`` is eight thousand million.

    Raises:
        ValueError: It is none; the message says how numbers are written.
    """
    return _parse(text, _COUNTS, "a number such as 135M or 8B")


def _parse(text: str, units: dict[str, int], like: str) -> int:
    found = _NUMBER.fullmatch(text)
    factor = None if found is None else units.get(found[2].lower())
    if found is None or factor is None:
        raise ValueError(f"{text[:40]!r} is not {like}")
    value = round(float(found[1].replace("_", "")) * factor)
    if value < 1:
        raise ValueError(f"{text[:40]!r} is too small")
    return value


def show_bytes(count: float) -> str:
    """A size in binary units, to three digits."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:  # noqa: PLR2004 - a binary unit
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"
