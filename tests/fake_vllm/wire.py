"""Event streams on the wire: how bytes are cut, and every way in which a stream goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping

    from fake_vllm.settings import Fault, Settings

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TRANSPORT = "fake_vllm.transport"
"""Key of the connection's transport in the ASGI scope."""

_SETTLE_S = 0.02


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its data, its name where the API names events, and whether it belongs to the stream's end."""

    data: bytes
    name: str = ""
    ending: bool = False

    @property
    def done(self) -> bool:
        """The closing mark of OpenAI's streams."""
        return self.data == b"[DONE]"


DONE = Event(b"[DONE]", ending=True)


class BrokeOff(Exception):
    """The connection was broken on purpose."""


def event(frame: dict[str, Any], *, named: bool = False, ending: bool = False) -> Event:
    """A frame as an event."""
    return Event(orjson.dumps(frame), frame["type"] if named else "", ending)


def error_event(body: dict[str, Any]) -> Event:
    """An error frame, spaced as vLLM writes these and only these."""
    return Event(json.dumps(body).encode())


def reset(scope: Scope) -> None:
    """Break the connection with a TCP reset."""
    transport: asyncio.Transport = scope[TRANSPORT]
    held = transport.get_extra_info("socket")
    if held is not None:
        with contextlib.suppress(OSError):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Writer:
    """Writes events as the settings want them cut, and strikes with a fault at its place."""

    def __init__(self, scope: Scope, send: Send, settings: Settings, fault: Fault | None, path: str) -> None:
        self.scope = scope
        self.send = send
        self.settings = settings
        self.fault = fault
        self.path = path
        self.dice = random.Random(settings.split_seed)
        self.sent = 0
        self.struck = False
        self.model_frame = b"{}"

    async def stream(self, events: AsyncIterator[Event]) -> None:
        """Write a whole stream.

        Raises:
            BrokeOff: The fault broke the connection.
        """
        kind = self.fault.kind if self.fault else None
        media = "text/html" if kind == "wrong_content_type" else "text/event-stream"
        headers = [(b"content-type", f"{media}; charset=utf-8".encode())]
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        async for one in events:
            if self._due(one) and await self._strike():
                break
            if (kind == "no_finish" and one.ending and not one.done) or (kind == "no_done" and one.done):
                continue
            if one.data.startswith(b"{") and not one.ending:
                self.model_frame = one.data
            await self._event(one)
        if kind == "after_done":
            await self._event(Event(self.model_frame))
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    def _due(self, one: Event) -> bool:
        return self.fault is not None and not self.struck and (self.sent >= self.fault.after or one.ending)

    async def _strike(self) -> bool:
        """Do what the fault says; True when the stream is over."""
        assert self.fault is not None
        self.struck = True
        match self.fault.kind:
            case "hang":
                await asyncio.Event().wait()
            case "reset":
                await self._break(b"")
            case "reset_in_event":
                await self._break(b'data: {"id":"chatcmpl-broken","obj')
            case "end":
                return True
            case "error_event":
                await self._error()
                return True
            case "oversized_event":
                await self._event(Event(b'{"padding":"' + b"x" * self.fault.size + b'"}'))
            case "invalid_json":
                await self._event(Event(self.model_frame[: len(self.model_frame) // 2]))
            case "nan":
                await self._event(Event(self.model_frame[:-1] + b',"score":NaN}'))
            case _:
                pass
        return False

    async def _break(self, last: bytes) -> None:
        await self._bytes(last)
        await asyncio.sleep(_SETTLE_S)  # a reset throws away what the client has not read yet
        reset(self.scope)
        raise BrokeOff

    async def _error(self) -> None:
        assert self.fault is not None
        if self.path == "/v1/responses":
            await self._break(b"")
        detail = {"message": self.fault.message, "type": "InternalServerError", "param": None}
        body = {"error": {**detail, "code": self.fault.status}}
        if self.path == "/v1/messages":
            await self._event(anthropic_error("chunk is no ChatCompletionStreamResponse"))
            return
        await self._event(error_event(body))
        await self._event(DONE)

    async def _event(self, one: Event) -> None:
        self.sent += 1
        end = self.settings.newline
        text = f"event: {one.name}{end}" if one.name else ""
        if self.settings.comments:
            text = f": keep-alive{end}{end}{text}"
        await self._bytes(text.encode() + b"data: " + one.data + f"{end}{end}".encode())

    async def _bytes(self, data: bytes) -> None:
        most = self.settings.split or max(len(data), 1)
        while data:
            size = most if self.settings.split_seed is None else self.dice.randint(1, most)
            await self.send({"type": "http.response.body", "body": data[:size], "more_body": True})
            data = data[size:]


def anthropic_error(message: str) -> Event:
    """The error event of the messages API."""
    body = {"type": "error", "error": {"type": "internal_error", "message": message}}
    return event(body, named=True)
