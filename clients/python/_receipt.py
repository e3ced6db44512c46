"""What a request was given and what it spent: the gateway's receipt as types.

An older client must read a newer gateway's receipt, so unknown fields are kept (in ``model_extra``), names of rules
are plain strings and whatever is missing has a default. What must not be here: HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from suffice._options import FIELD


class _Received(BaseModel):
    """Base of the receipt's types: immutable, and open towards newer gateways."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class Limit(NamedTuple):
    """One limit in force and where it came from."""

    value: int
    """The limit."""
    source: str
    """Who set it, such as ``"key"``, ``"request"`` or ``"preset"``."""


def _known_part(value: Any) -> Any:
    """Drop what a newer gateway may have appended to a limit."""
    return value[: len(Limit._fields)] if isinstance(value, list | tuple) else value


class NotApplied(_Received):
    """A rule that was asked for and could not be applied."""

    rule: str
    """The rule's name."""
    why: str = ""
    """The reason."""


class Plan(_Received):
    """What was decided before the first token."""

    preset: str | None = None
    """Preset in force."""
    policy_version: str | None = None
    """Hash of the operator's policy."""
    limits: dict[str, Annotated[Limit, BeforeValidator(_known_part)]] = Field(default_factory=dict)
    """Every limit in force, by name, with its source."""
    thinking_cap: str | None = None
    """Who closes a thought that reaches its limit: ``"engine"``, ``"gateway"`` or ``"none"``."""


class Spent(_Received):
    """What the request used. Tokens are counted by the engine."""

    prompt_tokens: int = 0
    """Tokens read."""
    completion_tokens: int = 0
    """Tokens generated and answered with."""
    probe_tokens: int = 0
    """Tokens generated to look at a thought's progress."""
    cancelled_tokens: int = 0
    """Tokens generated for samples that were cancelled."""
    samples: int = 0
    """Samples drawn."""
    wall_ms: float = 0
    """Milliseconds from receipt of the request to its end."""
    queue_ms: float = 0
    """Of these, milliseconds before anything was sent to the engine."""
    kv_block_seconds: float = 0
    """KV-cache blocks held, times seconds."""
    estimated: bool = False
    """Whether the tokens of a cut stream were estimated, because its API does not tell them."""

    @property
    def generated_tokens(self) -> int:
        """Everything generated: what a ``total_tokens`` limit is about."""
        return self.completion_tokens + self.probe_tokens + self.cancelled_tokens


class Saved(_Received):
    """What stopping early avoided."""

    samples: int = 0
    """Samples not drawn."""
    tokens_estimate: int = 0
    """Estimate of the tokens that they would have taken."""


class Votes(_Received):
    """The samples' vote on the answer."""

    winner: str | None = None
    """The answer with the most votes; None where no sample had one."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Votes by answer."""
    rule: str | None = None
    """The rule that ended the drawing."""
    confidence: float | None = None
    """The rule's confidence in the winner."""


class Stop(_Received):
    """Why one sample was stopped by a rule."""

    sample: int = 0
    """Index of the sample, in launch order."""
    rule: str
    """The rule's name."""
    by: str | None = None
    """Who stopped it: ``"engine"`` or ``"gateway"``."""
    at_token: int | None = None
    """Generated tokens of the sample at that point."""


class Receipt(_Received):
    """The gateway's account of one request."""

    request_id: str | None = None
    """The request's name in the gateway's logs."""
    plan: Plan = Plan()
    """What was decided before the first token."""
    spent: Spent = Spent()
    """What was used."""
    saved: Saved = Saved()
    """What stopping early avoided."""
    votes: Votes | None = None
    """The samples' vote, where there was one."""
    stops: tuple[Stop, ...] = ()
    """Samples that a rule stopped."""
    not_applied: tuple[NotApplied, ...] = ()
    """Rules that were asked for and could not be applied."""


def receipt(answer: object) -> Receipt | None:
    """The receipt that an answer carries.

    Args:
        answer: A completion, a chunk, a response or one of its stream's events, as any OpenAI or Anthropic SDK
            returns it, or the decoded JSON of one.

    Returns:
        The receipt; None where the answer has none, because it is an earlier chunk of a stream or did not come
        through the gateway.

    Raises:
        pydantic.ValidationError: There is one, and a field of it has a type that this version does not know.
    """
    found = raw_receipt(answer)
    return None if found is None else Receipt.model_validate(found)


def raw_receipt(answer: object) -> Mapping[str, Any] | None:
    """The receipt as it was sent, from the answer itself or from the response or message within an event."""
    for holder in (answer, _member(answer, "response"), _member(answer, "message")):
        found = _member(holder, FIELD)
        if isinstance(found, Mapping):
            return found
    return None


def _member(holder: object, name: str) -> object:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
