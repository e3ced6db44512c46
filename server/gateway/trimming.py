"""Cuts a request's conversation down to a length, where the request, its preset or the operator asks for it.

What stays is for ``suffice.policies.memory.trim`` to say. Here it gets the lengths that it decides by, and what it
decides is carried out on the request. Lengths are bytes, which no text's tokens outnumber; only where these pass the
limit are they counted. Each turn is counted by itself, so that a conversation that grows is cut where it was cut
before, and upstream's prefix cache goes on hitting. What must not be here: shapes of APIs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from suffice.policies.budget import tightest
from suffice.policies.memory.trim import Trimmed, TrimRule, Turn, trim
from suffice.policies.plan import NotApplied
from suffice.server.gateway.dialects import shape
from suffice.server.gateway.field import ContextField
from suffice.server.gateway.planner import TEMPLATE_SLACK, asked_of, key_limits
from suffice.server.gateway.seating import tenant_of
from suffice.server.gateway.turns import Piece, Place, field_of, pieces_of, preamble, rebuilt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from suffice.server.config import Config
    from suffice.server.gateway.dialects.base import Call
    from suffice.server.gateway.facts import Served
    from suffice.server.gateway.field import SufficeField
    from suffice.server.gateway.service import Service
    from suffice.server.gateway.text_lengths import TextLengths
    from suffice.server.gateway.wishes import Wishes
    from suffice.server.ledger.keys import KeyRecord

RULE = "context"
"""What trimming is called in a receipt that says why it was not applied."""

MARKS = 8
"""Tokens that a template may put around a turn, or around one call in it beside what most write of calls."""
RESULT_MARKS = 16
"""Tokens that it may put around a tool's result."""
MEDIA_TOKENS = 1024
"""Tokens that an image or a file is taken for; what it really takes, upstream alone knows."""
TOOL_INSTRUCTIONS = 256
"""Tokens of instructions that a template may add once there are tools."""
MOST_TURNS = 2048
"""Turns beyond which a conversation is left to upstream to refuse; what deciding costs grows with them."""

_ANSWER_SHARE = 4
"""One part in this many of the context at most is kept for an answer whose length nobody named."""
_NAMED_SHARE = 2
"""The same for an answer whose length the client named."""
_AIM = 0.75
"""A cut goes down to this part of the limit, so that many turns fit before the next one."""
_MARK_TOKENS = 16
"""About what the words in the middle of a shortened result take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trimming:
    """What trimming did to a request.

    Attributes:
        told: What the receipt says of it; None where nothing was cut.
        not_applied: Why it was asked for in vain, where it was.
    """

    told: dict[str, Any] | None = None
    not_applied: tuple[NotApplied, ...] = ()


def merged(config: Config, field: SufficeField, preset: str) -> ContextField:
    """What is to be done, from the request, its preset and the operator.

    The nearest to the request wins, but for ``max_tokens``: there the smallest does, so that a request can have its
    conversation cut sooner than the operator would, and not later. It can always decline.
    """
    sources = [one for one in (field.context, config.presets[preset].context, config.policies.context) if one]
    named = {
        name: [value for one in sources if (value := getattr(one, name)) is not None]
        for name in ContextField.model_fields
    }
    found = {name: (min if name == "max_tokens" else _first)(values) for name, values in named.items() if values}
    return ContextField.model_validate(found)


def _first(values: list[Any]) -> Any:
    return values[0]


async def trim_context(
    service: Service, api: str, call: Call, key: KeyRecord, model: Served, preset: str, wishes: Wishes
) -> tuple[Call, Trimming]:
    """Cut the conversation of a request, if that is asked for and needed.

    Pure but for asking upstream's tokeniser: the same request is cut in the same way, however often it comes.

    Args:
        service: The gateway's parts.
        api: Name of the dialect.
        call: The checked request.
        key: Its key.
        model: The model that will answer.
        preset: The preset in force.
        wishes: The rules that it is to run.

    Returns:
        The request to go on with, and what was done.
    """
    wish = merged(service.config, call.field, preset)
    if wish.trim != "auto":
        return call, _refused(service, _IDLE) if _asked_in_vain(call.field) else Trimming()
    most = _most(service.config, call, key, model, preset, wishes, wish)
    pieces = pieces_of(api, call.body)
    if pieces is None:
        # A single text in the chatting APIs is one user's turn, which always stays.
        return call, _refused(service, _NO_TURNS) if api == "completions" else Trimming()
    if most is None or most < 1:
        return call, _refused(service, _NO_LIMIT if most is None else _NO_ROOM)
    texts = [preamble(api, call.body), *(piece.words for piece in pieces)]
    front = MARKS + model.template_tokens + (TOOL_INSTRUCTIONS if call.body.get("tools") else 0)
    marks = [front, *map(_marks, pieces)]
    if sum(map(_bytes, texts)) + sum(marks) <= most:
        return call, Trimming()
    if len(pieces) > MOST_TURNS:
        return call, _refused(service, _MANY)
    ruler = _Ruler(service.text_lengths, model.name, service.cache_salt(tenant_of(key)))
    lengths = await ruler.all(texts)
    trimmed = trim(
        _turns(pieces, [length + mark for length, mark in zip(lengths, marks, strict=True)]), _rule(most, wish)
    )
    if not trimmed.steps:
        return call, Trimming()
    short: dict[Place, str] = {}
    after = trimmed.tokens
    for kept in trimmed.kept:
        if kept.index in trimmed.shortened:
            piece, allowed = pieces[kept.index - 1], kept.tokens - marks[kept.index]
            text, length = await shortened(piece.result or "", allowed, lengths[kept.index], ruler.one)
            short[piece.places[0]] = text
            after += length - allowed
    gone = {place for index in trimmed.dropped for place in pieces[index - 1].places}
    service.metrics.context_trimmed.inc(max(0, trimmed.tokens_before - after))
    told = _told(trimmed, after, gone, short, estimated=not ruler.counts)
    return _with_body(call, api, rebuilt(api, call.body, gone, short)), Trimming(told=told)


@dataclass(slots=True)
class _Ruler:
    """Lengths of one request's texts: counted, or their bytes where upstream does not count."""

    lengths: TextLengths
    model: str
    tenant: str
    counts: bool = True

    async def all(self, texts: list[str]) -> list[int]:
        counted = await self.lengths.count_all(texts, model=self.model, tenant=self.tenant)
        self.counts = counted is not None
        # A count is never more than the bytes, so that no conversation is cut that was let through before.
        return [min(pair) for pair in zip(map(_bytes, texts), counted or map(_bytes, texts), strict=True)]

    async def one(self, text: str) -> int:
        counted = await self.lengths.count(text, model=self.model, tenant=self.tenant) if self.counts else None
        return _bytes(text) if counted is None else counted


def _bytes(text: str) -> int:
    return len(text.encode())


def _with_body(call: Call, api: str, body: dict[str, Any]) -> Call:
    field = field_of(api)
    freed = shape.weight(call.body[field]) - shape.weight(body[field])
    return replace(call, body=body, prompt_bytes=max(call.prompt_bytes - freed, 1))


def _most(
    config: Config, call: Call, key: KeyRecord, model: Served, preset: str, wishes: Wishes, wish: ContextField
) -> int | None:
    """Tokens beyond which the prompt is cut: what is named, or what the context leaves beside the answer."""
    if model.context is None:
        return wish.max_tokens
    asked = asked_of(config, call, key_limits(key), model.name, preset, wishes, prompt_tokens=0, prompt_exact=False)
    limits = tightest(*asked.sources)
    lengths = [limits[name].value for name in ("sample_tokens", "total_tokens") if name in limits]
    room = min(lengths, default=model.context)
    # Either length is fitted to what the context has left: a generous one must not cost the whole conversation.
    room = min(room, model.context // (_NAMED_SHARE if call.explicit_max else _ANSWER_SHARE))
    fits = model.context - room - TEMPLATE_SLACK
    return fits if wish.max_tokens is None else min(fits, wish.max_tokens)


def _rule(most: int, wish: ContextField) -> TrimRule:
    named = {name: getattr(wish, name) for name in ("first", "recent", "result_tokens")}
    return TrimRule(
        most=most, least=int(most * _AIM), **{name: value for name, value in named.items() if value is not None}
    )


def _marks(piece: Piece) -> int:
    around = RESULT_MARKS if piece.role == "tool" else MARKS
    return around + MARKS * len(piece.calls) + MEDIA_TOKENS * piece.media


def _turns(pieces: list[Piece], tokens: list[int]) -> list[Turn]:
    """What the rule sees; what stands before the conversation is its first turn, and stays."""
    front = Turn(role="system", tokens=tokens[0], pinned=True)
    rest = (
        Turn(role=piece.role, tokens=length, calls=piece.calls, answers=piece.answers, pinned=piece.pinned)
        for piece, length in zip(pieces, tokens[1:], strict=True)
    )
    return [front, *rest]


async def shortened(text: str, most: int, tokens: int, count: Callable[[str], Awaitable[int]]) -> tuple[str, int]:
    """Head and tail of a text, with words in between that say how much is left out.

    Args:
        text: The text.
        most: Tokens that may stay; the words in between alone may be more.
        tokens: The text's own length.
        count: Tells the length of a text.

    Returns:
        The shorter text and its length. It depends on the arguments alone.
    """
    keep = min(len(text), len(text) * max(most - _MARK_TOKENS, 0) // max(tokens, 1))
    while True:
        head, tail = keep - keep // 2, keep // 2
        short = f"{text[:head]}\n[... {len(text) - keep} characters left out ...]\n{text[len(text) - tail :]}"
        length = await count(short)
        if length <= most or not keep:
            return short, length
        # Tokens are not spread evenly: less is kept until it fits, a little less than what should.
        keep = keep * most * 7 // (length * 8)


def _told(
    trimmed: Trimmed, after: int, gone: set[Place], short: dict[Place, str], *, estimated: bool
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "tokens_before": trimmed.tokens_before,
        "tokens_after": after,
        "dropped": sorted({message for message, _ in gone}),
        "shortened": sorted({message for message, _ in short}),
        "steps": trimmed.steps,
    }
    return told | ({"estimated": True} if estimated else {})


def _asked_in_vain(field: SufficeField) -> bool:
    asked = field.context
    return asked is not None and asked.trim is None and bool(asked.model_fields_set - {"trim"})


def _refused(service: Service, why: str) -> Trimming:
    service.metrics.not_applied.labels(RULE).inc()
    return Trimming(not_applied=(NotApplied(rule=RULE, why=why),))


_IDLE = "trimming is off; suffice.context.trim turns it on"
_NO_TURNS = "a completions prompt is one text; chat, responses and messages have turns that can go"
_NO_LIMIT = "the model's context is not known, and max_tokens is not named"
_NO_ROOM = "the model's context is too small to cut anything to"
_MANY = f"the conversation has more than {MOST_TURNS} turns"
