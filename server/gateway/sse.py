"""Server-sent events, bytes in and events out, without I/O.

The same events come out however the bytes were cut. Upstream is not trusted: an event has a largest size. Only what
model servers use is read: ``event`` and ``data`` fields; comments, ``id`` and ``retry`` are passed over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

MAX_EVENT_BYTES = 8 * 1024 * 1024


class EventTooLarge(Exception):
    """An event grew past the limit."""


class ServerSentEvent(NamedTuple):
    """One event: its name (empty where the stream names none) and its data."""

    event: bytes
    data: bytes


@dataclass(slots=True)
class Decoder:
    """Cuts a byte stream into events. Lines may end in LF, CRLF or CR.

    Attributes:
        max_event_bytes: Largest size of one event, its field names included.
    """

    max_event_bytes: int = MAX_EVENT_BYTES
    _tail: bytes = b""
    _event: bytes = b""
    _data: list[bytes] = field(default_factory=list)
    _size: int = 0
    _begun: bool = False

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Take in bytes.

        Returns:
            The events that they complete, in order.

        Raises:
            EventTooLarge: The current event is larger than allowed.
        """
        buffer = self._tail + chunk
        if not self._begun:
            if len(buffer) < len(_BOM) and _BOM.startswith(buffer):
                self._tail = buffer
                return []
            buffer = buffer.removeprefix(_BOM)
            self._begun = True
        if b"\r" in buffer:
            # A CR at the very end may be the first half of CRLF: it waits for the next byte.
            held = b"\r" if buffer.endswith(b"\r") else b""
            body = buffer[: len(buffer) - len(held)]
            buffer = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held
        events: list[ServerSentEvent] = []
        lines = buffer.split(b"\n")
        self._tail = lines.pop()
        for line in lines:
            self._line(line, events)
        if self._size + len(self._tail) > self.max_event_bytes:
            raise EventTooLarge
        return events

    def finish(self) -> list[ServerSentEvent]:
        """The stream is over: events that its last bytes complete, where a CR at their end waited for an LF."""
        events: list[ServerSentEvent] = []
        if self._tail.endswith(b"\r"):
            line, self._tail = self._tail[:-1], b""
            self._line(line, events)
        return events

    def _line(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if not line:
            if self._data:
                events.append(ServerSentEvent(self._event, b"\n".join(self._data)))
                self._data = []
            self._event = b""
            self._size = 0
            return
        self._size += len(line)
        if self._size > self.max_event_bytes:
            raise EventTooLarge
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value


_BOM = b"\xef\xbb\xbf"


def encode(data: bytes, event: bytes = b"") -> bytes:
    """One event as bytes; ``data`` must hold no line break."""
    if event:
        return b"event: " + event + b"\ndata: " + data + b"\n\n"
    return b"data: " + data + b"\n\n"


DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
