"""What one more sample of a request costs at the prices in force, judged by the samples that it has had.

A further sample is taken to be as long as the mean of those before, beside the prompt that all of them hold. What must
not be here: when the question is asked, and what follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from suffice.policies.allocation.effort import effort, prices_of, tokens_cost
from suffice.policies.allocation.price import next_vote_worth
from suffice.policies.events import Event, Priced, PromptCounted, Voted

PRICE_EVENTS: frozenset[type[Event]] = frozenset({Priced, PromptCounted})
"""What it must be told beside the votes."""


@dataclass(slots=True)
class SamplePrice:
    """The memory of one request.

    Attributes:
        priced: The latest prices; None while none were told.
        prompt: Tokens of the prompt, which all samples share; 0 while unknown.
        tokens: Tokens of all samples that are over.
        samples: How many are.
    """

    priced: Priced | None = None
    prompt: int = 0
    tokens: int = 0
    samples: int = 0

    def take(self, event: Event) -> None:
        """Take in prices, the prompt's length or a sample's end; other events tell nothing. O(1)."""
        match event:
            case Priced():
                self.priced = event
            case PromptCounted():
                self.prompt = self.prompt or event.prompt_tokens
            case Voted():
                self.tokens += max(event.tokens, 0)
                self.samples += 1

    @property
    def mean(self) -> float:
        """Mean length of the samples so far, in tokens; 0 before the first."""
        return self.tokens / self.samples if self.samples else 0.0

    @property
    def cost(self) -> float:
        """What one more sample costs, in gain; 0 where no price was told."""
        return tokens_cost(self.priced, self.prompt, self.mean)

    def next_vote_worth(self, leader: int, runner_up: int) -> bool:
        """Whether one more vote is worth its price; always where it costs nothing.

        Args:
            leader: Votes of the leading answer.
            runner_up: Votes of the strongest other.
        """
        if self.priced is None or not self.cost > 0:
            return True
        needed = effort(self.priced, self.prompt, self.mean)
        return next_vote_worth(leader, runner_up, needed.seconds, needed.block_seconds, prices_of(self.priced))
