"""The event log: what drivers saw and decided, one JSON line an event; counts and reasons, never text.

Lines are gathered for each request and written in one piece by a thread, so that a slow disk delays no answer and
lines of two requests never mix.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from pathlib import Path

_LIMIT = 10_000
"""Requests that may wait to be written; more are dropped and counted."""


class EventLog:
    """An append-only file with one writer thread.

    Attributes:
        dropped: Requests whose lines were lost because the disk could not keep up or failed.
    """

    def __init__(self, path: Path) -> None:
        self.dropped = 0
        self._queue: queue.Queue[bytes | None] = queue.Queue(_LIMIT)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._thread = threading.Thread(target=self._write, name="event-log", daemon=True)
        self._thread.start()

    def write(self, request_id: str, records: list[dict[str, Any]]) -> None:
        """Hand over a request's lines; never waits."""
        lines = b"".join(orjson.dumps({"request_id": request_id} | record) + b"\n" for record in records)
        try:
            self._queue.put_nowait(lines)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, then close the file."""
        self._queue.put(None)
        self._thread.join()
        self._file.close()

    def _write(self) -> None:
        while (lines := self._queue.get()) is not None:
            try:
                self._file.write(lines)
            except OSError:
                self.dropped += 1
