"""``/v1/completions``: text as it is, thoughts and their marks included."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fake_vllm import tokenizer
from fake_vllm.chat import FINGERPRINT, metrics, usage_wishes, whole_metrics
from fake_vllm.generation import Delta, Job, entries, flat, generate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def _logprobs(job: Job, delta: Delta, offset: int) -> dict[str, Any]:
    found: dict[str, list[Any]] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
    for entry in entries(job, delta):
        found["text_offset"].append(offset)
        found["token_logprobs"].append(entry["logprob"])
        found["tokens"].append(entry["token"])
        top = {other["token"]: other["logprob"] for other in entry["top_logprobs"]}
        found["top_logprobs"].append({entry["token"]: entry["logprob"], **top})
        offset += len(entry["token"])
    return found


async def chunks(job: Job) -> AsyncIterator[dict[str, Any]]:
    """All chunks of a stream, the usage chunk last."""
    last, continuous = usage_wishes(job)
    head = {
        "id": f"cmpl-{job.request_id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": job.model,
    }
    wants_ids = bool(job.body.get("return_token_ids"))
    counts: dict[int, int] = {}
    async for delta in generate(job):
        prompt = job.prompts[delta.prompt]
        choice = {
            "index": delta.index,
            "text": flat(delta.parts),
            "logprobs": None if job.logprobs is None else _logprobs(job, delta, delta.text_offset),
            "finish_reason": delta.finish_reason,
            "stop_reason": delta.stop_reason,
            "prompt_token_ids": prompt if wants_ids and delta.index not in counts else None,
            "token_ids": delta.ids if wants_ids else None,
        }
        counts[delta.index] = delta.completion_tokens
        chunk: dict[str, Any] = {**head, "choices": [choice]}
        if continuous:
            chunk["usage"] = _usage(len(prompt), delta.completion_tokens)
        if delta.finish_reason is not None and not last:
            chunk["system_fingerprint"] = FINGERPRINT
        yield chunk
    if last:
        yield {**head, "choices": [], **_ending(job, sum(counts.values()))}


def _ending(job: Job, completion: int) -> dict[str, Any]:
    found = _usage(job.prompt_tokens, completion)
    if job.settings.prompt_tokens_details:
        found["prompt_tokens_details"] = {"cached_tokens": 0}
    ending: dict[str, Any] = {"usage": found, "system_fingerprint": FINGERPRINT}
    if job.settings.request_metrics and job.choices == 1 and len(job.prompts) == 1:
        ending["metrics"] = metrics(job, completion)
    return ending


async def whole(job: Job) -> dict[str, Any]:
    """The answer of a request without a stream."""
    deltas: dict[int, list[Delta]] = {index: [] for index in range(job.choices * len(job.prompts))}
    async for delta in generate(job):
        deltas[delta.index].append(delta)
    ending = _ending(job, sum(steps[-1].completion_tokens for steps in deltas.values()))
    used = ending["usage"]
    cached = used.pop("prompt_tokens_details", None)
    details = cached and {**cached, "created_cache_tokens": None, "multimodal_tokens": None}
    return {
        "id": f"cmpl-{job.request_id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": job.model,
        "choices": [_choice(job, steps) for steps in deltas.values()],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": {**used, "prompt_tokens_details": details, "completion_tokens_details": None},
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": whole_metrics(ending.get("metrics")),
    }


def _choice(job: Job, steps: list[Delta]) -> dict[str, Any]:
    ids = bool(job.body.get("return_token_ids"))
    logprobs: dict[str, list[Any]] | None = None
    if job.logprobs is not None:
        logprobs = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
        offset = 0
        for step in steps:
            for name, values in _logprobs(job, step, offset).items():
                logprobs[name] += values
            offset += sum(len(token.text or tokenizer.piece_of(token.id)) for token in step.tokens)
    return {
        "index": steps[0].index,
        "text": "".join(flat(step.parts) for step in steps),
        "logprobs": logprobs,
        "finish_reason": steps[-1].finish_reason,
        "stop_reason": steps[-1].stop_reason,
        "token_ids": [number for step in steps for number in step.ids] if ids else None,
        "prompt_logprobs": None,
        "prompt_token_ids": job.prompts[steps[0].prompt] if ids else None,
        "routed_experts": None,
    }
