"""The body of a batch: strict, so that a misspelt field is an error that names its place and its nearest neighbour.

Each question becomes a checked chat request. What must not be here: limits that others set.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from suffice.server.errors import InvalidRequest
from suffice.server.gateway.batch.parts import checked
from suffice.server.gateway.batch.saved import SavedState, read_state
from suffice.server.gateway.dialects import chat, shape
from suffice.server.gateway.field import AnswerField, SamplingField, SufficeField, parse_field
from suffice.server.gateway.wishes import NO_RULE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from suffice.server.gateway.dialects.base import Call

STANDARD = chat.SAMPLING | {
    "chat_template_kwargs", "include_reasoning", "max_completion_tokens", "max_tokens", "parallel_tool_calls",
    "reasoning_effort", "thinking_token_budget", "tool_choice", "tools",
}  # fmt: skip
"""Fields of the chat API that hold for all questions, or for one that names them itself."""

OF_A_QUESTION = STANDARD | {"add_generation_prompt", "continue_final_message", "id", "messages"}
OF_A_BATCH = STANDARD | {
    "answer", "concurrency", "deadline_ms", "model", "questions", "resume", "sample_tokens", "sampling", "stream",
    "suffice", "total_tokens",
}  # fmt: skip

LONGEST_ID = 64
"""Characters of a question's id."""

_NOT_HERE = {
    "sampling": "a batch takes sampling beside its questions",
    "answer": "a batch takes answer beside its questions",
    "context": "a batch does not cut conversations",
}
_NO_BUDGET_HERE = {
    "total_tokens": "a batch takes total_tokens beside its questions",
    "samples": "a batch takes sampling.max beside its questions",
    "deadline_ms": "a batch takes deadline_ms beside its questions",
    "kv_block_seconds": "a batch has no budget of memory",
}
"""Parts of the ``suffice`` field that a batch has fields of its own for, or does not have."""


class SamplingWish(BaseModel):
    """How many samples a question gets at least and at most."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    least: Annotated[int, Field(ge=1, le=shape.MAX_SAMPLES)] = 2
    most: Annotated[int, Field(ge=1, le=shape.MAX_SAMPLES, alias="max")] = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question: the name that results carry, and the chat request that each sample answers."""

    id: str
    call: Call


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """A checked body.

    Attributes:
        model: Model name towards upstream, without the preset.
        questions: In the order given; names are unique.
        stream: Whether events are wanted.
        total_tokens: Tokens that all samples of all runs may take.
        sample_tokens: Tokens that one sample may take; None where nobody says.
        sampling: Samples of a question.
        concurrency: Samples beside each other; None for as many as the operator allows.
        deadline_ms: Milliseconds from receipt to the end.
        saved: Where an earlier run ended; None for a new batch.
    """

    model: str
    questions: tuple[Asked, ...]
    stream: bool
    total_tokens: int
    sample_tokens: int | None
    sampling: SamplingWish
    concurrency: int | None
    deadline_ms: int | None
    saved: SavedState | None


def parse_batch(body: dict[str, Any], *, images: bool, most_questions: int) -> BatchRequest:
    """Check a body.

    Args:
        body: It.
        images: Whether the operator lets parts that are no text pass.
        most_questions: Questions that one batch may have.

    Raises:
        InvalidRequest: The message says what is wrong and where.
    """
    kept = shape.allow(body, frozenset(OF_A_BATCH))
    total = shape.whole(kept, "total_tokens")
    if total is None:
        raise InvalidRequest("total_tokens is required: the budget of all questions together", param="total_tokens")
    shared = {name: value for name, value in kept.items() if name in STANDARD}
    shared["model"] = shape.text(kept, "model")
    questions = _questions(kept, shared, _field(kept), images=images, most=most_questions)
    sampling = checked(SamplingWish, kept.get("sampling", {}), "sampling")
    if sampling.least > sampling.most:
        raise InvalidRequest("sampling.least must not be above sampling.max", param="sampling.least")
    saved = kept.get("resume")
    return BatchRequest(
        model=questions[0].call.model,
        questions=questions,
        stream=shape.flag(kept, "stream"),
        total_tokens=total,
        sample_tokens=shape.whole(kept, "sample_tokens"),
        sampling=sampling,
        concurrency=shape.whole(kept, "concurrency"),
        deadline_ms=shape.whole(kept, "deadline_ms"),
        saved=None if saved is None else read_state(saved, [question.id for question in questions], total),
    )


def _field(kept: dict[str, Any]) -> SufficeField:
    """The ``suffice`` field of every sample: it votes outside of its request, so it draws no samples itself."""
    field = parse_field(kept.get("suffice"))
    for name, why in _NOT_HERE.items():
        if getattr(field, name) is not None:
            raise InvalidRequest(why, param=f"suffice.{name}")
    for name, why in _NO_BUDGET_HERE.items():
        if getattr(field.budget, name) is not None:
            raise InvalidRequest(why, param=f"suffice.budget.{name}")
    answer = kept.get("answer")
    asked = None if answer is None else checked(AnswerField, answer, "answer")
    return field.model_copy(update={"sampling": SamplingField(rule=NO_RULE), "answer": asked})


def _questions(
    kept: dict[str, Any], shared: dict[str, Any], field: SufficeField, *, images: bool, most: int
) -> tuple[Asked, ...]:
    given = kept.get("questions")
    if not isinstance(given, list) or not given:
        raise InvalidRequest("questions must be a non-empty array", param="questions", code="invalid_type")
    if len(given) > most:
        raise InvalidRequest(f"there are {len(given)} questions; {most} are allowed here", param="questions")
    found: dict[str, Asked] = {}
    for index, question in enumerate(given):
        with _within(f"questions.{index}"):
            asked = _question(index, question, shared, field, images=images)
            if asked.id in found:
                raise InvalidRequest("another question has this id", param="id")
        found[asked.id] = asked
    return tuple(found.values())


def _question(index: int, given: Any, shared: dict[str, Any], field: SufficeField, *, images: bool) -> Asked:
    if not isinstance(given, dict):
        raise InvalidRequest("a question must be an object", code="invalid_type")
    if "suffice" in given:
        raise InvalidRequest("suffice holds for all questions and stands beside them", param="suffice")
    own = shape.allow(given, frozenset(OF_A_QUESTION))
    name = own.pop("id", str(index))
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_ID:
        raise InvalidRequest(f"id must be a text of 1 to {LONGEST_ID} characters", param="id", code="invalid_type")
    try:
        call = chat.ChatDialect().parse(shared | own, images=images)
    except InvalidRequest as error:
        place = (error.param or "").partition(".")[0]
        if place in shared and place not in own:
            raise _OfAll(error) from None
        raise
    return Asked(id=name, call=replace(call, field=field))


class _OfAll(Exception):
    """A fault of a field that stands beside the questions."""

    def __init__(self, error: InvalidRequest) -> None:
        super().__init__()
        self.error = error


@contextlib.contextmanager
def _within(path: str) -> Iterator[None]:
    """Name the place of a fault from the top of the body on."""
    try:
        yield
    except _OfAll as fault:
        raise fault.error from None
    except InvalidRequest as error:
        param = path if error.param is None else f"{path}.{error.param}"
        raise type(error)(f"{path}: {error.message}", param=param, code=error.error_code) from None
