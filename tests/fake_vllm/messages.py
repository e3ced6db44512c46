"""``/v1/messages``: Anthropic's events, made from chat chunks as vLLM makes them."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from fake_vllm import chat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fake_vllm.generation import Job

_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}


def _usage(used: dict[str, Any] | None) -> dict[str, int]:
    if used is None:
        return {"input_tokens": 0, "output_tokens": 0}
    found = {"input_tokens": used["prompt_tokens"], "output_tokens": used["completion_tokens"]}
    details = used.get("prompt_tokens_details")
    if details:
        found |= {
            "cache_creation_input_tokens": details["created_cache_tokens"],
            "cache_read_input_tokens": details["cached_tokens"],
        }
    return found


def _stop(reason: str, matched: Any, *, called: bool) -> tuple[str, str | None]:
    if reason == "stop" and called:
        return "tool_use", None
    if reason == "stop" and isinstance(matched, str):
        return "stop_sequence", matched
    return _REASONS.get(reason, "end_turn"), None


class _Blocks:
    """Content blocks: at most one is open."""

    def __init__(self) -> None:
        self.kind: str | None = None
        self.index = -1

    def open(self, kind: str, block: dict[str, Any]) -> list[dict[str, Any]]:
        """Open a block, closing the one before."""
        events = self.close()
        self.kind = kind
        self.index += 1
        events.append({"type": "content_block_start", "content_block": block, "index": self.index})
        return events

    def close(self) -> list[dict[str, Any]]:
        """Close the open block; a thought is signed first."""
        events: list[dict[str, Any]] = []
        if self.kind == "thinking":
            events.append(self.delta("signature_delta", "signature", uuid.uuid4().hex))
        if self.kind is not None:
            events.append({"type": "content_block_stop", "index": self.index})
        self.kind = None
        return events

    def delta(self, kind: str, name: str, value: str) -> dict[str, Any]:
        """A piece of the open block."""
        return {"type": "content_block_delta", "delta": {"type": kind, name: value}, "index": self.index}

    def take(self, delta: dict[str, Any]) -> list[dict[str, Any]]:
        """What a chat delta becomes."""
        events: list[dict[str, Any]] = []
        for field, kind, piece, name in (
            ("reasoning", "thinking", "thinking_delta", "thinking"),
            ("content", "text", "text_delta", "text"),
        ):
            if delta.get(field):
                if self.kind != kind:
                    events += self.open(kind, {"type": kind, name: ""})
                events.append(self.delta(piece, name, delta[field]))
        for call in delta.get("tool_calls", []):
            if call.get("id"):
                block = {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": {}}
                events += self.open("tool_use", block)
            else:
                events.append(self.delta("input_json_delta", "partial_json", call["function"]["arguments"]))
        return events


async def events(job: Job) -> AsyncIterator[dict[str, Any]]:
    """All events of a stream."""
    blocks = _Blocks()
    reason, matched, called, first = "stop", None, False, True
    async for chunk in chat.chunks(job):
        if first:
            first = False
            message: dict[str, Any] = {"id": chunk["id"], "type": "message", "role": "assistant", "content": []}
            message |= {"model": chunk["model"], "stop_reason": None, "stop_sequence": None}
            yield {"type": "message_start", "message": {**message, "usage": _usage(chunk.get("usage"))}}
            continue
        for choice in chunk["choices"]:
            if choice["finish_reason"] is not None:
                reason, matched = choice["finish_reason"], choice["stop_reason"]
            called = called or "tool_calls" in choice["delta"]
            for event in blocks.take(choice["delta"]):
                yield event
        if not chunk["choices"]:
            for event in blocks.close():
                yield event
            why, sequence = _stop(reason, matched, called=called)
            delta = {"stop_reason": why, "stop_sequence": sequence}
            yield {"type": "message_delta", "delta": delta, "usage": _usage(chunk["usage"])}
    for event in blocks.close():
        yield event
    yield {"type": "message_stop"}


async def whole(job: Job) -> dict[str, Any]:
    """The message of a request without a stream."""
    answer = await chat.whole(job)
    choice = answer["choices"][0]
    said = choice["message"]
    content: list[dict[str, Any]] = []
    if said["reasoning"]:
        content.append({"type": "thinking", "thinking": said["reasoning"], "signature": uuid.uuid4().hex})
    if said["content"]:
        content.append({"type": "text", "text": said["content"]})
    for call in said.get("tool_calls", []):
        arguments = json.loads(call["function"]["arguments"] or "{}")
        content.append({"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": arguments})
    why, sequence = _stop(choice["finish_reason"], choice["stop_reason"], called="tool_calls" in said)
    found = {"id": answer["id"], "type": "message", "role": "assistant", "content": content, "model": answer["model"]}
    found |= {"stop_reason": why, "stop_sequence": sequence, "usage": _usage(answer["usage"])}
    return {name: value for name, value in found.items() if value is not None}
