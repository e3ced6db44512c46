"""``/v1/completions``: text in, text out, several prompts and samples; thoughts are plain text here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from suffice.policies.plan import ApiFacts
from suffice.server.errors import InvalidRequest
from suffice.server.gateway import sse
from suffice.server.gateway.dialects import shape
from suffice.server.gateway.dialects.base import Call, Reading, Segment
from suffice.server.gateway.dialects.chat import (
    SAMPLING,
    ask_usage,
    fit_least,
    has_grammar,
    limits,
    read_chunk,
    resume,
    seed,
    stream_options,
)
from suffice.server.gateway.field import parse_field

if TYPE_CHECKING:
    from suffice.policies.decisions import Open
    from suffice.server.gateway.facts import Served

ALLOWED = SAMPLING | {
    "add_special_tokens", "echo", "logprob_token_ids", "logprobs", "max_tokens", "model", "n", "prompt",
    "return_token_ids", "return_tokens_as_token_ids", "stream", "stream_options", "thinking_token_budget",
}  # fmt: skip

_TAKEN = ("model", "n", "prompt", "stream", "stream_options", "max_tokens", "thinking_token_budget")

MAX_PROMPTS = 128


class CompletionsDialect:
    """The completions API of OpenAI's as vLLM speaks it."""

    name = "completions"
    path = "/v1/completions"
    counts_tokens = True

    def parse(self, body: dict[str, Any], *, images: bool) -> Call:  # noqa: ARG002 - there are no parts here
        """Check a completions request."""
        kept = shape.allow(body, ALLOWED)
        options = stream_options(kept)
        wants = {"token_ids"} if shape.flag(kept, "return_token_ids") else set()
        if options.get("continuous_usage_stats"):
            wants.add("continuous_usage")
        sources, explicit = limits(kept)
        texts = prompts(kept.get("prompt"), name="prompt", most=MAX_PROMPTS)
        model, preset = shape.split_model(shape.text(kept, "model"))
        return Call(
            model=model,
            preset=preset,
            body={name: value for name, value in kept.items() if name not in _TAKEN},
            stream=shape.flag(kept, "stream"),
            include_usage=bool(options.get("include_usage")),
            samples=shape.whole(kept, "n", most=shape.MAX_SAMPLES) or 1,
            prompts=texts,
            prompt_bytes=sum(len(p) if isinstance(p, list) else shape.weight(p) for p in texts),
            sources=sources,
            effort=None,
            explicit_max=explicit,
            field=parse_field(body.get("suffice")),
            wants=frozenset(wants),
        )

    def facts(self, call: Call) -> ApiFacts:
        """Everything can be resumed but an answer under a grammar."""
        return ApiFacts(
            can_resume=not has_grammar(call.body),
            no_cap_reason="upstream has no reasoning config, and resuming would lose its grammar's state",
        )

    def upstream(self, call: Call, opened: Open, segment: Segment, model: Served) -> tuple[str, dict[str, Any]]:
        """A completions request on the client's prompt, or on the tokens so far."""
        if segment.resumed:
            return resume(call, opened, segment, model)
        body = dict(call.body)
        # Several prompts have `n` samples each; of one prompt, a rule may draw more.
        several = len(call.prompts) > 1
        seed(body, opened.sample % call.samples if several else opened.sample)
        body["prompt"] = call.prompts[opened.sample // call.samples if several else 0]
        fit_least(body, opened, segment)
        body["max_tokens"] = opened.max_tokens
        if opened.thinking_tokens is not None:
            body["thinking_token_budget"] = opened.thinking_tokens
        ask_usage(body)
        if model.thought is not None:
            body["return_token_ids"] = True
        return self.path, body

    def counting(self, call: Call) -> dict[str, Any] | None:
        """What ``/tokenize`` must be asked; several prompts are not counted ahead, nor are token ids."""
        if len(call.prompts) > 1 or not isinstance(call.prompts[0], str):
            return None
        return {"prompt": call.prompts[0]}

    def read(self, segment: Segment, event: bytes, frame: dict[str, Any]) -> Reading:  # noqa: ARG002
        """A completions chunk."""
        return read_chunk(frame)

    def answer(self, call: Call, request_id: str, created: int, model: Served) -> CompletionsAnswer:
        """A builder of text chunks or of a text completion."""
        return CompletionsAnswer(call, f"cmpl-{request_id}", created, model)


def prompts(value: Any, *, name: str, most: int) -> tuple[Any, ...]:
    """The prompts in a field: one text, one list of token ids, or up to ``most`` of either.

    Raises:
        InvalidRequest: It is something else, or empty.
    """
    if isinstance(value, str) and value:
        return (value,)
    if isinstance(value, list) and value:
        if all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            return (value,)
        texts = all(isinstance(item, str) for item in value)
        lists = all(isinstance(item, list) and item and all(type(n) is int for n in item) for item in value)
        if (texts or lists) and len(value) <= most:
            return tuple(value)
    raise InvalidRequest(
        f"{name} must be a text, an array of token ids, or up to {most} of either",
        param=name,
        code="invalid_type",
    )


class CompletionsAnswer:
    """Text chunks or a text completion."""

    def __init__(self, call: Call, answer_id: str, created: int, model: Served) -> None:
        self._call = call
        self._model = model
        self._head = {"id": answer_id, "object": "text_completion", "created": created, "model": call.model}
        self._choices: dict[int, dict[str, Any]] = {}
        self._texts: dict[int, list[str]] = {}
        self._keep_ids = "token_ids" in call.wants
        self._keep_usage = "continuous_usage" in call.wants

    def frame(self, segment: Segment, event: bytes, frame: dict[str, Any]) -> bytes:  # noqa: ARG002
        """Pass on a chunk; its finish waits for the chain."""
        choices = frame.get("choices")
        if not choices:
            return b""
        choice = choices[0]
        held = choice.get("finish_reason") is not None
        if held:
            choice["finish_reason"] = None
            self._choice(segment.index)["stop_reason"] = choice.pop("stop_reason", None)
        if not self._keep_ids:
            choice.pop("token_ids", None)
            choice.pop("prompt_token_ids", None)
        if choice.get("logprobs"):
            choice["logprobs"] = self._kept_logprobs(choice["logprobs"])
        if not self._call.stream:
            self._gather(segment.index, choice)
            return b""
        if held and not any(choice.get(name) for name in ("text", "logprobs", "token_ids")):
            return b""
        choice["index"] = segment.index
        frame |= self._head
        if not self._keep_usage:
            frame.pop("usage", None)
        return sse.encode(orjson.dumps(frame))

    def _kept_logprobs(self, logprobs: dict[str, Any]) -> dict[str, Any] | None:
        """The client's own part of the log-probabilities that came: rules may have asked for more."""
        own = self._call.body.get("logprobs")
        if own is None:
            return None
        tops = logprobs.get("top_logprobs")
        if tops:
            # The chosen token stays even where it is not among the most likely, as vLLM has it.
            logprobs["top_logprobs"] = [
                None if top is None else dict(sorted(top.items(), key=lambda item: -item[1])[: own + 1]) for top in tops
            ]
        return logprobs

    def _choice(self, sample: int) -> dict[str, Any]:
        return self._choices.setdefault(
            sample, {"index": sample, "text": "", "logprobs": None, "finish_reason": None, "stop_reason": None}
        )

    def _gather(self, sample: int, choice: dict[str, Any]) -> None:
        own = self._choice(sample)
        if choice.get("text"):
            self._texts.setdefault(sample, []).append(choice["text"])
        if choice.get("logprobs"):
            held = own["logprobs"] = own["logprobs"] or {}
            for name, values in choice["logprobs"].items():
                if isinstance(values, list):
                    held.setdefault(name, []).extend(values)
        for name in ("token_ids", "prompt_token_ids"):
            if choice.get(name):
                own[name] = (own.get(name) or []) + choice[name]

    def reopened(self, segment: Segment, opened: Open) -> bytes:
        """Show the closing of a thought where upstream shows it."""
        thought = self._model.thought
        if thought is None or not thought.visible or not (opened.close_thought or opened.think_on):
            return b""
        text = thought.close_text if opened.close_thought else thought.reopen_text
        choice = {"index": segment.index, "text": text, "logprobs": None, "finish_reason": None}
        if not self._call.stream:
            self._gather(segment.index, choice)
            return b""
        return sse.encode(orjson.dumps(self._head | {"choices": [choice]}))

    def sample_done(self, segment: Segment, finish: str) -> bytes:
        """The finish chunk."""
        own = self._choice(segment.index)
        own["finish_reason"] = finish
        if not self._call.stream:
            return b""
        choice = {name: own[name] for name in ("index", "logprobs", "finish_reason", "stop_reason")} | {"text": ""}
        return sse.encode(orjson.dumps(self._head | {"choices": [choice]}))

    def last(self, receipt: dict[str, Any], usage: dict[str, int]) -> bytes:
        """The usage chunk with the receipt, if it was asked for, and the end."""
        if not self._call.include_usage:
            return sse.DONE
        return sse.encode(orjson.dumps(self._head | {"choices": [], "usage": usage, "suffice": receipt})) + sse.DONE

    def broken(self, error: dict[str, Any]) -> bytes:
        """An error event and the end."""
        return sse.encode(orjson.dumps(error)) + sse.DONE

    def whole(self, receipt: dict[str, Any], usage: dict[str, int]) -> dict[str, Any]:
        """A text completion."""
        for sample, pieces in self._texts.items():
            self._choices[sample]["text"] = "".join(pieces)
        choices = [self._choices[index] for index in sorted(self._choices)]
        return self._head | {"choices": choices, "usage": usage, "suffice": receipt}
