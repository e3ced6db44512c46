"""Recorded votes on disk: JSON lines, one question a line, plain or gzipped.

    {"id": "q1", "gold": "18", "samples": [{"answer": "18", "tokens": 107, "score": 0.4, "confidence": 2.1}, ...]}

``gold``, ``score`` and ``confidence`` are optional; ``gold`` and ``answer`` may be text, number or null. Every error
names its line. What must not be here: statistics.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from suffice.policies.replay import RecordedSample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class VotesFileError(Exception):
    """A file cannot be read as recorded votes; the message says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One recorded question.

    Attributes:
        id: Its name, unique enough to order its permutations by.
        gold: The right answer as a canonical key; None where it is not known.
        samples: Its samples, in launch order.
    """

    id: str
    gold: str | None
    samples: tuple[RecordedSample, ...]


def read_votes(path: Path, read: Callable[[str], str | None] | None = None) -> list[Question]:
    """All questions of a file.

    Args:
        path: The file.
        read: Reads a canonical answer out of a text; without it answers are compared as they stand.

    Raises:
        VotesFileError: The file is missing, broken, empty or not of this format; names the line.
    """
    questions = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            questions.append(_question(orjson.loads(line), read))
        except (orjson.JSONDecodeError, UnicodeDecodeError) as error:
            raise VotesFileError(f"{path}:{number}: not JSON: {error}") from None
        except ValueError as error:
            raise VotesFileError(f"{path}:{number}: {error}") from None
    if not questions:
        raise VotesFileError(f"{path}: there are no questions in it")
    return questions


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with path.open("rb") as peek:
            zipped = peek.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise VotesFileError(f"{path}:{number + 1}: the compressed data is broken") from None
    except OSError as error:
        raise VotesFileError(f"{path}: {error.strerror or error}") from None


def _question(value: Any, read: Callable[[str], str | None] | None) -> Question:
    if not isinstance(value, dict):
        raise ValueError("a question must be an object")  # noqa: TRY004 - all faults of a file are one kind
    if not isinstance(value.get("id"), str | int):
        raise ValueError("id must be a text or a whole number")  # noqa: TRY004
    samples = value.get("samples")
    if not isinstance(samples, list) or not samples:
        raise ValueError("samples must be a list of at least one")
    return Question(
        id=str(value["id"]),
        gold=_answer(value.get("gold"), "gold", read),
        samples=tuple(_sample(sample, index, read) for index, sample in enumerate(samples)),
    )


def _sample(value: Any, index: int, read: Callable[[str], str | None] | None) -> RecordedSample:
    where = f"samples[{index}]"
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object")  # noqa: TRY004
    if "answer" not in value:
        raise ValueError(f"{where}.answer is missing; null stands for no answer")
    tokens = value.get("tokens")
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
        raise ValueError(f"{where}.tokens must be a whole number, at least 0")
    return RecordedSample(
        answer=_answer(value["answer"], f"{where}.answer", read),
        tokens=tokens,
        score=_number(value.get("score"), f"{where}.score"),
        confidence=_number(value.get("confidence"), f"{where}.confidence"),
    )


def _answer(value: Any, where: str, read: Callable[[str], str | None] | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, float) and value.is_integer():
        text = str(int(value))
    elif isinstance(value, str | int | float):
        text = str(value)
    else:
        raise ValueError(f"{where} must be a text, a number or null")
    return text if read is None else read(text)


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where} must be a number")
    return float(value)
