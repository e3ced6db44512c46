"""``/v1/chat/completions``: the full dialect, with samples, thinking and resuming.

A thought that the gateway closes is resumed as a ``/v1/completions`` call on token ids, so that nothing is rendered
or tokenised again. Text that comes back that way is answer text; upstream's tool parser does not see it, so requests
with tools rely on the engine's own cap.
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
from suffice.server.gateway.field import parse_field

if TYPE_CHECKING:
    from suffice.policies.decisions import Open
    from suffice.server.gateway.facts import Served

SAMPLING = frozenset(
    {
        "allowed_token_ids", "bad_words", "frequency_penalty", "ignore_eos", "include_stop_str_in_output", "logit_bias",
        "min_p", "min_tokens", "presence_penalty", "repetition_detection", "repetition_penalty", "response_format",
        "seed", "skip_special_tokens", "spaces_between_special_tokens", "stop", "stop_token_ids", "structured_outputs",
        "temperature", "top_k", "top_p",
    }
)  # fmt: skip
"""Sampling fields that chat and completions share; they go along when a sample is resumed."""

ALLOWED = SAMPLING | {
    "add_generation_prompt", "chat_template_kwargs", "continue_final_message", "include_reasoning", "logprob_token_ids",
    "logprobs", "max_completion_tokens", "max_tokens", "messages", "model", "n", "parallel_tool_calls",
    "reasoning_effort", "return_token_ids", "return_tokens_as_token_ids", "stream", "stream_options",
    "thinking_token_budget", "tool_choice", "tools", "top_logprobs",
}  # fmt: skip

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

ENDINGS = {
    "stop": EndReason.STOP,
    "length": EndReason.LENGTH,
    "tool_calls": EndReason.TOOL_CALLS,
    "function_call": EndReason.TOOL_CALLS,
    "repetition": EndReason.REPETITION,
    "abort": EndReason.FAILED,
    "error": EndReason.FAILED,
}

_TAKEN = ("model", "n", "stream", "stream_options", "max_tokens", "max_completion_tokens", "thinking_token_budget")
"""Fields that the gateway reads and writes anew for each segment."""


_SHOWN = {"logprob_token_ids", "return_tokens_as_token_ids"}
"""How tokens are shown; goes along when a sample is resumed."""

_PROMPT_FIELDS = ("messages", "tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")


class ChatDialect:
    """The chat API of OpenAI's as vLLM speaks it."""

    name = "chat"
    path = "/v1/chat/completions"
    counts_tokens = True

    def parse(self, body: dict[str, Any], *, images: bool) -> Call:
        """Check a chat request."""
        kept = shape.allow(body, ALLOWED)
        messages = kept.get("messages")
        if not isinstance(messages, list) or not messages:
            raise InvalidRequest("messages must be a non-empty array", param="messages", code="invalid_type")
        if not all(isinstance(message, dict) for message in messages):
            raise InvalidRequest("each message must be an object", param="messages", code="invalid_type")
        if not images:
            shape.refuse_media(messages, param="messages")
        effort = kept.get("reasoning_effort")
        if effort is not None and effort not in EFFORTS:
            raise InvalidRequest(f"reasoning_effort must be one of {', '.join(EFFORTS)}", param="reasoning_effort")
        options = stream_options(kept)
        wants = {"token_ids"} if shape.flag(kept, "return_token_ids") else set()
        if options.get("continuous_usage_stats"):
            wants.add("continuous_usage")
        sources, explicit = limits(kept)
        model, preset = shape.split_model(shape.text(kept, "model"))
        return Call(
            model=model,
            preset=preset,
            body={name: value for name, value in kept.items() if name not in _TAKEN},
            stream=shape.flag(kept, "stream"),
            include_usage=bool(options.get("include_usage")),
            samples=shape.whole(kept, "n", most=shape.MAX_SAMPLES) or 1,
            prompt_bytes=shape.weight(messages) + shape.weight(kept.get("tools")),
            sources=sources,
            effort=effort,
            explicit_max=explicit,
            field=parse_field(body.get("suffice")),
            wants=frozenset(wants),
        )

    def facts(self, call: Call) -> ApiFacts:
        """Tools, a hidden thought, and an answer under a grammar cannot be resumed by token ids."""
        tools = bool(call.body.get("tools")) and call.body.get("tool_choice") != "none"
        hidden = call.body.get("include_reasoning") is False
        lost = "tool parser" if tools else "reasoning parser" if hidden else "grammar's state"
        return ApiFacts(
            can_resume=not tools and not hidden and not has_grammar(call.body),
            no_cap_reason=f"upstream has no reasoning config, and resuming would lose its {lost}",
        )

    def upstream(self, call: Call, opened: Open, segment: Segment, model: Served) -> tuple[str, dict[str, Any]]:
        """A fresh chat request, or a completions request on the tokens so far."""
        if segment.resumed:
            return resume(call, opened, segment, model)
        body = dict(call.body)
        seed(body, opened.sample)
        fit_least(body, opened, segment)
        body["max_completion_tokens"] = opened.max_tokens
        if opened.thinking_tokens is not None:
            body["thinking_token_budget"] = opened.thinking_tokens
        ask_usage(body)
        if model.thought is not None:
            body["return_token_ids"] = True
        return self.path, body

    def counting(self, call: Call) -> dict[str, Any] | None:
        """What ``/tokenize`` must be asked to learn the prompt's exact length."""
        return {name: call.body[name] for name in _PROMPT_FIELDS if name in call.body}

    def read(self, segment: Segment, event: bytes, frame: dict[str, Any]) -> Reading:  # noqa: ARG002
        """A chunk of chat or, after a resume, of completions."""
        return read_chunk(frame)

    def answer(self, call: Call, request_id: str, created: int, model: Served) -> ChatAnswer:
        """A builder of chat chunks or of a chat completion."""
        return ChatAnswer(call, f"chatcmpl-{request_id}", created, model)


def stream_options(body: dict[str, Any]) -> dict[str, Any]:
    """The request's stream options.

    Raises:
        InvalidRequest: Not an object, or given without ``stream``.
    """
    options = body.get("stream_options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise InvalidRequest("stream_options must be an object", param="stream_options", code="invalid_type")
    if not body.get("stream"):
        raise InvalidRequest("stream_options can be set only when stream is true", param="stream_options")
    return options


def limits(body: dict[str, Any]) -> tuple[tuple[tuple[str, Budget], ...], bool]:
    """Limits in the standard fields, and whether the length of the answer is one of them."""
    sources: list[tuple[str, Budget]] = []
    for name in ("max_completion_tokens", "max_tokens"):
        value = shape.whole(body, name)
        if value is not None:
            sources.append((name, Budget(sample_tokens=value)))
            break
    explicit = bool(sources)
    thinking = shape.whole(body, "thinking_token_budget", least=-1)
    if thinking is not None and thinking >= 0:
        sources.append(("thinking_token_budget", Budget(thinking_tokens=thinking)))
    return tuple(sources), explicit


def seed(body: dict[str, Any], sample: int) -> None:
    """Give each sample the seed that vLLM's own ``n`` would give it."""
    if isinstance(body.get("seed"), int) and sample:
        body["seed"] += sample


def has_grammar(body: dict[str, Any]) -> bool:
    """Whether the answer must follow a grammar, which starts afresh in a resumed sample."""
    form = body.get("response_format") or {"type": "text"}
    return form.get("type") != "text" or bool(body.get("structured_outputs"))


def fit_least(body: dict[str, Any], opened: Open, segment: Segment) -> None:
    """Ask for no more tokens at least than the segment may have at most, which upstream would refuse."""
    if body.get("min_tokens"):
        body["min_tokens"] = max(0, min(body["min_tokens"] - len(segment.token_ids), opened.max_tokens))


def ask_usage(body: dict[str, Any]) -> None:
    """Ask for a stream with a running token count in every chunk."""
    body["n"] = 1
    body["stream"] = True
    body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}


def resume(call: Call, opened: Open, segment: Segment, model: Served) -> tuple[str, dict[str, Any]]:
    """Go on from the tokens so far, with the thought closed where the chain says so."""
    thought = model.thought
    if thought is not None and opened.think_on:
        # The token that closed the thought was generated, and is replaced.
        if segment.token_ids[-1:] == [thought.end_id]:
            segment.token_ids.pop()
        segment.token_ids += thought.reopen_ids
    elif thought is not None and opened.close_thought and segment.token_ids[-1:] != [thought.end_id]:
        segment.token_ids += thought.close_ids
    ids = segment.prompt_ids + segment.token_ids
    body = {name: value for name, value in call.body.items() if name in SAMPLING | _SHOWN}
    seed(body, opened.sample)
    fit_least(body, opened, segment)
    logprobs = call.body.get("logprobs")
    if logprobs is True:
        logprobs = call.body.get("top_logprobs", 0)
    if logprobs is not None and logprobs is not False:
        body["logprobs"] = logprobs
    body |= {"prompt": ids, "max_tokens": opened.max_tokens, "return_token_ids": True, "add_special_tokens": False}
    if opened.thinking_tokens is not None:
        body["thinking_token_budget"] = opened.thinking_tokens
    ask_usage(body)
    return "/v1/completions", body


def read_chunk(frame: dict[str, Any]) -> Reading:
    """Counts in a chat or completions chunk; the two differ only in where the text stands."""
    if "error" in frame:
        return Reading(error=frame["error"])
    reading = Reading()
    usage = frame.get("usage")
    if usage:
        reading.total = usage["completion_tokens"]
        reading.prompt_tokens = usage["prompt_tokens"]
    choices = frame.get("choices")
    if choices:
        choice = choices[0]
        reading.choice = choice
        reading.token_ids = choice.get("token_ids")
        delta = choice.get("delta")
        if delta is None:
            reading.text = reading.answer_text = choice.get("text") or ""
        else:
            thought = delta.get("reasoning") or delta.get("reasoning_content")
            reading.tool_calls = delta.get("tool_calls")
            reading.answer_text = delta.get("content") or ""
            reading.text = (thought or "") + reading.answer_text
            if reading.answer_text or reading.tool_calls:
                reading.phase = Phase.ANSWER
            elif thought:
                reading.phase = Phase.THINKING
        finish = choice.get("finish_reason")
        if finish is not None:
            reading.ended = ENDINGS.get(finish, EndReason.STOP)
            reading.stop_reason = choice.get("stop_reason")
    return reading


class ChatAnswer:
    """Chat chunks or a chat completion, from the chunks of one upstream stream a sample."""

    def __init__(self, call: Call, answer_id: str, created: int, model: Served) -> None:
        self._call = call
        self._model = model
        self._head = {"id": answer_id, "created": created, "model": call.model}
        self._choices: dict[int, _Choice] = {}
        self._keep_ids = "token_ids" in call.wants
        self._keep_usage = "continuous_usage" in call.wants
        self._logprobs = (call.body.get("top_logprobs") or 0) if call.body.get("logprobs") else None
        self._usage_details: dict[str, Any] = {}
        self._prompt_ids: list[int] | None = None
        self._metrics: dict[str, Any] | None = None

    def frame(self, segment: Segment, event: bytes, frame: dict[str, Any]) -> bytes:  # noqa: ARG002
        """Pass on a chunk; the chunk that ends a segment keeps its delta, its finish waits for the chain."""
        choices = frame.get("choices")
        if not choices:
            self._note_usage(frame)
            return b""
        choice = choices[0]
        if "delta" not in choice:
            thinking = segment.thinking and self._choice(segment.index).reasoning_seen
            choice = _as_chat(choice, "reasoning" if thinking else "content")
        held = choice.get("finish_reason") is not None
        if held:
            choice["finish_reason"] = None
            own = self._choice(segment.index)
            own.stop_reason = choice.pop("stop_reason", None)
        if not self._keep_ids:
            choice.pop("token_ids", None)
            frame.pop("prompt_token_ids", None)
        if choice.get("logprobs"):
            choice["logprobs"] = _kept_logprobs(choice["logprobs"], self._logprobs)
        frame.pop("prompt_text", None)
        self._prompt_ids = self._prompt_ids or frame.get("prompt_token_ids")
        if choice["delta"].get("reasoning"):
            self._choice(segment.index).reasoning_seen = True
        if not self._call.stream:
            self._choice(segment.index).add(choice)
            return b""
        if held and not (_holds_something(choice) or choice.get("token_ids")):
            return b""
        choice["index"] = segment.index
        frame["choices"] = [choice]
        frame["object"] = "chat.completion.chunk"
        frame |= self._head
        if not self._keep_usage:
            frame.pop("usage", None)
        return sse.encode(orjson.dumps(frame))

    def _note_usage(self, frame: dict[str, Any]) -> None:
        usage = frame.get("usage") or {}
        for name in ("prompt_tokens_details", "completion_tokens_details"):
            for key, value in (usage.get(name) or {}).items():
                if isinstance(value, int):
                    details = self._usage_details.setdefault(name, {})
                    details[key] = details.get(key, 0) + value
        if frame.get("metrics") and self._metrics is None:
            self._metrics = frame["metrics"]

    def reopened(self, segment: Segment, opened: Open) -> bytes:
        """Without a reasoning parser the client reads the thought as text, so its closing must be readable too."""
        thought = self._model.thought
        seen = self._choice(segment.index).reasoning_seen
        if thought is not None and segment.thinking and opened.think_on:
            # The words that have it think on stand between what it thought before and after.
            return self._write(segment.index, {"reasoning" if seen else "content": thought.reopen_text})
        if not opened.close_thought or thought is None or not thought.visible or seen:
            return b""
        return self._write(segment.index, {"content": thought.close_text})

    def _write(self, sample: int, delta: dict[str, Any]) -> bytes:
        choice = {"index": sample, "delta": delta, "logprobs": None, "finish_reason": None}
        if not self._call.stream:
            self._choice(sample).add(choice)
            return b""
        return sse.encode(orjson.dumps(self._head | {"object": "chat.completion.chunk", "choices": [choice]}))

    def sample_done(self, segment: Segment, finish: str) -> bytes:
        """The finish chunk."""
        own = self._choice(segment.index)
        own.finish = finish
        if not self._call.stream:
            return b""
        choice = {"index": segment.index, "delta": {}, "logprobs": None, "finish_reason": finish}
        if own.stop_reason is not None:
            choice["stop_reason"] = own.stop_reason
        return sse.encode(orjson.dumps(self._head | {"object": "chat.completion.chunk", "choices": [choice]}))

    def last(self, receipt: dict[str, Any], usage: dict[str, int]) -> bytes:
        """The usage chunk with the receipt, if it was asked for, and the end."""
        if not self._call.include_usage:
            return sse.DONE
        chunk = self._head | {"object": "chat.completion.chunk", "choices": [], "usage": self._usage(usage)}
        if self._metrics is not None:
            chunk["metrics"] = self._metrics
        chunk["suffice"] = receipt
        return sse.encode(orjson.dumps(chunk)) + sse.DONE

    def broken(self, error: dict[str, Any]) -> bytes:
        """An error event and the end."""
        return sse.encode(orjson.dumps(error)) + sse.DONE

    def whole(self, receipt: dict[str, Any], usage: dict[str, int]) -> dict[str, Any]:
        """A chat completion."""
        body: dict[str, Any] = self._head | {
            "object": "chat.completion",
            "choices": [self._choices[index].whole(index) for index in sorted(self._choices)],
            "usage": self._usage(usage),
        }
        if self._metrics is not None:
            body["metrics"] = self._metrics
        if self._prompt_ids is not None:
            body["prompt_token_ids"] = self._prompt_ids
        body["suffice"] = receipt
        return body

    def _usage(self, usage: dict[str, int]) -> dict[str, Any]:
        return usage | self._usage_details

    def _choice(self, sample: int) -> _Choice:
        choice = self._choices.get(sample)
        if choice is None:
            choice = self._choices[sample] = _Choice()
        return choice


def _holds_something(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return any(delta.get(name) for name in ("content", "reasoning", "tool_calls")) or bool(choice.get("logprobs"))


class _Choice:
    """One message, gathered from deltas."""

    def __init__(self) -> None:
        self._text: dict[str, list[str]] = {}
        self._tools: dict[int, dict[str, Any]] = {}
        self._logprobs: list[Any] | None = None
        self._token_ids: list[int] | None = None
        self.finish: str | None = None
        self.stop_reason: Any = None
        self.reasoning_seen = False
        """Whether upstream tells the thought apart."""

    def add(self, choice: dict[str, Any]) -> None:
        """Take in one delta."""
        delta = choice["delta"]
        for name in ("content", "reasoning", "refusal"):
            value = delta.get(name) or (delta.get("reasoning_content") if name == "reasoning" else None)
            if value:
                self._text.setdefault(name, []).append(value)
        for call in delta.get("tool_calls") or ():
            held = self._tools.setdefault(call["index"], {"id": None, "type": "function", "function": {}})
            held["id"] = held["id"] or call.get("id")
            function = call.get("function") or {}
            if function.get("name"):
                held["function"]["name"] = function["name"]
            held["function"]["arguments"] = held["function"].get("arguments", "") + (function.get("arguments") or "")
        content = (choice.get("logprobs") or {}).get("content")
        if content:
            self._logprobs = (self._logprobs or []) + content
        if choice.get("token_ids"):
            self._token_ids = (self._token_ids or []) + choice["token_ids"]

    def whole(self, index: int) -> dict[str, Any]:
        """The choice as a chat completion has it."""
        content = "".join(self._text.get("content", ()))
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content or (None if self._tools else ""),
            "refusal": None,
        }
        if "reasoning" in self._text:
            message["reasoning"] = "".join(self._text["reasoning"])
        if self._tools:
            message["tool_calls"] = [self._tools[key] for key in sorted(self._tools)]
        choice: dict[str, Any] = {
            "index": index,
            "message": message,
            "logprobs": None if self._logprobs is None else {"content": self._logprobs, "refusal": None},
            "finish_reason": self.finish,
            "stop_reason": self.stop_reason,
        }
        if self._token_ids is not None:
            choice["token_ids"] = self._token_ids
        return choice


def _kept_logprobs(logprobs: dict[str, Any], top: int | None) -> dict[str, Any] | None:
    """The client's own part of the log-probabilities that came: rules may have asked for more."""
    if top is None:
        return None
    for entry in logprobs.get("content") or ():
        entry["top_logprobs"] = entry.get("top_logprobs", [])[:top]
    return logprobs


def _as_chat(choice: dict[str, Any], channel: str) -> dict[str, Any]:
    """A completions choice of a resumed sample, in chat's form."""
    logprobs = choice.get("logprobs")
    content = None
    if logprobs:
        tokens = logprobs["tokens"]
        tops = logprobs.get("top_logprobs") or [None] * len(tokens)
        content = [
            _token_logprob(token, value, top)
            for token, value, top in zip(tokens, logprobs["token_logprobs"], tops, strict=True)
        ]
    return choice | {
        "delta": {channel: choice.pop("text", "")},
        "logprobs": None if content is None else {"content": content},
    }


def _token_logprob(token: str, value: float, top: dict[str, float] | None) -> dict[str, Any]:
    ranked = [{"token": name, "logprob": number, "bytes": list(name.encode())} for name, number in (top or {}).items()]
    return {"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": ranked}
