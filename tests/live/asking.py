"""The four generating APIs, asked the same way: whole or streamed, with what each says of usage read out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx2

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
QUESTION = "Start at 43. Add 8. Subtract 5. Double it. What do you get?"
THOUGHT = "Start at 43."


@dataclass
class Told:
    """What a client learns from one answer.

    Attributes:
        status: HTTP status.
        texts: Answer of each choice.
        thoughts: Thought of each choice, where the API tells it apart.
        finish: How each choice ended.
        usage: Prompt and generated tokens.
        receipt: The receipt.
        body: The whole answer, or the stream's frames.
    """

    status: int
    body: Any
    texts: dict[int, str] = field(default_factory=dict)
    thoughts: dict[int, str] = field(default_factory=dict)
    finish: dict[int, str | None] = field(default_factory=dict)
    usage: tuple[int, int] | None = None
    receipt: dict[str, Any] | None = None

    @property
    def spent(self) -> tuple[int, int]:
        """Prompt tokens by the receipt, and all that were generated: kept, for probes, or cancelled."""
        spent = self.receipt["spent"]
        return spent["prompt_tokens"], sum(spent[f"{kind}_tokens"] for kind in ("completion", "probe", "cancelled"))

    def add(self, store: dict[int, str], index: int, text: str | None) -> None:
        """Append a piece of text."""
        store[index] = store.get(index, "") + (text or "")


def body(api: str, model: str, *, tokens: int | None, thinking: str | None = None, **more: Any) -> dict[str, Any]:
    """A request; ``thinking`` leaves off within a thought with that text, where the API can."""
    match api:
        case "chat":
            found: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": tokens}
            if thinking is not None:
                found["messages"].append({"role": "assistant", "content": f"<think>{thinking}"})
                found |= {"continue_final_message": True, "add_generation_prompt": False}
        case "completions":
            found = {"prompt": QUESTION if thinking is None else f"{QUESTION}<think>{thinking}", "max_tokens": tokens}
        case "responses":
            found = {"input": QUESTION, "max_output_tokens": tokens}
        case _:
            found = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": tokens}
    return {name: value for name, value in {"model": model, **found, **more}.items() if value is not None}


def ask(gateway: Any, api: str, request: dict[str, Any], *, stream: bool = False, timeout_s: float = 120) -> Told:
    """Send a request and read all of the answer."""
    headers = {"authorization": f"Bearer {gateway.key}"}
    if stream:
        request = request | {"stream": True}
        if api in ("chat", "completions"):
            request |= {"stream_options": {"include_usage": True}}
    answer = httpx2.post(gateway.url + PATHS[api], json=request, headers=headers, timeout=timeout_s, trust_env=False)
    if answer.headers["content-type"].startswith("text/event-stream"):
        told = Told(answer.status_code, frames(answer.text))
        for frame in told.body:
            _READ[api](told, frame)
        return told
    told = Told(answer.status_code, answer.json())
    if answer.status_code == 200:
        _WHOLE[api](told, told.body)
        told.receipt = told.body.get("suffice")
    return told


def frames(text: str) -> list[dict[str, Any]]:
    """The JSON frames of a stream, which may break off within one."""
    data = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    found = []
    for piece in data:
        try:
            found.append(json.loads(piece))
        except json.JSONDecodeError:
            assert piece == data[-1] or piece == "[DONE]", piece
    return found


def _openai_usage(told: Told, frame: dict[str, Any]) -> None:
    usage = frame.get("usage")
    if usage and not (frame.get("choices") and "suffice" not in frame):
        told.usage = usage["prompt_tokens"], usage["completion_tokens"]
    told.receipt = frame.get("suffice") or told.receipt


def _chat_whole(told: Told, answer: dict[str, Any]) -> None:
    for choice in answer["choices"]:
        message = choice["message"]
        told.add(told.texts, choice["index"], message.get("content"))
        told.add(told.thoughts, choice["index"], message.get("reasoning"))
        told.finish[choice["index"]] = choice["finish_reason"]
    _openai_usage(told, answer)


def _chat(told: Told, frame: dict[str, Any]) -> None:
    for choice in frame.get("choices", ()):
        told.add(told.texts, choice["index"], choice["delta"].get("content"))
        told.add(told.thoughts, choice["index"], choice["delta"].get("reasoning"))
        told.finish[choice["index"]] = choice["finish_reason"] or told.finish.get(choice["index"])
    _openai_usage(told, frame)


def _completions(told: Told, frame: dict[str, Any]) -> None:
    for choice in frame.get("choices", ()):
        told.add(told.texts, choice["index"], choice["text"])
        told.finish[choice["index"]] = choice["finish_reason"] or told.finish.get(choice["index"])
    _openai_usage(told, frame)


def _response(told: Told, response: dict[str, Any]) -> None:
    for item in response.get("output", ()):
        into = told.thoughts if item["type"] == "reasoning" else told.texts
        for part in item.get("content") or ():
            told.add(into, 0, part.get("text"))
    usage = response.get("usage")
    if usage:
        told.usage = usage["input_tokens"], usage["output_tokens"]
    told.finish[0] = response.get("status")
    told.receipt = response.get("suffice") or told.receipt


def _responses(told: Told, frame: dict[str, Any]) -> None:
    match frame["type"]:
        case "response.output_text.delta":
            told.add(told.texts, 0, frame["delta"])
        case "response.reasoning_text.delta":
            told.add(told.thoughts, 0, frame["delta"])
        case "response.completed" | "response.incomplete" | "response.failed":
            _response(told, frame["response"] | {"output": []})
        case _:
            pass


def _input_tokens(usage: dict[str, Any]) -> int:
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(usage.get(name) or 0 for name in names)


def _message(told: Told, message: dict[str, Any]) -> None:
    for block in message["content"]:
        told.add(told.texts, 0, block.get("text"))
        told.add(told.thoughts, 0, block.get("thinking"))
    told.finish[0] = message["stop_reason"]
    told.usage = _input_tokens(message["usage"]), message["usage"]["output_tokens"]


def _messages(told: Told, frame: dict[str, Any]) -> None:
    match frame["type"]:
        case "content_block_delta":
            told.add(told.texts, 0, frame["delta"].get("text"))
            told.add(told.thoughts, 0, frame["delta"].get("thinking"))
        case "message_delta":
            told.finish[0] = frame["delta"]["stop_reason"]
            told.usage = _input_tokens(frame["usage"]), frame["usage"]["output_tokens"]
            told.receipt = frame.get("suffice") or told.receipt
        case _:
            pass


_READ = {"chat": _chat, "completions": _completions, "responses": _responses, "messages": _messages}
_WHOLE = {"chat": _chat_whole, "completions": _completions, "responses": _response, "messages": _message}
