"""What a stream or an answer looks like when its words are taken away: kinds in order, keys, types of values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import httpx2


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer as it came, its stream already cut into frames."""

    status: int
    media_type: str
    frames: list[tuple[str, Any]]
    broke_off: bool = False


def ask(url: str, path: str, body: dict[str, Any] | bytes, headers: dict[str, str] | None = None) -> Answer:
    """Send one request and read all of the answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **(headers or {})}
    text, broke_off = b"", False
    with (
        httpx2.Client(timeout=120, trust_env=False) as client,
        client.stream("POST", url + path, content=content, headers=headers) as response,
    ):
        try:
            for piece in response.iter_raw():
                text += piece
        except httpx2.TransportError:
            broke_off = True
    media = response.headers.get("content-type", "")
    if media.startswith("text/event-stream"):
        frames = [_frame(block) for block in text.decode().split("\n\n") if block]
    else:
        frames = [("", json.loads(text))]
    return Answer(status=response.status_code, media_type=media, frames=frames, broke_off=broke_off)


def _frame(block: str) -> tuple[str, Any]:
    fields = dict(line.split(": ", 1) for line in block.split("\n"))
    data = fields["data"]
    return fields.get("event", ""), data if data == "[DONE]" else json.loads(data)


def kind(name: str, frame: Any) -> str:
    """What sort of frame this is, in words that suit all four APIs."""
    if frame == "[DONE]":
        return "done"
    if name:
        inner = frame.get("delta")
        return f"{name}:{inner.get('type')}" if isinstance(inner, dict) else name
    if "error" in frame:
        return "error"
    if not frame["choices"]:
        return "usage"
    choice = frame["choices"][0]
    end = "finish:" if choice["finish_reason"] is not None else ""
    if "text" in choice:
        return f"{end}text"
    shown = [key for key, value in choice["delta"].items() if value is not None]
    return end + ("+".join(shown) or "empty")


def order(answer: Answer) -> dict[int | None, list[str]]:
    """Kinds in order, repeats collapsed, told apart by choice: how choices interleave is up to the scheduler."""
    found: dict[int | None, list[str]] = {}
    for name, frame in answer.frames:
        index = None
        if isinstance(frame, dict) and frame.get("choices"):
            index = frame["choices"][0]["index"]
        kinds = found.setdefault(index, [])
        this = kind(name, frame)
        if not kinds or kinds[-1] != this:
            kinds.append(this)
    return found


def types(value: Any) -> Any:
    """A value's type; for objects and lists, those of what they hold."""
    if isinstance(value, dict):
        return {key: types(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return ["list", *sorted({json.dumps(types(item), sort_keys=True) for item in value})]
    return type(value).__name__


def keys(answer: Answer) -> dict[str, list[str]]:
    """The shapes in which each kind of frame came."""
    found: dict[str, set[str]] = {}
    for name, frame in answer.frames:
        shape = types(_without_words(frame))
        found.setdefault(kind(name, frame) if answer.status == 200 else "body", set()).add(json.dumps(shape))
    return {name: sorted(shapes) for name, shapes in sorted(found.items())}


def _without_words(frame: Any) -> Any:
    """The frame without the maps that have words for keys."""
    if isinstance(frame, dict):
        return {
            key: ["words"] if key == "top_logprobs" else _without_words(value)
            for key, value in frame.items()
            if key not in ("properties", "sequence_number")
        }
    if isinstance(frame, list):
        return [_without_words(item) for item in frame]
    return frame


def error(answer: Answer) -> dict[str, Any]:
    """An error without its numbers and names."""
    ((_, body),) = answer.frames
    detail = body.get("error", body) if isinstance(body, dict) else {}
    message = str(detail.get("message", ""))
    if detail.get("type") == "Bad Request" or "validation error" in message:
        message = "unreadable"
    message = re.sub(r"`[^`]*`|aliases: .*", "`..`", re.sub(r"at least |-?\d+", "", message))
    return {"status": answer.status, "type": detail.get("type"), "param": detail.get("param"), "message": message}


def counts_hold(answer: Answer) -> None:
    """Assert what the gateway's metering relies on, in any chat or completions stream with continuous usage."""
    last: dict[int, int] = {}
    ids: dict[int, int] = {}
    final = 0
    for frame in (frame for _, frame in answer.frames if frame != "[DONE]"):
        usage = frame["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        for choice in frame["choices"]:
            index = choice["index"]
            assert usage["completion_tokens"] >= last.get(index, 0)
            last[index] = usage["completion_tokens"]
            ids[index] = ids.get(index, 0) + len(choice.get("token_ids") or [])
        if not frame["choices"]:
            final = usage["completion_tokens"]
    assert final == sum(last.values())
    assert all(count in (0, last[index]) for index, count in ids.items())
