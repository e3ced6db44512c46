"""Conversations of the three chatting APIs as turns, and back: what is one turn, what it calls and what it answers.

A turn is a message, except where an API writes otherwise: Anthropic's puts several tool results into one message, and
the responses API spreads what the assistant did at once over several items. Shapes that no API knows are pinned as
they are, so that upstream is the one to refuse them. What must not be here: lengths, and what is to be cut.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from suffice.server.gateway.dialects.shape import TEXT_PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

Place = tuple[int, int | None]
"""Number of a message, and of a block of its content; None for the message as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One turn as it stands in a request.

    Attributes:
        role: ``system``, ``developer``, ``user``, ``assistant`` or ``tool``; ``other`` for anything else.
        places: Where it stands.
        words: All of its text, as far as a template may show it.
        calls: Ids of the tool calls that it makes.
        answers: Id of the tool call that it is the result of.
        result: Text of a tool result that may be shortened; None for any other turn.
        media: Images and other parts that are no text.
        pinned: Whether it must stay as it is.
    """

    role: str
    places: tuple[Place, ...]
    words: str
    calls: tuple[str, ...] = ()
    answers: str | None = None
    result: str | None = None
    media: int = 0
    pinned: bool = False


def field_of(api: str) -> str:
    """The field of a request that holds its conversation."""
    return "input" if api == "responses" else "messages"


def pieces_of(api: str, body: Mapping[str, Any]) -> list[Piece] | None:
    """The turns of a request, oldest first; None where it has a single text and no turns.

    What a conversation's first messages become does not depend on those that follow them.
    """
    reader = _READERS.get(api)
    conversation = body.get(field_of(api))
    return None if reader is None or not isinstance(conversation, list) else list(reader(conversation))


def preamble(api: str, body: Mapping[str, Any]) -> str:
    """What the model reads before the conversation: tools, and instructions that have a field of their own."""
    instructions = {"messages": "system", "responses": "instructions"}.get(api, "")
    tools = body.get("tools")
    return "\n".join(part for part in (_json(tools) if tools else "", words(body.get(instructions))) if part)


def rebuilt(api: str, body: dict[str, Any], gone: Collection[Place], short: Mapping[Place, str]) -> dict[str, Any]:
    """The request without what goes, and with the shorter texts of tool results in their places.

    Args:
        api: Name of the dialect.
        body: The request; not changed.
        gone: Places that go.
        short: New texts by place.
    """
    name = field_of(api)
    within = {index for index, block in (*gone, *short) if block is not None}
    kept = []
    for index, message in enumerate(body[name]):
        if (index, None) in gone:
            continue
        if (index, None) in short:
            kept.append(_with_text(message, "output" if api == "responses" else "content", short[index, None]))
        elif index in within:
            content = [
                _with_text(block, "content", short[index, number]) if (index, number) in short else block
                for number, block in enumerate(message["content"])
                if (index, number) not in gone
            ]
            kept += [message | {"content": content}] if content else []
        else:
            kept.append(message)
    return body | {name: kept}


def words(value: Any) -> str:
    """All text in a part of a request, without its marks and ids; calls as most templates write them."""
    match value:
        case str():
            return value
        case list():
            return "\n".join(filter(None, map(words, value)))
        case dict() if _is_media(value):
            return ""
        case {"function": dict() as call} | ({"type": "tool_use" | "function_call"} as call):
            return _call_words(call.get("name"), call.get("arguments", call.get("input")))
        case dict():
            return "\n".join(filter(None, (words(part) for name, part in value.items() if name not in _UNSAID)))
        case None | bool():
            return ""
        case _:
            return str(value)


_UNSAID = frozenset(
    {"call_id", "encrypted_content", "id", "role", "signature", "status", "tool_call_id", "tool_use_id", "type"}
)
"""Keys whose values no template shows, or that a turn's own marks account for."""


def _call_words(name: Any, arguments: Any) -> str:
    given = arguments if isinstance(arguments, str) else _json(arguments)
    return f'<tool_call>\n{{"name": {_json(name)}, "arguments": {given}}}\n</tool_call>'


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _is_media(part: Any) -> bool:
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and kind not in TEXT_PARTS


def _media(value: Any) -> int:
    """Parts of a message that are no text, at any depth."""
    found, stack = 0, [value]
    while stack:
        current = stack.pop()
        if _is_media(current):
            found += 1
        elif isinstance(current, dict):
            stack += [current.get("content"), current.get("output")]
        elif isinstance(current, list):
            stack += current
    return found


def _plain(content: Any) -> str | None:
    """The text of a tool result; None where it holds anything else."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) and not _is_media(part) else None for part in content]
        return "\n".join(parts) if all(isinstance(part, str) for part in parts) else None  # type: ignore[arg-type]
    return content if isinstance(content, str) else None


def _with_text(holder: dict[str, Any], name: str, text: str) -> dict[str, Any]:
    """A tool result with another text, in the form that it had."""
    content = holder[name]
    return holder | {name: [content[0] | {"text": text}] if isinstance(content, list) else text}


@dataclass(slots=True)
class _Pairs:
    """Ties results to calls where ids are missing: by order, as the models see them."""

    waiting: list[str] = field(default_factory=list)

    def calls(self, made: Any, place: int, name: str = "id") -> tuple[str, ...]:
        """Ids of the calls of one turn."""
        calls = made if isinstance(made, list) else []
        found = [call.get(name) if isinstance(call, dict) else None for call in calls]
        ids = tuple(one if isinstance(one, str) and one else f"#{place}.{k}" for k, one in enumerate(found))
        if ids:
            self.waiting = list(ids)
        return ids

    def answered(self, given: Any) -> str | None:
        """The call that a result belongs to; None where there is none."""
        name = given if isinstance(given, str) and given else next(iter(self.waiting), None)
        if name in self.waiting:
            self.waiting.remove(name)
        return name


def _plain_piece(role: Any, place: Place, message: Any) -> Piece:
    """A turn that neither calls nor answers."""
    known = role if isinstance(role, str) and role in _ROLES else "other"
    media = _media(message)
    return Piece(role=known, places=(place,), words=words(message), media=media, pinned=media > 0 or known == "other")


_ROLES = frozenset({"system", "developer", "user", "assistant"})


def _result_piece(answers: str | None, place: Place, holder: dict[str, Any], name: str) -> Piece:
    """The result of a tool call."""
    text, media = _plain(holder.get(name)), _media(holder)
    return Piece(
        role="tool",
        places=(place,),
        words=words(holder) if text is None else text,
        answers=answers,
        result=text,
        media=media,
        pinned=text is None,
    )


def _chat(messages: Sequence[dict[str, Any]]) -> Iterator[Piece]:
    pairs = _Pairs()
    for index, message in enumerate(messages):
        role = message.get("role")
        if role == "tool":
            yield _result_piece(pairs.answered(message.get("tool_call_id")), (index, None), message, "content")
            continue
        plain = _plain_piece(role, (index, None), message)
        calls = pairs.calls(message.get("tool_calls"), index) if role == "assistant" else ()
        # The form of calls before there were tools ties results by name; it is left alone.
        yield _calling(plain, calls, pinned=plain.pinned or message.get("function_call") is not None)


def _calling(plain: Piece, calls: tuple[str, ...], *, pinned: bool) -> Piece:
    return Piece(role=plain.role, places=plain.places, words=plain.words, calls=calls, media=plain.media, pinned=pinned)


def _anthropic(messages: Sequence[dict[str, Any]]) -> Iterator[Piece]:
    pairs = _Pairs()
    for index, message in enumerate(messages):
        content = message.get("content")
        blocks = content if isinstance(content, list) else []
        kinds = [block.get("type") if isinstance(block, dict) else None for block in blocks]
        if message.get("role") == "user" and "tool_result" in kinds:
            for number, (kind, block) in enumerate(zip(kinds, blocks, strict=True)):
                if kind == "tool_result":
                    answers = pairs.answered(block.get("tool_use_id"))
                    yield _result_piece(answers, (index, number), block, "content")
                else:
                    yield _plain_piece("user", (index, number), block)
            continue
        plain = _plain_piece(message.get("role"), (index, None), message)
        made = [block for kind, block in zip(kinds, blocks, strict=True) if kind == "tool_use"]
        calls = pairs.calls(made, index) if plain.role == "assistant" else ()
        yield _calling(plain, calls, pinned=plain.pinned)


def _responses(items: Sequence[Any]) -> Iterator[Piece]:
    pairs = _Pairs()
    run: list[tuple[int, dict[str, Any]]] = []
    for index, item in enumerate(items):
        kind = item.get("type", "message") if isinstance(item, dict) else None
        role = item.get("role") if kind == "message" else None
        if role == "assistant" or kind in ("reasoning", "function_call"):
            run.append((index, item))
            continue
        if run:
            yield _acting(run, pairs)
            run = []
        if kind == "function_call_output":
            yield _result_piece(pairs.answered(item.get("call_id")), (index, None), item, "output")
        else:
            yield _plain_piece(role, (index, None), item)
    if run:
        yield _acting(run, pairs)


def _acting(run: list[tuple[int, dict[str, Any]]], pairs: _Pairs) -> Piece:
    """What the assistant thought, said and called before it was answered: one turn, as upstream's template has it."""
    made = [item for _, item in run if item.get("type") == "function_call"]
    items = [item for _, item in run]
    media = _media(items)
    return Piece(
        role="assistant",
        places=tuple((index, None) for index, _ in run),
        words=words(items),
        calls=pairs.calls(made, run[0][0], "call_id"),
        media=media,
        pinned=media > 0,
    )


_READERS: dict[str, Callable[[Sequence[Any]], Iterator[Piece]]] = {
    "chat": _chat,
    "messages": _anthropic,
    "responses": _responses,
}
