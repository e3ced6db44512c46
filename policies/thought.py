"""Where a thought begins and ends in a stream of token ids.

Counting by id is exact however upstream's parser cuts the text, and works where upstream has no parser at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from suffice.policies.events import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(slots=True)
class ThoughtTracker:
    """Follows one sample's tokens through its thought.

    Attributes:
        start: Id of the token that opens a thought.
        end: Id of the token that closes it.
        phase: Where the last token stood; a template may open the thought in the prompt.
    """

    start: int
    end: int
    phase: Phase = Phase.ANSWER

    def read_prompt(self, prompt: Sequence[int]) -> int | None:
        """Find out whether the prompt left a thought open. O(length of the prompt), once a request.

        Returns:
            The tokens of that thought, its opening token aside; None where none is open.
        """
        for place, token in enumerate(reversed(prompt)):
            if token == self.end:
                return None
            if token == self.start:
                self.phase = Phase.THINKING
                return place
        return None

    def read(self, tokens: Sequence[int]) -> tuple[int, int]:
        """Take in generated tokens.

        Returns:
            How many of them belong to the thought (its opening token included, its closing token not) and how many
            to the answer.
        """
        thinking = 0
        for token in tokens:
            if token == self.start:
                self.phase = Phase.THINKING
            elif token == self.end:
                self.phase = Phase.ANSWER
            thinking += self.phase is Phase.THINKING
        return thinking, len(tokens) - thinking
