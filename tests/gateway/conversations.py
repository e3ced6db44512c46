"""Long conversations in the words of each chatting API, and what a test must know of one to tell whether a cut is fair.

A message of each dialect may hold several calls or results, or share a turn with others; ids tie them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}
SYSTEM = "You answer briefly."


@dataclass(frozen=True)
class Step:
    """What happens in a conversation, told without any API.

    Attributes:
        kind: ``user``, ``assistant``, or ``tools`` for calls with their results.
        text: What is said.
        results: Texts of the results, by the ids of the calls.
    """

    kind: str
    text: str
    results: tuple[tuple[str, str], ...] = ()


def random_steps(random: Random, length: int, longest: int = 60) -> list[Step]:
    """A conversation that starts with the user and ends with the user or with results."""
    steps = [Step("user", _words(random, longest))]
    number = 0
    while len(steps) < length or steps[-1].kind == "assistant":
        kind = random.choice(["user", "assistant", "tools", "tools"])
        if kind == steps[-1].kind != "tools":
            continue
        results = []
        if kind == "tools":
            for _ in range(random.choice([1, 1, 2, 3])):
                number += 1
                results.append((f"call{number}", _words(random, 4 * longest)))
        steps.append(Step(kind, _words(random, longest), tuple(results)))
    return steps


def _words(random: Random, longest: int) -> str:
    return " ".join(random.choice(["tide", "wind", "sea é", "rain", "7.5"]) for _ in range(random.randint(1, longest)))


def body(api: str, steps: list[Step], **more: Any) -> dict[str, Any]:
    """A request of one API with a conversation and a system prompt."""
    match api:
        case "chat":
            messages = [{"role": "system", "content": SYSTEM}]
            for step in steps:
                messages += list(_chat(step))
            told: dict[str, Any] = {"messages": messages}
        case "messages":
            told = {"system": SYSTEM, "max_tokens": 16, "messages": [one for step in steps for one in _anthropic(step)]}
        case _:
            told = {"instructions": SYSTEM, "input": [one for step in steps for one in _items(step)]}
    return {"model": "fake"} | told | more


def _chat(step: Step) -> Iterator[dict[str, Any]]:
    if step.kind != "tools":
        yield {"role": step.kind, "content": step.text}
        return
    function = {"name": "look", "arguments": '{"deep": true}'}
    calls = [{"id": name, "type": "function", "function": function} for name, _ in step.results]
    yield {"role": "assistant", "content": step.text, "tool_calls": calls}
    for name, text in step.results:
        yield {"role": "tool", "tool_call_id": name, "content": text}


def _anthropic(step: Step) -> Iterator[dict[str, Any]]:
    if step.kind != "tools":
        yield {"role": step.kind, "content": step.text}
        return
    calls = [{"type": "tool_use", "id": name, "name": "look", "input": {"deep": True}} for name, _ in step.results]
    yield {"role": "assistant", "content": [{"type": "text", "text": step.text}, *calls]}
    results = [
        {"type": "tool_result", "tool_use_id": name, "content": [{"type": "text", "text": text}]}
        for name, text in step.results
    ]
    # Clients may add words of the user's to results.
    yield {"role": "user", "content": [*results, {"type": "text", "text": "Go on."}] if len(results) == 2 else results}


def _items(step: Step) -> Iterator[dict[str, Any]]:
    if step.kind != "tools":
        yield {"role": step.kind, "content": step.text}
        return
    yield {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": step.text}]}
    for name, _ in step.results:
        yield {"type": "function_call", "call_id": name, "name": "look", "arguments": '{"deep": true}'}
    for name, text in step.results:
        yield {"type": "function_call_output", "call_id": name, "output": text}


def conversation(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The conversation of a request, whichever API it is of."""
    return request["input"] if "input" in request else request["messages"]


def calls(request: dict[str, Any]) -> list[str]:
    """Ids of all calls in a request, in order."""
    found = []
    for message in conversation(request):
        found += [call["id"] for call in message.get("tool_calls", ())]
        found += [block["id"] for block in _blocks(message) if block["type"] == "tool_use"]
        found += [message["call_id"]] if message.get("type") == "function_call" else []
    return found


def results(request: dict[str, Any]) -> list[tuple[str, str]]:
    """Ids and texts of all results in a request, in order."""
    found = []
    for message in conversation(request):
        if message.get("role") == "tool":
            found.append((message["tool_call_id"], message["content"]))
        if message.get("type") == "function_call_output":
            found.append((message["call_id"], message["output"]))
        found += [
            (block["tool_use_id"], block["content"][0]["text"])
            for block in _blocks(message)
            if block["type"] == "tool_result"
        ]
    return found


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def spoken(request: dict[str, Any], role: str) -> list[str]:
    """What one side said, in order; not what tools did."""
    found = []
    for message in conversation(request):
        if message.get("role") == role:
            content = message.get("content")
            found += [content] if isinstance(content, str) else []
            found += [block["text"] for block in _blocks(message) if block["type"] == "text"]
    return found
