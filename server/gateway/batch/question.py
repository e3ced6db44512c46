"""What is known of one question: its answers as classes, the first words of each, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from suffice.policies.allocation.flip import flip_probability
from suffice.policies.allocation.patience import FIRST_PAUSE_S, Patience
from suffice.policies.answers import Classes

if TYPE_CHECKING:
    from suffice.policies.allocation.batch import BatchAllocation
    from suffice.server.gateway.batch.request import Asked
    from suffice.server.gateway.wishes import Wishes


@dataclass(slots=True, kw_only=True)
class Question:
    """One question of a batch.

    Attributes:
        number: Its place in the request.
        asked: What was asked.
        wishes: Rules that its samples run.
        prompt_estimate: Upper estimate of its prompt's length, in tokens.
        prompt_tokens: Exact length, once it is known.
        error: Why upstream refused it, as an error object; None where it did not.
        charged: Samples of this run that are charged their prompt.
        patience: How often it failed in a row. It pauses longer than the batch does, so that others come before it.
    """

    number: int
    asked: Asked
    wishes: Wishes
    prompt_estimate: int
    prompt_tokens: int | None = None
    error: dict[str, Any] | None = None
    charged: int = 0
    patience: Patience = field(default_factory=lambda: Patience(2 * FIRST_PAUSE_S))
    _classes: Classes = field(default_factory=Classes)
    _first: dict[int | None, tuple[int, dict[str, Any] | None]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its name."""
        return self.asked.id

    def classify(self, key: str | None) -> int | None:
        """The class of an answer; None where there is none."""
        return self._classes.of(key)

    def hear(self, sample: int, answer: int | None, choice: dict[str, Any] | None) -> None:
        """Keep what a sample said, if it may be shown: the first in launch order of those with the same answer."""
        held = self._first.get(answer)
        if held is None or sample < held[0]:
            self._first[answer] = (sample, choice)

    def choice_of(self, sample: int, answer: int | None) -> dict[str, Any] | None:
        """What a sample said, if it was kept."""
        held = self._first.get(answer)
        return held[1] if held is not None and held[0] == sample else None

    def key_of(self, answer: int | None) -> str | None:
        """An answer as equal answers have it."""
        return None if answer is None else self._classes.keys[answer]

    def result(self, batch: BatchAllocation) -> dict[str, Any]:
        """What came of it: the winner with all that it said, the votes and what they took."""
        tally = batch.tally(self.id)
        keys = self._classes.keys
        sample, choice = self._first.get(tally.leader, (None, None))
        answer = None
        if sample is not None:
            answer = {"value": self.key_of(tally.leader), "sample": sample} | (choice or {"message": None})
        found: dict[str, Any] = {
            "id": self.id,
            "answer": answer,
            "votes": {keys[number]: count for number, count in sorted(tally.answers.items())},
            "samples": tally.drawn,
            "tokens": batch.tokens(self.id),
            "agreement": tally.lead / tally.drawn if tally.drawn else None,
            "confidence": None if tally.leader is None else 1 - flip_probability(tally.lead, tally.second),
        }
        return found if self.error is None else found | {"error": self.error}
