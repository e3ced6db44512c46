"""From a request's body to a job for the engine. Responses and messages become chat requests first, as in vLLM."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from fake_vllm import checks, script, tokenizer
from fake_vllm.generation import Job

if TYPE_CHECKING:
    from collections.abc import Callable

    from fake_vllm.records import Received
    from fake_vllm.script import Model
    from fake_vllm.settings import Settings


def thinks(body: dict[str, Any]) -> bool:
    """Whether the request leaves thinking on."""
    extra = body.get("chat_template_kwargs") or {}
    return bool(extra.get("enable_thinking", body.get("reasoning_effort") != "none"))


def chat_prompt(body: dict[str, Any], settings: Settings) -> list[int]:
    """The prompt of a chat request."""
    return tokenizer.render(
        body["messages"],
        tools=body.get("tools") if body.get("tool_choice") != "none" else None,
        add_generation_prompt=body.get("add_generation_prompt", True),
        continue_final_message=body.get("continue_final_message", False),
        opens_thought=settings.template_opens_thought,
        thinks=thinks(body) or not settings.reasoning_parser,
    )


def _prompts(body: dict[str, Any], settings: Settings) -> list[list[int]]:
    if "messages" in body:
        if not body["messages"]:
            raise checks.Refusal("Cannot apply chat template to an empty conversation. Provide at least one message.")
        return [chat_prompt(body, settings)]
    prompt = body.get("prompt")
    if prompt is None or prompt == "":
        message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
        raise checks.Refusal(message, param="prompt")
    if prompt == []:
        raise checks.Refusal("You must pass at least one prompt")
    many = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    return [tokenizer.encode(one) if isinstance(one, str) else list(one) for one in many]


def _limit(body: dict[str, Any]) -> tuple[int | None, str]:
    for name in ("max_completion_tokens", "max_tokens"):
        if body.get(name) is not None:
            return int(body[name]), name
    return (None, "max_tokens") if "messages" in body else (16, "max_tokens")


def job(
    body: dict[str, Any], received: Received, settings: Settings, model: Model, next_seed: Callable[[], int]
) -> Job:
    """Check a chat or completions request and plan it.

    Raises:
        Refusal: vLLM would not serve it.
    """
    chat = "messages" in body
    checks.fields(body)
    name = checks.model(body, settings)
    if chat:
        checks.tools(body, settings)
    prompts = _prompts(body, settings)
    asked, param = _limit(body)
    limits = [checks.room(prompt, asked, param, settings) for prompt in prompts]
    count = checks.choices(body)
    logprobs = _logprobs(body, chat=chat)
    checks.engine(body, prompts, logprobs, settings)
    stop = body.get("stop") or []
    received.prompt_tokens = sum(map(len, prompts))
    received.allowed_tokens = count * sum(limits)
    received.generated = dict.fromkeys(range(count * len(prompts)), 0)
    budget = body.get("thinking_token_budget")
    return Job(
        body=body,
        received=received,
        settings=settings,
        request_id=received.headers.get("x-request-id") or body.get("request_id") or uuid.uuid4().hex[:16],
        model=name,
        prompts=prompts,
        max_tokens=limits,
        scripts=[_scripts(body, prompt, count, model, next_seed) for prompt in prompts],
        thinking=chat and thinks(body),
        budget=None if budget == -1 else budget,
        stop=[stop] if isinstance(stop, str) else list(stop),
        logprobs=logprobs,
    )


def _logprobs(body: dict[str, Any], *, chat: bool) -> int | None:
    if not chat:
        return None if body.get("logprobs") is None else int(body["logprobs"])
    return int(body.get("top_logprobs") or 0) if body.get("logprobs") else None


def _scripts(
    body: dict[str, Any], prompt: list[int], count: int, model: Model, next_seed: Callable[[], int]
) -> list[script.Script]:
    seed = body.get("seed")
    found = []
    for index in range(count):
        number = next_seed() if seed is None else int(seed) + index
        ask = script.Ask(seed=number, index=index, prompt=tokenizer.decode(prompt), body=body)
        found.append(script.fit(model(ask), body, body.get("tools") if "messages" in body else None))
    return found


def from_messages(body: dict[str, Any]) -> dict[str, Any]:
    """The chat request that vLLM makes of a messages request.

    Raises:
        Refusal: The thinking budget is out of bounds.
    """
    thinking = body.get("thinking") or {}
    if thinking.get("type") == "enabled":
        budget = thinking.get("budget_tokens", 0)
        place = "body.thinking.enabled.budget_tokens" if budget < 1024 else "body"
        if budget < 1024 or budget >= body["max_tokens"]:
            message = f"1 validation error:\n  {{'loc': '{place}', 'input': '{budget}'}}"
            raise checks.Refusal(message, kind="Bad Request", param=place, stage="reading")
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    chat: dict[str, Any] = {
        "model": body["model"],
        "messages": [*system, *body["messages"]],
        "max_tokens": body.get("max_tokens"),
        "max_completion_tokens": body.get("max_tokens"),
        "stop": body.get("stop_sequences"),
        "chat_template_kwargs": body.get("chat_template_kwargs"),
    }
    chat |= {name: body[name] for name in ("temperature", "top_p", "top_k", "cache_salt") if name in body}
    if body.get("stream"):
        chat |= {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    if thinking.get("type") == "enabled":
        chat["thinking_token_budget"] = thinking["budget_tokens"]
    elif thinking.get("type") == "disabled":
        chat["reasoning_effort"] = "none"
    form = (body.get("output_config") or {}).get("format")
    if form:
        chat["response_format"] = {"type": "json_schema", "json_schema": {"name": "json_schema", **form}}
    if body.get("tools"):
        chat["tools"] = [
            {"type": "function", "function": {"name": tool["name"], "parameters": tool["input_schema"]}}
            for tool in body["tools"]
        ]
        choice = body.get("tool_choice") or {"type": "auto"}
        named = {"type": "function", "function": {"name": choice.get("name")}}
        chat["tool_choice"] = {"auto": "auto", "any": "required", "none": "none", "tool": named}[choice["type"]]
    return chat


def from_responses(body: dict[str, Any]) -> dict[str, Any]:
    """The chat request that stands behind a responses request."""
    asked = body["input"]
    items = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    turns = [
        item if "role" in item else {"role": "user", "content": str(item.get("output") or json.dumps(item))}
        for item in items
    ]
    system = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    kept = ("model", "temperature", "top_p", "top_k", "seed", "stop", "stop_token_ids", "ignore_eos", "cache_salt")
    chat: dict[str, Any] = {name: body[name] for name in kept if name in body}
    chat["messages"] = [*system, *turns]
    chat["max_tokens"] = body.get("max_output_tokens")
    chat["chat_template_kwargs"] = body.get("chat_template_kwargs")
    chat["reasoning_effort"] = (body.get("reasoning") or {}).get("effort")
    chat["include_reasoning"] = body.get("include_reasoning", True)
    if "message.output_text.logprobs" in (body.get("include") or ()):
        chat |= {"logprobs": True, "top_logprobs": body.get("top_logprobs") or 0}
    form = (body.get("text") or {}).get("format") or {}
    if form.get("type") in ("json_schema", "json_object"):
        chat["response_format"] = {"type": form["type"], "json_schema": {"schema": form.get("schema")}}
    if body.get("tools"):
        chat["tools"] = [
            {"type": "function", "function": {"name": tool["name"], "parameters": tool.get("parameters")}}
            for tool in body["tools"]
        ]
        choice = body.get("tool_choice", "auto")
        chat["tool_choice"] = (
            {"type": "function", "function": {"name": choice["name"]}} if isinstance(choice, dict) else choice
        )
    return chat
