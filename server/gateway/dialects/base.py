"""What one API of vLLM's must offer to the driver: how to ask, how to read a frame, how to answer the client.

A dialect never decides. It checks a request's shape against an allowlist, writes the upstream request that an ``Open``
asks for, and turns upstream frames into counts. Its ``Answer`` builds what the client sees, streamed or whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from suffice.policies.budget import Budget
    from suffice.policies.decisions import Open
    from suffice.policies.events import EndReason, Phase
    from suffice.policies.plan import ApiFacts
    from suffice.server.gateway.facts import Served
    from suffice.server.gateway.field import SufficeField


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request whose shape was checked.

    Attributes:
        model: Model name towards upstream, without the preset.
        preset: Preset chosen by ``model@preset``.
        body: What goes upstream, without the fields that the gateway sets.
        stream: Whether the client wants a stream.
        include_usage: Whether the client wants the usage chunk.
        samples: ``n``.
        prompts: The prompts, for the API that takes several; one None otherwise.
        prompt_bytes: Upper estimate of the prompt's length in tokens: a token is at least one byte.
        sources: Limits in the standard fields, each with the field's name.
        effort: ``reasoning_effort`` and its likes.
        explicit_max: Whether the client itself named the length of an answer.
        field: The ``suffice`` field.
        wants: Upstream extras that the client asked for itself (``token_ids``, ``continuous_usage``).
    """

    model: str
    preset: str | None
    body: dict[str, Any]
    stream: bool
    include_usage: bool
    samples: int
    prompt_bytes: int
    sources: tuple[tuple[str, Budget], ...]
    effort: str | None
    explicit_max: bool
    field: SufficeField
    prompts: tuple[Any, ...] = (None,)
    wants: frozenset[str] = frozenset()

    @property
    def greedy(self) -> bool:
        """Whether it asks for temperature 0."""
        return self.body.get("temperature") == 0


@dataclass(slots=True)
class Segment:
    """What the driver and the dialect know of one sample's generation, over all its segments.

    Attributes:
        sample: Index of the sample.
        index: Index that the client sees.
        prompt_ids: The prompt as upstream tokenised it, where it said so.
        token_ids: All tokens generated so far, where upstream said so.
        seen: Tokens of the current segment that were counted.
        allowed: Tokens that the current segment may have.
        resumed: Whether this is not the sample's first segment.
        prompt_counted: Whether upstream told the prompt's length.
        thinking: Whether the segment goes on inside a thought, after a resume.
        ended: Why the current segment ended, as soon as upstream has told.
    """

    sample: int
    index: int = 0
    prompt_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    seen: int = 0
    allowed: int = 0
    resumed: bool = False
    prompt_counted: bool = False
    thinking: bool = False
    ended: EndReason | None = None


@dataclass(slots=True)
class Reading:
    """What one upstream frame says.

    Attributes:
        total: Tokens generated in this segment up to this frame; None where the frame does not say.
        prompt_tokens: Exact length of the prompt, where the frame says so.
        token_ids: Ids of the frame's new tokens, where upstream was asked for them.
        phase: Phase by the frame's own fields; None where they do not tell.
        ended: Why the segment ended, on its last frame.
        stop_reason: The token id or text that ended it, where one did.
        choice: The frame's choice, where it has one.
        text: New text; used for rules and never logged.
        answer_text: The part of it that belongs to the answer, as far as upstream tells thought and answer apart.
        tool_calls: What the frame adds to tool calls, in the chat API's form.
        error: Upstream's error object, when the frame is one.
    """

    total: int | None = None
    prompt_tokens: int | None = None
    token_ids: list[int] | None = None
    phase: Phase | None = None
    ended: EndReason | None = None
    stop_reason: int | str | None = None
    choice: dict[str, Any] | None = None
    text: str = ""
    answer_text: str = ""
    tool_calls: list[dict[str, Any]] | None = None
    error: dict[str, Any] | None = None


class Answer(Protocol):
    """Builds the client's answer from upstream frames; one object a request.

    Stream methods return bytes to send, possibly none. ``whole`` is called instead when the client wants one body.
    """

    def frame(self, segment: Segment, event: bytes, frame: dict[str, Any]) -> bytes:
        """Pass on one upstream frame."""
        ...

    def reopened(self, segment: Segment, opened: Open) -> bytes:
        """A sample goes on in another segment."""
        ...

    def sample_done(self, segment: Segment, finish: str) -> bytes:
        """A sample is complete."""
        ...

    def last(self, receipt: dict[str, Any], usage: dict[str, int]) -> bytes:
        """The end of the stream."""
        ...

    def broken(self, error: dict[str, Any]) -> bytes:
        """The end of a stream that failed after its headers were sent."""
        ...

    def whole(self, receipt: dict[str, Any], usage: dict[str, int]) -> dict[str, Any]:
        """The answer in one body."""
        ...


class Dialect(Protocol):
    """One API."""

    name: str
    path: str
    counts_tokens: bool
    """Whether the stream tells running token counts; where it does not, a cut stream's use is estimated."""

    def parse(self, body: dict[str, Any], *, images: bool) -> Call:
        """Check a request body.

        Raises:
            InvalidRequest: A field is unknown, forbidden or of a wrong type; the message names it.
        """
        ...

    def facts(self, call: Call) -> ApiFacts:
        """What this API lets the gateway do for this request."""
        ...

    def upstream(self, call: Call, opened: Open, segment: Segment, model: Served) -> tuple[str, dict[str, Any]]:
        """Path and body of the upstream request that starts a segment."""
        ...

    def counting(self, call: Call) -> dict[str, Any] | None:
        """Body for ``/tokenize`` that counts this request's prompt exactly, where there is one."""
        ...

    def read(self, segment: Segment, event: bytes, frame: dict[str, Any]) -> Reading:
        """Understand one upstream frame."""
        ...

    def answer(self, call: Call, request_id: str, created: int, model: Served) -> Answer:
        """A builder for this request's answer."""
        ...
