"""The way to one client: headers when there is something to send, bytes in order, backpressure to whoever writes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from starlette.types import Send

CLIENT_LEFT = 499
"""Status under which metrics count requests whose client left; nobody receives it."""

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class Sink:
    """Buffers what a batch of upstream events produced and sends it as one piece.

    ``write`` never waits; ``flush`` waits while the client's connection is full, which keeps the writing task from
    reading more of its upstream stream.

    Attributes:
        connected: False once the client has left; nothing is sent from then on.
        started: Whether a status line was sent.
    """

    def __init__(self, send: Send, headers: dict[str, str]) -> None:
        self._send = send
        self._headers = headers
        self._buffer = bytearray()
        self._lock = asyncio.Lock()
        self.connected = True
        self.started = False

    @property
    def pending(self) -> bool:
        """Whether there is something to flush."""
        return bool(self._buffer)

    def write(self, data: bytes) -> None:
        """Add bytes of the stream."""
        self._buffer += data

    async def flush(self) -> None:
        """Send what was written. When cancelled, nothing of it is lost and nothing is sent twice."""
        async with self._lock:
            if not self._buffer or not self.connected:
                return
            if not self.started:
                await self._start(200, STREAM_HEADERS)
            data = bytes(self._buffer)
            self._buffer.clear()
            try:
                await self._send({"type": "http.response.body", "body": data, "more_body": True})
            except asyncio.CancelledError:
                # The server waits for room before it takes the bytes: a cancelled send has sent nothing.
                self._buffer[:0] = data
                raise

    async def end_stream(self, last: bytes) -> None:
        """Send the last bytes and end the response."""
        self.write(last)
        await self.flush()
        if self.connected:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        """Send one JSON body as the whole response."""
        if not self.connected:
            return
        content = orjson.dumps(body)
        length = {"content-type": "application/json", "content-length": str(len(content))}
        await self._start(status, length | (headers or {}))
        await self._send({"type": "http.response.body", "body": content, "more_body": False})

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        merged = self._headers | headers
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in merged.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
        self.started = True
