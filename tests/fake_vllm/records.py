"""What the fake remembers of each request, for tests to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["running", "finished", "refused", "faulted", "aborted"]


@dataclass(slots=True, kw_only=True)
class Received:
    """One request.

    Attributes:
        path: Where it went.
        headers: Its headers, names in lower case.
        raw: Its body as it came.
        body: Its body as JSON, or None.
        allowed_tokens: Most that it may generate: the limit of each choice, summed.
        prompt_tokens: Tokens of its prompts.
        generated: Tokens of each choice so far.
        complete: All choices ended by themselves or at their limits.
        outcome: ``aborted`` when the client left before generation was complete.
    """

    path: str
    headers: dict[str, str]
    raw: bytes
    body: Any = None
    allowed_tokens: int = 0
    prompt_tokens: int = 0
    generated: dict[int, int] = field(default_factory=dict)
    complete: bool = False
    outcome: Outcome = "running"

    @property
    def generated_tokens(self) -> int:
        """Tokens of all choices."""
        return sum(self.generated.values())
