"""``/v1/responses``: items open and close around their deltas; usage comes once, with ``response.completed``."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from fake_vllm import chat
from fake_vllm.generation import Delta, Job, entries, generate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


_TOOL = dict.fromkeys(("allowed_callers", "async", "defer_loading", "description", "output_schema", "strict"))


def _response(body: dict[str, Any], job: Job, **changes: Any) -> dict[str, Any]:
    tools = [_TOOL | tool for tool in body.get("tools") or []]
    found: dict[str, Any] = {
        "id": job.request_id,
        "created_at": int(time.time()),
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata"),
        "model": job.model,
        "object": "response",
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "temperature": float(body.get("temperature", 1.0)),
        "tool_choice": body.get("tool_choice", "auto") if tools else "none",
        "tools": tools,
        "top_p": float(body.get("top_p", 1.0)),
        "background": False,
        "max_output_tokens": job.max_tokens[0],
        "max_tool_calls": None,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": body.get("reasoning"),
        "service_tier": "auto",
        "status": "in_progress",
        "text": body.get("text"),
        "top_logprobs": job.logprobs,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "input_messages": None,
        "output_messages": None,
    }
    return found | changes


def _usage(job: Job, last: Delta) -> dict[str, Any]:
    details = {"cached_tokens": 0, "cache_write_tokens": 0, "input_tokens_per_turn": [], "cached_tokens_per_turn": []}
    spent: dict[str, Any] = {"reasoning_tokens": last.reasoning_tokens if job.settings.reasoning_parser else 0}
    spent |= {"tool_output_tokens": 0, "output_tokens_per_turn": [], "tool_output_tokens_per_turn": []}
    return {
        "input_tokens": job.prompt_tokens,
        "input_tokens_details": details,
        "output_tokens": last.completion_tokens,
        "output_tokens_details": spent,
        "total_tokens": job.prompt_tokens + last.completion_tokens,
    }


class _Items:
    """Output items, one after another; at most one is open."""

    def __init__(self) -> None:
        self.kind: str | None = None
        self.done: list[dict[str, Any]] = []
        self.id = self.text = self.name = self.call = ""
        self.logprobs: list[dict[str, Any]] = []

    def _place(self, **more: Any) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": len(self.done), **more}

    def _item(self, status: str) -> dict[str, Any]:
        closed = status == "completed"
        match self.kind:
            case "reasoning":
                content = [{"text": self.text, "type": "reasoning_text"}] if closed else None
                item = {"id": self.id, "summary": [], "type": "reasoning", "content": content}
                return {**item, "encrypted_content": None, "status": status}
            case "message":
                part = {"annotations": [], "text": self.text, "type": "output_text", "logprobs": self.logprobs or None}
                message: dict[str, Any] = {"id": self.id, "content": [part] if closed else [], "role": "assistant"}
                return {**message, "status": status, "type": "message", "phase": None}
            case _:
                item = {"arguments": self.text, "call_id": self.call, "name": self.name, "type": "function_call"}
                return {**item, "id": self.id, "async": None, "caller": None, "namespace": None, "status": status}

    def open(self, kind: str, name: str = "") -> list[dict[str, Any]]:
        """Open an item, closing the one before."""
        events = self.close()
        self.kind, self.name, self.text, self.logprobs = kind, name, "", []
        prefix = {"reasoning": "rs", "message": "msg"}.get(kind, "fc")
        self.id = f"{prefix}_{uuid.uuid4().hex[:16]}"
        self.call = f"chatcmpl-tool-{uuid.uuid4().hex[:16]}"
        added = {"item": self._item("in_progress"), "output_index": len(self.done)}
        events.append({"type": "response.output_item.added", **added})
        if kind != "function_call":
            part: dict[str, Any] = {"text": "", "type": "reasoning_text"}
            if kind == "message":
                part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
            events.append({"type": "response.content_part.added", "content_index": 0, **self._place(part=part)})
        return events

    def delta(self, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        """A piece of the open item."""
        self.text += text
        self.logprobs += logprobs
        if self.kind == "function_call":
            return {"type": "response.function_call_arguments.delta", "delta": text, **self._place()}
        if self.kind == "reasoning":
            return {"type": "response.reasoning_text.delta", "content_index": 0, "delta": text, **self._place()}
        shown = [
            {name: entry[name] for name in ("token", "logprob", "top_logprobs")}
            | {"top_logprobs": [{key: top[key] for key in ("token", "logprob")} for top in entry["top_logprobs"]]}
            for entry in logprobs
        ]
        place = self._place(logprobs=shown)
        return {"type": "response.output_text.delta", "content_index": 0, "delta": text, **place}

    def close(self) -> list[dict[str, Any]]:
        """Close the open item."""
        if self.kind is None:
            return []
        item = self._item("completed")
        events: list[dict[str, Any]] = []
        if self.kind == "function_call":
            done = self._place(arguments=self.text, name=self.name)
            events.append({"type": "response.function_call_arguments.done", **done})
        else:
            name = "reasoning_text" if self.kind == "reasoning" else "output_text"
            done = self._place(text=self.text) | ({} if self.kind == "reasoning" else {"logprobs": []})
            events.append({"type": f"response.{name}.done", "content_index": 0, **done})
            part = self._place(part=item["content"][0])
            events.append({"type": "response.content_part.done", "content_index": 0, **part})
        events.append({"type": "response.output_item.done", "item": item, "output_index": len(self.done)})
        self.done.append(item)
        self.kind = None
        return events

    def take(self, job: Job, delta: Delta) -> list[dict[str, Any]]:
        """What one step becomes."""
        events: list[dict[str, Any]] = []
        shown = chat.message_delta(job, delta, []) or {}
        logprobs = entries(job, delta) if job.logprobs is not None and not chat.hides(job) else []
        for field, kind in (("reasoning", "reasoning"), ("content", "message")):
            if shown.get(field):
                if self.kind != kind:
                    events += self.open(kind)
                events.append(self.delta(shown[field], logprobs if kind == "message" else []))
        for part in (token.tool for token in delta.tokens if token.tool is not None):
            if part.name is not None:
                events += self.open("function_call", part.name)
            else:
                events.append(self.delta(part.arguments or "", []))
        return events


async def events(body: dict[str, Any], job: Job) -> AsyncIterator[dict[str, Any]]:
    """All events of a stream, numbered."""
    number = 0
    async for event in _unnumbered(body, job):
        yield {**event, "sequence_number": number}
        number += 1


async def _unnumbered(body: dict[str, Any], job: Job) -> AsyncIterator[dict[str, Any]]:
    for event in opening(body, job):
        yield event
    items = _Items()
    last: Delta | None = None
    async for delta in generate(job):
        last = delta
        for event in items.take(job, delta):
            yield event
    for event in items.close():
        yield event
    yield {"type": "response.completed", "response": _ended(body, job, items, last)}


def opening(body: dict[str, Any], job: Job) -> list[dict[str, Any]]:
    """The two events that come before anything is generated."""
    response = _response(body, job)
    return [{"type": f"response.{state}", "response": response} for state in ("created", "in_progress")]


def _ended(body: dict[str, Any], job: Job, items: _Items, last: Delta | None) -> dict[str, Any]:
    assert last is not None  # a job has at least one token
    cut = last.finish_reason == "length"
    changes: dict[str, Any] = {"output": items.done, "status": "incomplete" if cut else "completed"}
    changes["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
    if job.settings.usage != "off":
        changes["usage"] = _usage(job, last)
    if job.settings.request_metrics:
        changes["metrics"] = chat.whole_metrics(chat.metrics(job, last.completion_tokens))
    return _response(body, job, **changes)


async def whole(body: dict[str, Any], job: Job) -> dict[str, Any]:
    """The response of a request without a stream."""
    items = _Items()
    last: Delta | None = None
    async for delta in generate(job):
        last = delta
        items.take(job, delta)
    items.close()
    for item in items.done:
        if item["type"] == "reasoning":
            item["status"] = None
    return _ended(body, job, items, last)
