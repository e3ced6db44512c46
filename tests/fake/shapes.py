"""What a stream or an answer looks like when its words are taken away: kinds in order, keys, types of values."""

from __future__ import annotations

import atexit
import functools
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

    @property
    def streamed(self) -> bool:
        """Whether it came as an event stream."""
        return self.media_type.startswith("text/event-stream")


@functools.cache
def _client() -> httpx2.Client:
    """One client for all: making one costs more than most requests."""
    client = httpx2.Client(timeout=120, trust_env=False)
    atexit.register(client.close)
    return client


def ask(url: str, path: str, body: dict[str, Any] | bytes, headers: dict[str, str] | None = None) -> Answer:
    """Send one request and read all of the answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **(headers or {})}
    text, broke_off = b"", False
    with _client().stream("POST", url + path, content=content, headers=headers) as response:
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


def parts(name: str, frame: Any) -> list[tuple[str, Any]]:
    """What one frame of a stream holds: a word for each thing, in words that suit all four APIs, and its share.

    A server whose writer lags behind its engine puts several steps into one frame: a thought's last words and the
    answer's first, or the last words and the finish. How many is a matter of timing and not of the dialect, so a
    frame counts as the frames that it may have been put together from.
    """
    if frame == "[DONE]":
        return [("done", frame)]
    if name:
        inner = frame.get("delta")
        kind = f"{name}:{inner.get('type') or inner.get('stop_reason')}" if isinstance(inner, dict) else name
        return [(kind, frame)]
    if "error" in frame:
        return [("error", frame)]
    if not frame["choices"]:
        return [("usage", frame)]
    (choice,) = frame["choices"]
    finish = choice["finish_reason"]
    unfinished = choice | {"finish_reason": None}
    unfinished.pop("stop_reason" if "delta" in choice else "", None)
    rest = {key: value for key, value in frame.items() if key != "system_fingerprint"}
    if "text" in choice:
        found = [("text", unfinished)] if choice["text"] else []
        last = choice | {"text": ""}
    else:
        delta = choice["delta"]
        found = [(key, unfinished | {"delta": {key: delta[key]}}) for key in _IN_ORDER if delta.get(key)]
        if "role" in delta:
            found = [("role", choice)]
        last = choice | {"delta": {}}
    shares = [(kind, rest | {"choices": [share]}) for kind, share in found]
    if finish is not None:
        shares.append((f"finish:{finish}", frame | {"choices": [last]}))
    return shares or [("empty", frame)]


_IN_ORDER = ("reasoning", "content", "tool_calls")


def order(answer: Answer) -> dict[int | None, list[str]]:
    """Kinds in order, repeats collapsed, told apart by choice: how choices interleave is up to the scheduler.

    Frames that show nothing are left out, as they vanish when they are put together with others.
    """
    if not answer.streamed:
        return {None: [_ending(frame) for _, frame in answer.frames]}
    found: dict[int | None, list[str]] = {}
    for name, frame in answer.frames:
        index = None
        if isinstance(frame, dict) and frame.get("choices"):
            index = frame["choices"][0]["index"]
        seen = found.setdefault(index, [])
        for kind, _ in parts(name, frame):
            if kind != "empty" and (not seen or seen[-1] != kind):
                seen.append(kind)
    return found


def _ending(body: Any) -> str:
    """How a whole answer ended."""
    if "choices" in body:
        return " ".join(str(choice["finish_reason"]) for choice in body["choices"])
    return str(body.get("stop_reason") or body.get("status"))


def shape(value: Any, place: str = "") -> frozenset[str]:
    """A value as the paths and types of all it holds; empty lists and objects stand for themselves."""
    if isinstance(value, dict) and value:
        return frozenset().union(*(shape(held, f"{place}.{key}") for key, held in value.items()))
    if isinstance(value, list) and value:
        return frozenset().union(*(shape(held, f"{place}[]") for held in value))
    return frozenset({f"{place or 'body'}: {type(value).__name__}"})


def keys(answer: Answer) -> dict[str, set[frozenset[str]]]:
    """The shapes in which each kind of frame came."""
    found: dict[str, set[frozenset[str]]] = {}
    for name, frame in answer.frames:
        for kind, share in parts(name, frame) if answer.streamed else [("whole", frame)]:
            found.setdefault(kind, set()).add(shape(_without_words(share)))
    return found


def differences(real: Answer, faked: Answer) -> list[str]:
    """How the shapes of two answers differ, readable.

    Whether steps that show nothing come alone is a matter of timing; where both answers have such, they are alike.
    """
    ours, theirs = keys(real), keys(faked)
    if "empty" not in ours.keys() & theirs.keys():
        ours.pop("empty", None)
        theirs.pop("empty", None)
    found = []
    for kind in sorted(ours.keys() | theirs.keys()):
        only_real = ours.get(kind, set()) - theirs.get(kind, set())
        only_fake = theirs.get(kind, set()) - ours.get(kind, set())
        known_real = frozenset().union(*ours.get(kind, set()))
        known_fake = frozenset().union(*theirs.get(kind, set()))
        if only_real or only_fake:
            found.append(
                f"{kind}: real only {sorted(known_real - known_fake)}, fake only {sorted(known_fake - known_real)}; "
                f"variants {len(only_real)} real only, {len(only_fake)} fake only"
            )
    return found


def spent(answer: Answer) -> Any:
    """What was generated, as the answer's last usage tells it; None where it tells nothing."""
    found = None
    for _, frame in answer.frames:
        if isinstance(frame, dict):
            usage = frame.get("usage") or (frame.get("response") or {}).get("usage")
            if usage and not (answer.streamed and frame.get("choices")):
                count = usage.get("completion_tokens", usage.get("output_tokens"))
                details = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
                found = (count, details.get("reasoning_tokens"))
    return found


def _without_words(frame: Any) -> Any:
    """The frame without the maps that have words for keys."""
    if isinstance(frame, dict):
        return {
            key: ["words"] if key == "top_logprobs" else _without_words(value)
            for key, value in frame.items()
            if key not in ("properties", "sequence_number", "input")
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
