"""Recorded samples on disk: JSON lines, one question a line, plain or gzipped.

    {"id": "q1", "gold": "18", "samples": [{"answer": "18", "tokens": ["The", ...], "probes": [{"at": 64, ...}]}, ...]}

See ``read_traces`` for what a sample may hold. Every error names its line. What must not be here: replaying.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import zlib
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, TypeAlias

from suffice.policies.replay_traces import RecordedProbe, Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

THINK_END = "</think>"


Form: TypeAlias = "Callable[[object], str | None]"
"""Gives an answer a form in which equal answers are equal texts."""


class BadTraces(Exception):
    """The file, or what was asked of it, cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Question:
    """One line of the file.

    Attributes:
        id: Its name.
        gold: The right answer, in the form of all answers; None where it is not known.
        traces: Its samples.
    """

    id: str
    gold: str | None
    traces: tuple[Trace, ...]


@dataclass(frozen=True, slots=True)
class Traces:
    """A whole file.

    Attributes:
        questions: Its questions, at least one.
        sha256: Of the file as it lies on disk.
    """

    questions: tuple[Question, ...]
    sha256: str

    @property
    def samples(self) -> int:
        """Samples of all questions."""
        return sum(len(question.traces) for question in self.questions)

    @property
    def longest_thought(self) -> int:
        """Tokens of the longest thought."""
        return max((trace.thought for question in self.questions for trace in question.traces), default=0)


def same_form(answer: object) -> str | None:
    """An answer in a form in which equal answers are equal texts: numbers by value, other text without outer space."""
    if answer is None:
        return None
    text = str(answer).strip()
    try:
        number = Decimal(text.replace(",", ""))
    except InvalidOperation:
        return text
    return f"{number.normalize():f}" if number.is_finite() and abs(number.adjusted()) < 64 else text  # noqa: PLR2004


def read_traces(path: Path, think_end: str = THINK_END, read: Callable[[str], str | None] | None = None) -> Traces:
    """Read a file of traces, gzipped or not.

    Of a sample, ``tokens`` (text pieces) and ``answer`` are needed. ``logprobs``, ``top`` or ``top5`` (those of the
    likeliest tokens), ``close_logprobs``, ``entropies`` and ``token_ids`` have one entry a token; without ids,
    equal pieces count as equal tokens. ``probes`` are ``{"at", "answer", "confidence"?, "entropy"?, "tokens"?}``.
    ``finish`` is ``length`` where the sample was cut.

    Args:
        path: The file.
        think_end: The piece that ends a thought; a sample without it is one thought from end to end.
        read: Reads an answer's canonical form out of its text; ``same_form`` does where none is given.

    Raises:
        BadTraces: It cannot be read, or a line is not such a question.
    """
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise BadTraces(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    form = same_form if read is None else _reading(read)
    questions = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                questions.append(_question(json.loads(line), number, think_end, form))
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
                what = f"no {error}" if isinstance(error, KeyError) else error
                raise BadTraces(f"{path}:{number}: {what}") from error
    if not questions:
        raise BadTraces(f"{path}: no questions")
    return Traces(tuple(questions), hashlib.sha256(raw).hexdigest())


def _reading(read: Callable[[str], str | None]) -> Form:
    return lambda answer: None if answer is None else read(str(answer))


def _question(line: Any, number: int, think_end: str, form: Form) -> Question:
    traces = tuple(_trace(sample, think_end, form) for sample in line["samples"])
    return Question(str(line.get("id", number)), form(line.get("gold")), traces)


def _trace(sample: Any, think_end: str, form: Form) -> Trace:
    pieces = tuple(map(str, sample["tokens"]))
    tops = sample.get("top") or sample.get("top5") or ()
    per_token = {
        "token_ids": tuple(map(int, sample.get("token_ids") or _interned(pieces))),
        "confidences": tuple(-math.fsum(map(float, top)) / max(len(top), 1) for top in tops),
        **{name: tuple(map(float, sample.get(name) or ())) for name in ("logprobs", "close_logprobs", "entropies")},
    }
    for name, values in per_token.items():
        if len(values) not in {0, len(pieces)}:
            raise ValueError(f"{name} has {len(values)} entries for {len(pieces)} tokens")
    probes = sorted((_probe(probe, form) for probe in sample.get("probes") or ()), key=lambda probe: probe.at)
    return Trace(
        pieces=pieces,
        thought=pieces.index(think_end) if think_end in pieces else len(pieces),
        answer=form(sample["answer"]),
        finished=sample.get("finish") != "length",
        probes=tuple(probes),
        **per_token,  # type: ignore[arg-type]
    )


def _interned(pieces: Sequence[str]) -> list[int]:
    ids: dict[str, int] = {}
    return [ids.setdefault(piece, len(ids)) for piece in pieces]


def _probe(probe: Any, form: Form) -> RecordedProbe:
    def number(name: str) -> float | None:
        return None if probe.get(name) is None else float(probe[name])

    tokens = probe.get("tokens")
    return RecordedProbe(
        at=int(probe["at"]),
        answer=form(probe["answer"]),
        confidence=number("confidence"),
        entropy=number("entropy"),
        # Some recorders keep the probe's pieces, some their number.
        tokens=len(tokens) if isinstance(tokens, list) else None if tokens is None else int(tokens),
    )
