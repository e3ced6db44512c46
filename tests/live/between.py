"""A wire between a gateway and a real engine that makes the engine look different, and changes nothing it says.

It refuses thinking budgets, as a vLLM without a reasoning config does, so that the gateway must close thoughts itself;
or it passes streams on slowly, so that there is something to cut. Closing the gateway's side closes the engine's.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import anyio
import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

_NO_BUDGET = {
    "message": "thinking_token_budget is set but reasoning_config is not configured.",
    "type": "BadRequestError",
    "param": None,
    "code": 400,
}


class Between:
    """The wire, as a server on a thread.

    Attributes:
        budgets: Whether thinking budgets are let through.
        piece_s: Seconds that each piece of a stream is held back.
        seen: Bytes of each stream that were passed on.
        asked: Path and body of each generating request.
    """

    def __init__(self, engine: str, *, budgets: bool = True, piece_s: float = 0.0) -> None:
        self.budgets = budgets
        self.piece_s = piece_s
        self.seen: list[bytearray] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._engine = engine
        # Named as TCP: asyncio switches Nagle's algorithm off only for sockets that say so.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        app = Starlette(routes=[Route("/{path:path}", self._pass, methods=["GET", "POST"])])
        config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        until = time.monotonic() + 10
        while not self._server.started:
            assert time.monotonic() < until
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    async def _pass(self, request: Request) -> Response:
        raw = await request.body()
        sent = json.loads(raw) if raw else {}
        if request.method == "POST" and request.url.path.startswith("/v1/"):
            self.asked.append((request.url.path, sent))
        if not self.budgets and sent.get("thinking_token_budget") is not None:
            return JSONResponse({"error": _NO_BUDGET}, 400)
        headers = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
        client = httpx2.AsyncClient(base_url=self._engine, timeout=120, trust_env=False)
        if not sent.get("stream"):
            async with client:
                answer = await client.request(request.method, request.url.path, content=raw, headers=headers)
            return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))
        started = client.build_request("POST", request.url.path, content=raw, headers=headers)
        answer = await client.send(started, stream=True)
        return StreamingResponse(
            self._pieces(client, answer), answer.status_code, media_type=answer.headers["content-type"]
        )

    async def _pieces(self, client: httpx2.AsyncClient, answer: httpx2.Response) -> AsyncIterator[bytes]:
        seen = bytearray()
        self.seen.append(seen)
        try:
            async for line in answer.aiter_lines():
                piece = line.encode() + b"\n"
                if self.piece_s and line.startswith("data"):
                    await asyncio.sleep(self.piece_s)
                seen += piece
                yield piece
        finally:
            with anyio.CancelScope(shield=True):
                await answer.aclose()
                await client.aclose()
