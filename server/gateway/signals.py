"""What rules want to know of single tokens: asked for upstream only where a rule lives on it, hidden from the client.

Log-probabilities cost the engine time and the wire bytes, so a request asks for the least that its rules need. What
must not be here: rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from suffice.server.gateway.facts import Thought

_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})
"""The APIs that tell log-probabilities token by token."""

TOP = 5
"""Most likely tokens that a confidence is a mean over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Which token-wise data the rules of a request live on.

    Attributes:
        logprobs: Log-probability of each token.
        top: Most likely tokens of each position to ask for; 0 for none.
        close_id: The token that closes a thought, whose log-probability is wanted at each position; None otherwise.
        close_text: Its text.
    """

    logprobs: bool = False
    top: int = 0
    close_id: int | None = None
    close_text: str = ""

    @classmethod
    def of(cls, needs: Iterable[str], thought: Thought | None, top: int = TOP) -> Signals:
        """The signals behind the words that rules use for their needs.

        Args:
            needs: Those words.
            thought: The model's thinking tokens, where it has any.
            top: Most likely tokens of each position that the rules look at, where they look at any.
        """
        words = set(needs)
        close = thought is not None and "close_logprob" in words
        return cls(
            logprobs="logprobs" in words,
            top=top if "top_logprobs" in words else 0,
            close_id=thought.end_id if close and thought is not None else None,
            close_text=thought.close_text if close and thought is not None else "",
        )

    def __bool__(self) -> bool:
        return self.logprobs or self.top > 0 or self.close_id is not None

    def ask(self, path: str, body: dict[str, Any]) -> None:
        """Add what is wanted to an upstream request; what the client asked for itself stays."""
        if not self or path not in _PATHS:
            return
        if path == "/v1/chat/completions":
            own = body.get("top_logprobs") or 0
            body["logprobs"] = True
            body["top_logprobs"] = max(own, self.top)
        else:
            own = body.get("logprobs") or 0
            body["logprobs"] = max(own, self.top, 1)
        if self.close_id is not None and not (own or self.top):
            # It stands in the place of the most likely tokens; where those are wanted, it is looked for among them.
            body["logprob_token_ids"] = [self.close_id]

    def read(self, choice: dict[str, Any]) -> TokenData:
        """The values in one chunk's log-probabilities, in the form of either API."""
        logprobs = choice.get("logprobs")
        if not logprobs:
            return NOTHING
        content = logprobs.get("content")
        if content is not None:
            chosen = [entry["logprob"] for entry in content]
            tops = [{top["token"]: top["logprob"] for top in entry.get("top_logprobs") or ()} for entry in content]
        else:
            chosen = logprobs.get("token_logprobs") or []
            tops = [top or {} for top in logprobs.get("top_logprobs") or ()]
        return TokenData(
            logprobs=tuple(chosen),
            confidences=tuple(_confidence(top, self.top) for top in tops) if self.top else (),
            close_logprobs=tuple(self._close(top) for top in tops) if self.close_id is not None else (),
        )

    def _close(self, top: dict[str, float]) -> float:
        """The closing token's log-probability; a client may have asked for tokens by number instead of by text."""
        found = top.get(self.close_text)
        return top.get(f"token_id:{self.close_id}", FLOOR) if found is None else found


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenData:
    """One value a token, in order; empty where not known."""

    logprobs: tuple[float, ...] = ()
    confidences: tuple[float, ...] = ()
    close_logprobs: tuple[float, ...] = ()

    def split(self, count: int) -> tuple[TokenData, TokenData]:
        """The data of the first ``count`` tokens, and of the others."""
        if self is NOTHING or not self.logprobs:
            return self, self
        fields = (self.logprobs, self.confidences, self.close_logprobs)
        first, rest = [field[:count] for field in fields], [field[count:] for field in fields]
        return (
            TokenData(logprobs=first[0], confidences=first[1], close_logprobs=first[2]),
            TokenData(logprobs=rest[0], confidences=rest[1], close_logprobs=rest[2]),
        )


NOTHING = TokenData()

FLOOR = -100.0
"""Log-probability of a token that was not among those told."""


def _confidence(top: dict[str, float], count: int) -> float:
    """Minus the mean log-probability of the most likely tokens (DeepConf's token confidence), in nats."""
    values = sorted(top.values(), reverse=True)[:count]
    return -sum(values) / len(values) if values else 0.0
