"""``/v1/messages``: Anthropic's API as vLLM serves it, one sample, thinking by ``thinking.budget_tokens``.

vLLM takes budgets of 1,024 tokens and more here, as Anthropic does; a smaller cap cannot reach the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from suffice.policies.budget import Budget
from suffice.policies.events import EndReason, Phase
from suffice.policies.plan import ApiFacts
from suffice.server.errors import InvalidRequest
from suffice.server.gateway import sse
from suffice.server.gateway.dialects import shape
from suffice.server.gateway.dialects.base import Call, Reading, Segment
from suffice.server.gateway.dialects.chat import EFFORTS
from suffice.server.gateway.field import parse_field

if TYPE_CHECKING:
    from suffice.policies.decisions import Open
    from suffice.server.gateway.facts import Served

ALLOWED = frozenset(
    {
        "chat_template_kwargs", "max_tokens", "messages", "model", "output_config", "stop_sequences", "stream",
        "system", "temperature", "thinking", "tool_choice", "tools", "top_k", "top_p",
    }
)  # fmt: skip

_TAKEN = ("model", "stream", "max_tokens", "thinking")

LEAST_THINKING = 1024

_BUDGET = "thinking.budget_tokens"

_ENDINGS = {
    "end_turn": EndReason.STOP,
    "stop_sequence": EndReason.STOP,
    "tool_use": EndReason.TOOL_CALLS,
    "max_tokens": EndReason.LENGTH,
}
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "error": "max_tokens"}


class MessagesDialect:
    """The messages API of Anthropic's as vLLM speaks it."""

    name = "messages"
    path = "/v1/messages"
    counts_tokens = False

    def parse(self, body: dict[str, Any], *, images: bool) -> Call:
        """Check a messages request."""
        kept = shape.allow(body, ALLOWED)
        messages = kept.get("messages")
        if not isinstance(messages, list) or not messages:
            raise InvalidRequest("messages must be a non-empty array", param="messages", code="invalid_type")
        if not all(isinstance(message, dict) for message in messages):
            raise InvalidRequest("each message must be an object", param="messages", code="invalid_type")
        if not images:
            shape.refuse_media(messages, param="messages")
            shape.refuse_media(kept.get("system"), param="system")
        longest = shape.whole(kept, "max_tokens")
        if longest is None:
            raise InvalidRequest("max_tokens is required", param="max_tokens")
        sources = [("max_tokens", Budget(sample_tokens=longest))]
        thinking = kept.get("thinking") or {}
        if not isinstance(thinking, dict):
            raise InvalidRequest("thinking must be an object", param="thinking", code="invalid_type")
        budget = shape.whole({_BUDGET: thinking.get("budget_tokens")}, _BUDGET)
        if thinking.get("type") == "enabled":
            if budget is None:
                raise InvalidRequest("thinking.budget_tokens is required", param=_BUDGET)
            if not LEAST_THINKING <= budget < longest:
                raise InvalidRequest(
                    f"thinking.budget_tokens must be at least {LEAST_THINKING} and less than max_tokens",
                    param=_BUDGET,
                )
            sources.append((_BUDGET, Budget(thinking_tokens=budget)))
        effort = (kept.get("output_config") or {}).get("effort")
        if effort is not None and effort not in EFFORTS:
            raise InvalidRequest(
                f"output_config.effort must be one of {', '.join(EFFORTS)}", param="output_config.effort"
            )
        model, preset = shape.split_model(shape.text(kept, "model"))
        kept_body = {name: value for name, value in kept.items() if name not in _TAKEN}
        if thinking.get("type") not in (None, "enabled"):
            kept_body["thinking"] = {"type": thinking["type"]}
        return Call(
            model=model,
            preset=preset,
            body=kept_body,
            stream=shape.flag(kept, "stream"),
            include_usage=True,
            samples=1,
            prompt_bytes=sum(shape.weight(kept.get(name)) for name in ("messages", "system", "tools")),
            sources=tuple(sources),
            effort=effort,
            explicit_max=True,
            field=parse_field(body.get("suffice")),
        )

    def facts(self, call: Call) -> ApiFacts:  # noqa: ARG002
        """Thinking can be capped from 1,024 tokens on."""
        return ApiFacts(
            samples=False,
            engine_cap_min=LEAST_THINKING,
            can_resume=False,
            tells_tokens=False,
            no_cap_reason=f"vLLM's messages API takes thinking budgets from {LEAST_THINKING} tokens on",
        )

    def upstream(self, call: Call, opened: Open, segment: Segment, model: Served) -> tuple[str, dict[str, Any]]:  # noqa: ARG002
        """The client's request, streamed, with its length and its thinking capped."""
        body = call.body | {"max_tokens": opened.max_tokens, "stream": True}
        if opened.thinking_tokens is not None and "thinking" not in body:
            body["thinking"] = {"type": "enabled", "budget_tokens": opened.thinking_tokens}
        return self.path, body

    def counting(self, call: Call) -> dict[str, Any] | None:  # noqa: ARG002
        """Nothing tells the length of this API's prompts ahead; the estimate stands."""
        return None

    def read(self, segment: Segment, event: bytes, frame: dict[str, Any]) -> Reading:  # noqa: ARG002
        """An event. Deltas are at least a token each; ``message_delta`` has the exact count."""
        reading = Reading()
        match frame.get("type"):
            case "error":
                reading.error = frame.get("error") or {}
            case "message_start":
                usage = (frame.get("message") or {}).get("usage") or {}
                reading.prompt_tokens = _prompt_tokens(usage)
            case "content_block_delta":
                delta = frame.get("delta") or {}
                reading.phase = Phase.THINKING if delta.get("type") == "thinking_delta" else Phase.ANSWER
                reading.text = delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
                if reading.text:  # a signature is no token
                    reading.total = min(segment.seen + 1, segment.allowed)
            case "message_delta":
                usage = frame.get("usage") or {}
                reading.total = exact_total(segment, usage.get("output_tokens"))
                reading.prompt_tokens = _prompt_tokens(usage)
                reading.ended = _ENDINGS.get((frame.get("delta") or {}).get("stop_reason") or "", EndReason.STOP)
            case _:
                pass
        return reading

    def answer(self, call: Call, request_id: str, created: int, model: Served) -> MessagesAnswer:  # noqa: ARG002
        """A builder of message events or of a message."""
        return MessagesAnswer(call, f"msg_{request_id}")


def exact_total(segment: Segment, told: int | None) -> int | None:
    """The count that ends a stream whose deltas were counted as a token each; never below what was booked."""
    return None if told is None else max(segment.seen, told)


def _prompt_tokens(usage: dict[str, Any]) -> int | None:
    if usage.get("input_tokens") is None:
        return None
    cached = (usage.get("cache_read_input_tokens") or 0) + (usage.get("cache_creation_input_tokens") or 0)
    total: int = usage["input_tokens"] + cached
    return total


class MessagesAnswer:
    """Message events as they come, with the receipt in ``message_delta``."""

    def __init__(self, call: Call, message_id: str) -> None:
        self._call = call
        self._message: dict[str, Any] = {
            "id": message_id, "type": "message", "role": "assistant", "content": [], "model": call.model,
            "stop_reason": None, "stop_sequence": None,
        }  # fmt: skip
        self._id = message_id
        self._blocks: dict[int, dict[str, Any]] = {}
        self._pieces: dict[int, list[str]] = {}
        self._open: int | None = None
        self._delta: dict[str, Any] | None = None
        self._usage: dict[str, Any] = {}

    def frame(self, segment: Segment, event: bytes, frame: dict[str, Any]) -> bytes:  # noqa: ARG002
        """Pass on an event; ``message_delta`` waits for the receipt."""
        kind = frame.get("type")
        match kind:
            case "message_start":
                frame["message"] |= {"id": self._id, "model": self._call.model}
                self._message |= {name: value for name, value in frame["message"].items() if name != "usage"}
                self._usage = frame["message"].get("usage") or {}
            case "content_block_start":
                self._open = frame["index"]
                self._blocks[frame["index"]] = dict(frame["content_block"])
            case "content_block_delta":
                self._gather(frame["index"], frame["delta"])
            case "content_block_stop":
                self._open = None
            case "message_delta":
                self._delta = frame
                return b""
            case "message_stop":
                return b""
            case _:
                pass
        if not self._call.stream:
            return b""
        return sse.encode(orjson.dumps(frame), str(kind).encode())

    def _gather(self, index: int, delta: dict[str, Any]) -> None:
        if self._call.stream:
            return
        piece = delta.get("text") or delta.get("thinking") or delta.get("partial_json")
        if piece:
            self._pieces.setdefault(index, []).append(piece)
        if delta.get("signature"):
            self._blocks[index]["signature"] = delta["signature"]

    def reopened(self, segment: Segment, opened: Open) -> bytes:  # noqa: ARG002
        """Never happens: messages are not resumed."""
        return b""

    def sample_done(self, segment: Segment, finish: str) -> bytes:  # noqa: ARG002
        """Remember how the message ended; close a block that the gateway cut."""
        if self._delta is not None:
            return b""
        self._delta = {
            "type": "message_delta",
            "delta": {"stop_reason": _STOP_REASONS.get(finish, "end_turn"), "stop_sequence": None},
        }
        if self._open is None or not self._call.stream:
            return b""
        return sse.encode(orjson.dumps({"type": "content_block_stop", "index": self._open}), b"content_block_stop")

    def last(self, receipt: dict[str, Any], usage: dict[str, int]) -> bytes:
        """``message_delta`` with usage and receipt, and ``message_stop``."""
        delta = dict(self._delta or {"type": "message_delta", "delta": {"stop_reason": "end_turn"}})
        delta["usage"] = self._final_usage(delta, usage)
        delta["suffice"] = receipt
        stop = sse.encode(b'{"type":"message_stop"}', b"message_stop")
        return sse.encode(orjson.dumps(delta), b"message_delta") + stop

    def _final_usage(self, delta: dict[str, Any], usage: dict[str, int]) -> dict[str, Any]:
        upstream = delta.get("usage") or self._usage
        return {"input_tokens": usage["prompt_tokens"]} | upstream | {"output_tokens": usage["completion_tokens"]}

    def broken(self, error: dict[str, Any]) -> bytes:
        """Anthropic's error event."""
        fault = error["error"]
        event = {"type": "error", "error": {"type": "api_error", "message": fault["message"], "code": fault["code"]}}
        return sse.encode(orjson.dumps(event), b"error")

    def whole(self, receipt: dict[str, Any], usage: dict[str, int]) -> dict[str, Any]:
        """The message."""
        delta = self._delta or {}
        content = []
        for index in sorted(self._blocks):
            block, text = self._blocks[index], "".join(self._pieces.get(index, ()))
            match block.get("type"):
                case "tool_use":
                    block["input"] = _input(text)
                case "thinking":
                    block["thinking"] = text
                case _:
                    block["text"] = text
            content.append(block)
        ending = delta.get("delta") or {}
        return self._message | {
            "content": content,
            "stop_reason": ending.get("stop_reason"),
            "stop_sequence": ending.get("stop_sequence"),
            "usage": self._final_usage(delta, usage),
            "suffice": receipt,
        }


def _input(text: str) -> Any:
    """A tool's input; a call that was cut has none that parses."""
    try:
        return orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        return {}
