"""The application: read, check, remember, answer, and notice when the client leaves."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fake_vllm import chat, checks, completions, intake, messages, responses, wire
from fake_vllm.beside import Beside
from fake_vllm.plugin import Plugin, Table
from fake_vllm.records import Received

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from fake_vllm.generation import Job
    from fake_vllm.script import Model
    from fake_vllm.settings import Fault, Settings
    from fake_vllm.wire import Event, Receive, Scope, Send

GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


class App:
    """The fake as an ASGI application, and what it has seen.

    Attributes:
        settings: How the server is set up.
        model: What it says.
        faults: What goes wrong, taken from the front by the requests that each one fits.
        requests: Requests to the generating endpoints, in order of arrival.
        failures: What went wrong in the fake itself.
    """

    def __init__(self, settings: Settings, model: Model) -> None:
        self.settings = settings
        self.model = model
        self.faults: list[Fault] = []
        self.requests: list[Received] = []
        self.failures: list[Exception] = []
        self.table = Table()
        self._seeds = itertools.count(1)
        self._router = Starlette(
            routes=[
                *Beside(settings, self.requests).routes(),
                *Plugin(settings, self.table).routes(),
                *(Route(path, _Method(), methods=["POST"]) for path in GENERATING),
            ],
            exception_handlers={404: _plain_error, 405: _plain_error, checks.Refusal: _refused},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            await self._serve(scope, receive, send)
        except Exception as error:
            self.failures.append(error)
            raise

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[wire.TRANSPORT] = send.__self__.transport  # type: ignore[attr-defined]  # uvicorn's request cycle
        key = self.settings.api_key
        request = Request(scope, receive)
        if key and scope["path"].startswith("/v1") and request.headers.get("authorization") != f"Bearer {key}":
            await JSONResponse({"error": "Unauthorized"}, status_code=401)(scope, receive, send)
        elif scope["path"] in GENERATING and scope["method"] == "POST":
            await self._generate(request, send)
        else:
            await self._router(scope, receive, send)

    def _take_fault(self, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.path in (None, path):
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self.faults.remove(fault)
                return fault
        return None

    async def _generate(self, request: Request, send: Send) -> None:
        path = request.url.path
        try:
            raw = await request.body()
        except ClientDisconnect:
            return
        received = Received(path=path, headers=dict(request.headers), raw=raw)
        self.requests.append(received)
        work = asyncio.ensure_future(self._answer(request, send, received, self._take_fault(path)))
        gone = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        except wire.BrokeOff:
            received.outcome = "faulted"
        finally:
            work.cancel()
            gone.cancel()
            if received.outcome == "running":
                received.outcome = "finished" if received.complete else "aborted"

    async def _answer(self, request: Request, send: Send, received: Received, fault: Fault | None) -> None:
        scope, receive = request.scope, request.receive
        if fault is not None and await self._before_headers(request, send, received, fault):
            return
        try:
            received.body = checks.read(received.raw, received.headers)
            events, whole = self._plan(received)
        except checks.Refusal as refusal:
            received.outcome = "refused"
            stream = isinstance(received.body, dict) and received.body.get("stream")
            if refusal.stage == "engine" and stream:
                writer = wire.Writer(scope, send, self.settings, None, received.path)
                await writer.stream(self._engine_refusal(received, refusal, scope))
            else:
                await _refusal_of(received.path, refusal)(scope, receive, send)
            return
        if events is not None:
            writer = wire.Writer(scope, send, self.settings, fault, received.path)
            await writer.stream(events)
        else:
            answer = Response(orjson.dumps(await whole), media_type="application/json")
            await answer(scope, receive, send)
        received.outcome = "finished" if received.complete else "faulted"

    async def _before_headers(self, request: Request, send: Send, received: Received, fault: Fault) -> bool:
        match fault.kind:
            case "status":
                detail = {"message": fault.message, "type": "InternalServerError", "param": None}
                body = {"error": {**detail, "code": fault.status}}
                answer = JSONResponse(body, status_code=fault.status, headers=fault.headers)
                await answer(request.scope, request.receive, send)
            case "hang_before_headers":
                await asyncio.Event().wait()
            case "reset_before_headers":
                wire.reset(request.scope)
            case _:
                return False
        received.outcome = "faulted"
        return True

    def _plan(self, received: Received) -> tuple[AsyncIterator[Event] | None, Coroutine[Any, Any, dict[str, Any]]]:
        """A stream of events, or a whole answer."""
        body: dict[str, Any] = received.body
        match received.path:
            case "/v1/responses":
                checks.types(body, ("input", (str, list)))
                job = self._job(intake.from_responses(body), received, "max_output_tokens")
                job.request_id = body.get("request_id") or f"resp_{job.request_id}"
                frames, whole = responses.events(body, job), responses.whole(body, job)
            case "/v1/messages":
                checks.types(body, ("model", (str,)), ("messages", (list,)), ("max_tokens", (int,)))
                checks.positive(body, "max_tokens")
                job = self._job(intake.from_messages(body), received)
                frames, whole = messages.events(job), messages.whole(job)
            case "/v1/completions":
                checks.types(body)
                job = self._job({"prompt": None, **body}, received)
                frames, whole = completions.chunks(job), completions.whole(job)
            case _:
                checks.types(body, ("messages", (list,)))
                job = self._job(body, received)
                frames, whole = chat.chunks(job), chat.whole(job)
        if not body.get("stream"):
            return None, whole
        whole.close()
        return _events(frames, received.path), whole

    def _job(self, body: dict[str, Any], received: Received, param: str | None = None) -> Job:
        try:
            job = intake.job(body, received, self.settings, self.model, lambda: next(self._seeds))
        except checks.Refusal as refusal:
            if param is not None and refusal.param == "max_tokens":
                refusal.message = refusal.message.replace("max_tokens", param)
                refusal.param = param
            raise
        if self.settings.plugin:
            job.steering = self.table.take(body, job.scripts[0][0])
        return job

    async def _engine_refusal(self, received: Received, refusal: checks.Refusal, scope: Scope) -> AsyncIterator[Event]:
        if received.path == "/v1/messages":
            yield wire.anthropic_error("2 validation errors for ChatCompletionStreamResponse")
        elif received.path == "/v1/responses":
            plain = {"model": received.body.get("model"), "input": received.body["input"], "stream": True}
            blank = Received(path=received.path, headers=received.headers, raw=b"")
            job = self._job(intake.from_responses(plain), blank)
            for number, frame in enumerate(responses.opening(received.body, job)):
                yield wire.event({**frame, "sequence_number": number}, named=True)
            wire.reset(scope)
            raise wire.BrokeOff
        else:
            yield wire.error_event(refusal.body())
            yield wire.DONE


class _Method:
    """Stands for a generating endpoint in the router, which then answers 405 to other methods."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("generating endpoints are served before the router")


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(frames: AsyncIterator[dict[str, Any]], path: str) -> AsyncIterator[Event]:
    named = path in ("/v1/responses", "/v1/messages")
    async for frame in frames:
        choices = frame.get("choices")
        finished = choices is not None and (not choices or choices[0].get("finish_reason") is not None)
        last = frame.get("type") in ("message_delta", "message_stop", "response.completed")
        yield wire.event(frame, named=named, ending=finished or last)
    if not named:
        yield wire.DONE


async def _plain_error(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    return JSONResponse({"detail": "Not Found" if status == 404 else "Method Not Allowed"}, status_code=status)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, checks.Refusal)
    return _refusal_of(request.url.path, error)


def _refusal_of(path: str, refusal: checks.Refusal) -> Response:
    """The error as the API shapes it: Anthropic's for messages, unless the body itself was unreadable."""
    if path.startswith("/v1/messages") and refusal.stage != "reading":
        detail = {"type": refusal.kind, "message": refusal.message}
        return JSONResponse({"type": "error", "error": detail}, status_code=refusal.status)
    return JSONResponse(refusal.body(), status_code=refusal.status)
