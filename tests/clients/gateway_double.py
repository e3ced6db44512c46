"""A scripted gateway inside the process: what the client sends is kept, what it gets back is written by the test."""

import json
from collections.abc import Callable
from typing import Any

import httpx2

RECEIPT: dict[str, Any] = {
    "request_id": "req_1",
    "plan": {
        "preset": "balanced",
        "policy_version": "sha256:ab",
        "limits": {"total_tokens": [8192, "key"], "deadline_ms": [20000, "request"]},
    },
    "spent": {
        "prompt_tokens": 11,
        "completion_tokens": 40,
        "probe_tokens": 5,
        "cancelled_tokens": 7,
        "samples": 3,
        "wall_ms": 812,
        "queue_ms": 3,
        "kv_block_seconds": 9,
    },
    "saved": {"samples": 13, "tokens_estimate": 520},
    "votes": {"winner": "42", "counts": {"42": 5, "41": 1}, "rule": "curtailment", "confidence": 0.97},
    "stops": [{"sample": 0, "rule": "thinking_cap", "by": "engine", "at_token": 2048}],
}
USAGE = {"prompt_tokens": 11, "completion_tokens": 52, "total_tokens": 63}
_HEAD = {"id": "chatcmpl-1", "created": 1, "model": "m"}


def completion(**fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "42"}, "finish_reason": "stop"}
    body = {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE, "suffice": RECEIPT}
    return {**body, **fields}


def chat_chunks(*texts: str) -> list[dict[str, Any]]:
    head = {**_HEAD, "object": "chat.completion.chunk"}
    told = [{**head, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    end = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return [*told, end, {**head, "choices": [], "usage": USAGE, "suffice": RECEIPT}]


def text_chunks(*texts: str) -> list[dict[str, Any]]:
    head = {**_HEAD, "object": "text_completion"}
    told = [{**head, "choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in texts]
    return [*told, {**head, "choices": [], "usage": USAGE, "suffice": RECEIPT}]


def response(**fields: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": "42", "annotations": []}
    message = {"id": "m1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    head = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": "completed"}
    return {**head, "output": [message], "tools": [], "suffice": RECEIPT, **fields}


def events(*items: dict[str, Any], named: bool = False) -> httpx2.Response:
    lines = [(f"event: {item['type']}\n" if named else "") + f"data: {json.dumps(item)}\n\n" for item in items]
    text = "".join([*lines, "" if named else "data: [DONE]\n\n"])
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=text.encode())


def error(status: int, code: str | None, **headers: str) -> httpx2.Response:
    told = {"message": "no", "type": "invalid_request_error", "param": "suffice.budget", "code": code}
    return httpx2.Response(status, headers=headers, json={"error": told})


Script = Callable[[dict[str, Any]], httpx2.Response | dict[str, Any]]


class GatewayDouble:
    """Answers each request by ``script(body)``, and keeps paths, headers and bodies."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.paths: list[str] = []
        self.headers: list[httpx2.Headers] = []
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content) if request.content else {}
        self.paths.append(request.url.path)
        self.headers.append(request.headers)
        self.bodies.append(body)
        answer = self._script(body)
        return answer if isinstance(answer, httpx2.Response) else httpx2.Response(200, json=answer)

    @property
    def field(self) -> Any:
        """The ``suffice`` field of the last request; None where it had none."""
        return self.bodies[-1].get("suffice")
