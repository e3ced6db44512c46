"""Where a batch stood: the votes that were counted, kept by the client, since the gateway keeps no text.

What comes back is untrusted. It can change nothing but the client's own answer: it is checked strictly, goes into the
vote and the result, and never upstream or into a log. What must not be here: what a vote decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from suffice.server.errors import InvalidRequest
from suffice.server.gateway.batch.parts import checked
from suffice.server.gateway.dialects import shape

if TYPE_CHECKING:
    from collections.abc import Iterable

Count = Annotated[int, Field(ge=0, le=shape.MAX_TOKENS)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SavedMessage(_Strict):
    """An assistant's message as a chat completion has it."""

    role: Literal["assistant"]
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class SavedChoice(_Strict):
    """What a sample said and how it ended."""

    message: SavedMessage
    finish_reason: Annotated[str, Field(max_length=32)] | None = None


class SavedVote(_Strict):
    """One vote.

    Attributes:
        id: The question.
        sample: The sample's place in launch order.
        answer: Its answer as equal answers have it; None where it has none.
        tokens: Tokens that it took.
        choice: All that it said; only votes that may win carry it, and it may be left out.
    """

    id: str
    sample: Annotated[int, Field(ge=0, lt=shape.MAX_SAMPLES)]
    answer: str | None = None
    tokens: Count
    choice: SavedChoice | None = None


class SavedState(_Strict):
    """All votes in the order in which they were counted, and tokens that brought none because a sample broke off."""

    votes: list[SavedVote]
    lost_tokens: Count = 0

    @property
    def tokens(self) -> int:
        """Tokens that are spent."""
        return self.lost_tokens + sum(vote.tokens for vote in self.votes)


def read_state(value: Any, questions: Iterable[str], total_tokens: int) -> SavedState:
    """Check a state that a client sent back.

    Args:
        value: What it sent.
        questions: Names of the questions beside it.
        total_tokens: The budget beside it, of which the votes took their part.

    Raises:
        InvalidRequest: It is none, or none of this batch's; the message names the place.
    """
    state = checked(SavedState, value, "resume", SavedVote, SavedChoice, SavedMessage)
    known = set(questions)
    seen: set[tuple[str, int]] = set()
    for index, vote in enumerate(state.votes):
        place = f"resume.votes.{index}"
        if vote.id not in known:
            raise InvalidRequest(f"{place}.id: no question has this id", param=f"{place}.id")
        if (vote.id, vote.sample) in seen:
            raise InvalidRequest(f"{place}: another vote is of the same sample", param=place)
        seen.add((vote.id, vote.sample))
    if state.tokens > total_tokens:
        raise InvalidRequest(
            f"resume: its votes took {state.tokens} tokens, and total_tokens is {total_tokens}", param="resume"
        )
    return state
