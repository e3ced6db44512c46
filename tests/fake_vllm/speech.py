"""The tokens of one choice, one after another, as a model would say them after a given prompt.

A prompt may end within a thought or within an answer; the script then goes on from there, which is what makes closing
and resuming visible to a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fake_vllm import tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fake_vllm.plugin import Steering
    from fake_vllm.script import Script, ToolCall

Channel = Literal["thought", "mark", "answer", "tool", "end"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPart:
    """What one token adds to a tool call: the name, which opens it, or a piece of the arguments."""

    index: int
    name: str | None = None
    arguments: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One generated token."""

    id: int
    text: str
    channel: Channel
    tool: ToolPart | None = None


def _last(ids: list[int], piece: str) -> int:
    number = tokenizer.id_of(piece)
    return next((place for place in range(len(ids) - 1, -1, -1) if ids[place] == number), -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a prompt leaves off.

    Attributes:
        thought_tokens: Tokens since the last ``<think>``, or None outside a thought.
        closed_thought: A thought of the turn that is being continued is already closed.
        tail: Text of the answer so far.
        asks_for_turn: The prompt ends where the model's turn begins.
    """

    thought_tokens: int | None
    closed_thought: bool
    tail: str
    asks_for_turn: bool


def locate(prompt: list[int]) -> Place:
    """Read a prompt's end."""
    turn = _last(prompt, tokenizer.ASSISTANT)
    opened = _last(prompt, tokenizer.THINK)
    closed = _last(prompt, tokenizer.CLOSE_THINK)
    inside = opened > max(closed, turn - 1)
    began = max(turn, closed)
    return Place(
        thought_tokens=len(prompt) - opened - 1 if inside else None,
        closed_thought=closed > max(opened, turn),
        tail="" if inside or began < 0 else tokenizer.decode(prompt[began + 1 :]),
        asks_for_turn=turn >= 0 and turn == len(prompt) - 1,
    )


def _resume(answer: tuple[str, ...], tail: str) -> int:
    said = tail.strip()
    if not said:
        return 0
    return next((end for end in range(len(answer), 0, -1) if "".join(answer[:end]).strip() == said), 0)


def _token(text: str, channel: Channel, tool: ToolPart | None = None) -> Token:
    return Token(id=tokenizer.id_of(text), text=text, channel=channel, tool=tool)


def _call(number: int, call: ToolCall) -> Iterator[Token]:
    hidden = [_token("<|tool|>", "tool")] * call.hidden
    yield from hidden
    yield _token(call.name, "tool", ToolPart(index=number, name=call.name))
    yield from hidden
    for piece in tokenizer.split(call.arguments):
        yield _token(piece, "tool", ToolPart(index=number, arguments=piece))
    yield from hidden


def _think(script: Script, count: int, budget: int | None, steering: Steering | None) -> Iterator[Token]:
    while (budget is None or count < budget) and (steering is None or steering.goes_on(count)):
        if count < len(script.thought):
            yield _token(script.thought[count], "thought")
        elif script.endless_thought:
            yield _token(script.thought[-1] if script.thought else " hm", "thought")
        else:
            break
        count += 1
    yield _token(tokenizer.CLOSE_THINK, "mark")


def speak(
    script: Script, prompt: list[int], *, thinks: bool, budget: int | None, steering: Steering | None = None
) -> Iterator[Token]:
    """All tokens that the model would say, the end of turn last; endless where the script is.

    Args:
        script: What is to be said.
        prompt: Token ids so far.
        thinks: The model opens a thought by itself at the start of its turn.
        budget: Longest thought in tokens, those in the prompt included, as vLLM counts.
        steering: What suffice's plugin does to the request.
    """
    place = locate(prompt)
    count = place.thought_tokens
    if count is None and thinks and place.asks_for_turn:
        yield _token(tokenizer.THINK, "mark")
        count = 0
    if count is not None:
        yield from _think(script, count, budget, steering)
    start = _resume(script.answer, place.tail)
    for piece in script.answer[start:]:
        yield _token(piece, "answer")
    for number, call in enumerate(script.tool_calls):
        yield from _call(number, call)
    while script.endless:
        yield _token(script.answer[-1] if script.answer else " more", "answer")
    yield Token(id=tokenizer.id_of(tokenizer.END), text="", channel="end")
    while True:  # only a request that ignores the end of turn comes here
        yield _token(" more", "answer")
