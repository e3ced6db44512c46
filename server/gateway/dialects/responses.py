"""``/v1/responses``: one sample, its length capped; vLLM takes no thinking budget here.

Nothing is kept between requests: stored and background responses would outlive their budget and be readable by id.
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
from suffice.server.gateway.dialects.chat import EFFORTS, seed
from suffice.server.gateway.dialects.messages import exact_total
from suffice.server.gateway.field import parse_field

if TYPE_CHECKING:
    from suffice.policies.decisions import Open
    from suffice.server.gateway.facts import Served

ALLOWED = frozenset(
    {
        "background", "chat_template_kwargs", "frequency_penalty", "ignore_eos", "include", "include_reasoning",
        "include_stop_str_in_output", "input", "instructions", "logit_bias", "max_output_tokens", "max_tool_calls",
        "min_p", "model", "parallel_tool_calls", "presence_penalty", "previous_response_id", "reasoning",
        "repetition_penalty", "seed", "skip_special_tokens", "stop", "stop_token_ids", "stream", "stream_options",
        "structured_outputs", "temperature", "text", "tool_choice", "tools", "top_k", "top_logprobs", "top_p",
        "truncation",
    }
)  # fmt: skip

_TAKEN = ("model", "stream", "stream_options", "max_output_tokens", "background")

_STATEFUL = {"background": "background responses are", "previous_response_id": "stored responses are"}

_FINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})

_ONE_TOKEN = frozenset(
    {
        "response.output_text.delta",
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
        "response.function_call_arguments.delta",
    }
)


class ResponsesDialect:
    """The responses API of OpenAI's as vLLM speaks it."""

    name = "responses"
    path = "/v1/responses"
    counts_tokens = False

    def parse(self, body: dict[str, Any], *, images: bool) -> Call:
        """Check a responses request."""
        kept = shape.allow(body, ALLOWED)
        for name, what in _STATEFUL.items():
            if kept.get(name):
                raise InvalidRequest(f"{what} not kept by the gateway; send the whole input", param=name)
        source = kept.get("input")
        if not isinstance(source, str | list) or not source:
            raise InvalidRequest("input must be a text or a non-empty array", param="input", code="invalid_type")
        if not images:
            shape.refuse_media(source, param="input")
        reasoning = kept.get("reasoning") or {}
        effort = reasoning.get("effort")
        if effort is not None and effort not in EFFORTS:
            raise InvalidRequest(f"reasoning.effort must be one of {', '.join(EFFORTS)}", param="reasoning.effort")
        longest = shape.whole(kept, "max_output_tokens")
        model, preset = shape.split_model(shape.text(kept, "model"))
        return Call(
            model=model,
            preset=preset,
            body={name: value for name, value in kept.items() if name not in _TAKEN},
            stream=shape.flag(kept, "stream"),
            include_usage=True,
            samples=1,
            prompt_bytes=sum(shape.weight(kept.get(name)) for name in ("input", "instructions", "tools")),
            sources=() if longest is None else (("max_output_tokens", Budget(sample_tokens=longest)),),
            effort=effort,
            explicit_max=longest is not None,
            field=parse_field(body.get("suffice")),
        )

    def facts(self, call: Call) -> ApiFacts:  # noqa: ARG002
        """No thinking budget reaches the engine from here."""
        return ApiFacts(
            samples=False,
            engine_cap_min=None,
            can_resume=False,
            tells_tokens=False,
            no_cap_reason="vLLM's responses API takes no thinking budget",
        )

    def upstream(self, call: Call, opened: Open, segment: Segment, model: Served) -> tuple[str, dict[str, Any]]:  # noqa: ARG002
        """The client's request, streamed, with its length capped."""
        body = call.body | {"max_output_tokens": opened.max_tokens, "stream": True, "store": False}
        seed(body, opened.sample)
        return self.path, body

    def counting(self, call: Call) -> dict[str, Any] | None:
        """What ``/tokenize`` must be asked about a plain text; how upstream renders items and tools it alone knows."""
        body = call.body
        if not isinstance(body["input"], str) or body.get("tools") or body.get("reasoning"):
            return None
        messages = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
        messages.append({"role": "user", "content": body["input"]})
        switches = body.get("chat_template_kwargs")
        return {"messages": messages} | ({} if switches is None else {"chat_template_kwargs": switches})

    def read(self, segment: Segment, event: bytes, frame: dict[str, Any]) -> Reading:
        """An event. Deltas are at least a token each; the last event has the exact count."""
        kind = frame.get("type") or event.decode("ascii", "replace")
        if kind == "error" or "error" in frame:
            return Reading(error=frame.get("error") or {"message": frame.get("message")})
        reading = Reading()
        if kind in _ONE_TOKEN:
            reading.total = min(segment.seen + 1, segment.allowed)
            reading.phase = Phase.THINKING if "reasoning" in kind else Phase.ANSWER
            reading.text = frame.get("delta") or ""
        elif kind in _FINAL:
            response = frame.get("response") or {}
            usage = response.get("usage") or {}
            reading.total = exact_total(segment, usage.get("output_tokens"))
            reading.prompt_tokens = usage.get("input_tokens")
            if kind == "response.failed":
                reading.error = response.get("error") or {}
            reading.ended = EndReason.LENGTH if response.get("status") == "incomplete" else EndReason.STOP
        return reading

    def answer(self, call: Call, request_id: str, created: int, model: Served) -> ResponsesAnswer:  # noqa: ARG002
        """A builder of response events or of a response."""
        return ResponsesAnswer(call)


class ResponsesAnswer:
    """Response events as they come, with the receipt in the last one."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._response: dict[str, Any] = {}
        self._final: tuple[str, dict[str, Any]] | None = None
        self._sequence = 0
        self._items: dict[int, dict[str, Any]] = {}
        self._pieces: dict[int, list[str]] = {}

    def frame(self, segment: Segment, event: bytes, frame: dict[str, Any]) -> bytes:  # noqa: ARG002
        """Pass on an event; the final one waits for the receipt."""
        kind = frame.get("type") or ""
        self._sequence = frame.get("sequence_number", self._sequence)
        response = frame.get("response")
        if isinstance(response, dict):
            self._response = response
        self._gather(kind, frame)
        if kind in _FINAL:
            self._final = (kind, frame)
            return b""
        if not self._call.stream:
            return b""
        return sse.encode(orjson.dumps(frame), kind.encode())

    def _gather(self, kind: str, frame: dict[str, Any]) -> None:
        """Keep the items, and the text of the open one: a response that is cut shows what there was of it."""
        place = frame.get("output_index", 0)
        if kind in ("response.output_item.added", "response.output_item.done"):
            self._items[place] = frame["item"]
            self._pieces.pop(place, None)
        elif kind in _ONE_TOKEN:
            self._pieces.setdefault(place, []).append(frame.get("delta") or "")

    def _output(self) -> list[dict[str, Any]]:
        """All items so far; the open one with the text that it has."""
        return [
            _cut(item, "".join(self._pieces[place])) if place in self._pieces else item
            for place, item in sorted(self._items.items())
        ]

    def reopened(self, segment: Segment, opened: Open) -> bytes:  # noqa: ARG002
        """Never happens: responses are not resumed."""
        return b""

    def sample_done(self, segment: Segment, finish: str) -> bytes:  # noqa: ARG002
        """Nothing: the final event says it."""
        return b""

    def _ending(self, receipt: dict[str, Any], usage: dict[str, int]) -> tuple[str, dict[str, Any]]:
        """Upstream's final event, or one of our own where the gateway stopped the response."""
        if self._final is not None:
            kind, frame = self._final
            return kind, frame | {"response": frame["response"] | {"suffice": receipt}}
        response = self._response | {
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": self._output(),
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            },
            "suffice": receipt,
        }
        kind = "response.incomplete"
        return kind, {"type": kind, "sequence_number": self._sequence + 1, "response": response}

    def last(self, receipt: dict[str, Any], usage: dict[str, int]) -> bytes:
        """The final event with the receipt."""
        kind, frame = self._ending(receipt, usage)
        return sse.encode(orjson.dumps(frame), kind.encode())

    def broken(self, error: dict[str, Any]) -> bytes:
        """An error event."""
        fault = error["error"]
        shown = {name: fault[name] for name in ("code", "message", "param")}
        event = {"type": "error", "sequence_number": self._sequence + 1, **shown}
        return sse.encode(orjson.dumps(event), b"error")

    def whole(self, receipt: dict[str, Any], usage: dict[str, int]) -> dict[str, Any]:
        """The response."""
        response: dict[str, Any] = self._ending(receipt, usage)[1]["response"]
        return response


def _cut(item: dict[str, Any], text: str) -> dict[str, Any]:
    """An output item that was cut before its end."""
    match item.get("type"):
        case "function_call":
            shown: dict[str, Any] = {"arguments": text}
        case "reasoning":
            shown = {"content": [{"type": "reasoning_text", "text": text}]}
        case _:
            shown = {"content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": None}]}
    return item | shown | {"status": "incomplete"}
