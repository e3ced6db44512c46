"""``/v1/chat/completions``: chunks and whole answers, key by key as vLLM writes them."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from fake_vllm import tokenizer
from fake_vllm.generation import CLOSE_ID, Delta, Job, entries, flat, generate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FINGERPRINT = "vllm-0.32.0-fa4efa4e"


def hides(job: Job) -> bool:
    """Whether thoughts, and with them ids and log-probabilities, are kept from the client."""
    return not job.body.get("include_reasoning", True) and parses(job)


def parses(job: Job) -> bool:
    """Whether the server has any parser, which changes what empty steps look like."""
    return job.settings.reasoning_parser or job.settings.tool_parser


def usage_wishes(job: Job) -> tuple[bool, bool]:
    """Whether usage comes at the end, and whether it comes with each chunk."""
    options = job.body.get("stream_options") or {}
    last = bool(options.get("include_usage")) and job.settings.usage != "off"
    return last, last and bool(options.get("continuous_usage_stats")) and job.settings.usage == "asked"


def usage(job: Job, completion: int, reasoning: int | None) -> dict[str, Any]:
    """A usage object; ``reasoning`` None leaves the details out."""
    prompt = job.prompt_tokens
    found: dict[str, Any] = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    }
    if reasoning is not None:
        found["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return found


def metrics(job: Job, completion: int) -> dict[str, float]:
    """Timings of a request."""
    seconds = job.settings.token_s * completion
    found = {
        "time_to_first_token_ms": job.settings.prefill_s * 1000,
        "generation_time_ms": seconds * 1000,
        "queue_time_ms": 0.02,
        "tokens_per_second": completion / (seconds + job.settings.prefill_s + 1e-3),
    }
    if completion > 1:
        found["mean_itl_ms"] = job.settings.token_s * 1000
    return found


def tool_deltas(delta: Delta, ids: dict[tuple[int, int], str]) -> list[dict[str, Any]]:
    """What a step adds to tool calls. ``ids`` remembers the id of each call."""
    found: list[dict[str, Any]] = []
    for part in (token.tool for token in delta.tokens if token.tool is not None):
        if part.name is not None:
            call = ids.setdefault((delta.index, part.index), f"chatcmpl-tool-{uuid.uuid4().hex[:16]}")
            name = {"name": part.name}
            found.append({"id": call, "type": "function", "index": part.index, "function": name})
        else:
            found.append({"index": part.index, "function": {"arguments": part.arguments}})
    return found


def _mistaken(delta: Delta) -> tuple[str, str]:
    """Thought and answer of a step, as vLLM's parser tells them apart while text is held back for stop strings.

    It goes by the ids of the step's tokens, whose text comes only later. So it looks in vain for the mark's text in
    the step that closes the thought, loses most of that step's text, and gives the rest of the mark to the answer.
    """
    text = flat(delta.parts)
    if not delta.thought_open:
        return "", text
    if CLOSE_ID not in delta.ids:
        return text, ""
    if len(delta.ids) == 1:
        return "", ""
    end = text.find(tokenizer.CLOSE_THINK)
    return text[:end], text[end + len(tokenizer.CLOSE_THINK) :]


def _parted(delta: Delta) -> tuple[str, str]:
    """Thought and answer of a step: all is thought until the mark that closes it, whether or not one was opened."""
    thought = answer = ""
    within = delta.thought_open
    for channel, text in delta.parts:
        if channel == "mark":
            within = within and text != tokenizer.CLOSE_THINK
        elif channel != "tool" and within:
            thought += text
        elif channel != "tool":
            answer += text
    return thought, answer


def message_delta(job: Job, delta: Delta, calls: list[dict[str, Any]]) -> dict[str, Any] | None:
    """A chunk's ``delta``, or None for a step that shows nothing."""
    if not parses(job):
        return {"content": flat(delta.parts)}
    if not job.settings.reasoning_parser:
        thought, answer = "", "".join(text for channel, text in delta.parts if channel != "tool")
    elif job.holds_text:
        thought, answer = _mistaken(delta)
    else:
        thought, answer = _parted(delta)
    found: dict[str, Any] = {}
    if answer:
        found["content"] = answer
    if thought and not hides(job):
        found["reasoning"] = thought
    if calls:
        found = {"content": answer or None, **found, "tool_calls": calls}
    return found or None


def finish(job: Job, reason: str, *, called: bool) -> str:
    """The finish reason as clients see it: a call by a named tool ends in ``stop``."""
    named = isinstance(job.body.get("tool_choice"), dict)
    return "tool_calls" if called and not named and reason == "stop" else reason


async def chunks(job: Job) -> AsyncIterator[dict[str, Any]]:
    """All chunks of a stream, the usage chunk last."""
    last, continuous = usage_wishes(job)
    head = {
        "id": f"chatcmpl-{job.request_id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": job.model,
    }
    details = job.settings.reasoning_parser
    absent: dict[str, Any] = {} if details else {"completion_tokens_details": None}
    wants_ids = bool(job.body.get("return_token_ids"))
    counts: dict[int, tuple[int, int]] = {}
    calls: dict[tuple[int, int], str] = {}
    begun = False
    async for delta in generate(job):
        if not begun:
            begun = True
            for index in range(job.choices):
                role = {"index": index, "delta": {"role": "assistant", "content": ""}}
                chunk = {**head, "choices": [{**role, "logprobs": None, "finish_reason": None}]}
                if continuous:
                    chunk["usage"] = usage(job, 0, 0 if details else None) | absent
                ids = job.prompts[0] if wants_ids else None
                yield {**chunk, "prompt_token_ids": ids, "prompt_text": None}
        counts[delta.index] = (delta.completion_tokens, delta.reasoning_tokens)
        shown = message_delta(job, delta, tool_deltas(delta, calls))
        hidden = hides(job)
        logprobs = {"content": entries(job, delta)} if job.logprobs is not None and not hidden else None
        if shown is None and delta.finish_reason is None and logprobs is None and (not wants_ids or hidden):
            continue
        choice: dict[str, Any] = {"index": delta.index, "delta": shown or {}, "logprobs": logprobs}
        choice["finish_reason"] = None
        if delta.finish_reason is not None:
            called = any(index == delta.index for index, _ in calls)
            choice["finish_reason"] = finish(job, delta.finish_reason, called=called)
            choice["stop_reason"] = delta.stop_reason
        choice["token_ids"] = delta.ids if wants_ids and not hidden else None
        chunk = {**head, "choices": [choice]}
        if continuous:
            reasoning = delta.reasoning_tokens if details else None
            chunk["usage"] = usage(job, delta.completion_tokens, reasoning) | absent
        if delta.finish_reason is not None and not last:
            chunk["system_fingerprint"] = FINGERPRINT
        yield chunk
    if last:
        yield {**head, "choices": [], **_ending(job, counts)}


def _ending(job: Job, counts: dict[int, tuple[int, int]]) -> dict[str, Any]:
    completion, reasoning = (sum(column) for column in zip(*counts.values(), strict=True))
    found = usage(job, completion, None)
    if job.settings.prompt_tokens_details:
        found["prompt_tokens_details"] = {"cached_tokens": 0, "created_cache_tokens": 0}
    if job.settings.reasoning_parser:
        found["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    ending: dict[str, Any] = {"usage": found, "system_fingerprint": FINGERPRINT}
    if job.settings.request_metrics and job.choices == 1:
        ending["metrics"] = metrics(job, completion)
    return ending


async def whole(job: Job) -> dict[str, Any]:
    """The answer of a request without a stream."""
    deltas: dict[int, list[Delta]] = {index: [] for index in range(job.choices)}
    async for delta in generate(job):
        deltas[delta.index].append(delta)
    counts = {index: (steps[-1].completion_tokens, steps[-1].reasoning_tokens) for index, steps in deltas.items()}
    ending = _ending(job, counts)
    used = ending["usage"]
    used.setdefault("completion_tokens_details", None)
    cached = used.pop("prompt_tokens_details", None)
    ids = bool(job.body.get("return_token_ids"))
    return {
        "id": f"chatcmpl-{job.request_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": job.model,
        "choices": [_choice(job, steps, ids=ids) for steps in deltas.values()],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": {**used, "prompt_tokens_details": cached and {**cached, "multimodal_tokens": None}},
        "prompt_logprobs": None,
        "prompt_token_ids": job.prompts[0] if ids else None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": whole_metrics(ending.get("metrics")),
    }


def whole_metrics(found: dict[str, float] | None) -> dict[str, Any] | None:
    """Metrics as a whole answer carries them: no key is left out."""
    return found and {"mean_itl_ms": None, **found, "speculative_decoding": None}


def said(job: Job, steps: list[Delta]) -> tuple[str | None, str]:
    """Thought and answer of a whole choice. vLLM does not look at the prompt here: without a mark all is thought."""
    text = "".join(text for step in steps for channel, text in step.parts if channel != "tool")
    if not job.settings.reasoning_parser:
        return None, text
    thought, _, answer = text.removeprefix(tokenizer.THINK).partition(tokenizer.CLOSE_THINK)
    return thought, answer


def _choice(job: Job, steps: list[Delta], *, ids: bool) -> dict[str, Any]:
    thought, answer = said(job, steps)
    known: dict[tuple[int, int], str] = {}
    built: dict[int, dict[str, Any]] = {}
    for piece in (piece for step in steps for piece in tool_deltas(step, known)):
        call = built.setdefault(piece["index"], {"id": piece.get("id"), "type": "function", "function": {}})
        function = call["function"]
        function["name"] = function.get("name") or piece["function"].get("name")
        function["arguments"] = function.get("arguments", "") + (piece["function"].get("arguments") or "")
    forced = isinstance(job.body.get("tool_choice"), dict) or job.body.get("tool_choice") == "required"
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer or ("" if forced or not (job.settings.reasoning_parser or built) else None),
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
    }
    if built:
        message["tool_calls"] = list(built.values())
    logprobs = None
    if job.logprobs is not None and not hides(job):
        logprobs = {"content": [entry for step in steps for entry in entries(job, step)]}
    reason = steps[-1].finish_reason or "stop"
    return {
        "index": steps[0].index,
        "message": {**message, "reasoning": None if hides(job) else thought},
        "logprobs": logprobs,
        "finish_reason": finish(job, reason, called=bool(built)),
        "stop_reason": steps[-1].stop_reason,
        "token_ids": [number for step in steps for number in step.ids] if ids and not hides(job) else None,
        "routed_experts": None,
    }
