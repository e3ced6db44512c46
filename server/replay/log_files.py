"""Event logs on disk: JSON lines, plain or gzipped, gathered by request.

A gateway writes a request's lines in one piece when it is over; the last one may be cut where it was killed. What must
not be here: what a record means.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from suffice.policies.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


BATCH = "Batch"


class LogFileError(PolicyError):
    """A file cannot be read as an event log; the message says where and why."""

    status_hint = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRequest:
    """The records of one request, in order.

    Attributes:
        id: Its id.
        records: Its records.
    """

    id: str
    records: tuple[dict[str, Any], ...]


def read_log(path: Path) -> list[LoggedRequest]:
    """All requests of a log, in the order in which their first lines stand.

    Raises:
        LogFileError: The file is missing, broken or empty, or a line but the last is no record; names the line.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    broken: str | None = None
    for number, line in _lines(path):
        if broken is not None:
            raise LogFileError(broken)
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
            name = str(record["request_id"])
            # A batch has a line of its own beside those of its samples, which are requests like any other.
            if record.get("event") != BATCH:
                found.setdefault(name, []).append(record)
        except (ValueError, LookupError, TypeError):
            broken = f"{path}:{number}: no record of an event log"
    if not found:
        raise LogFileError(broken or f"{path}: the log is empty")
    return [LoggedRequest(id=name, records=tuple(records)) for name, records in found.items()]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            yield from enumerate(file, start=1)
    except (OSError, EOFError, zlib.error) as error:
        raise LogFileError(f"{path}: {getattr(error, 'strerror', None) or 'cannot be read'}") from None
