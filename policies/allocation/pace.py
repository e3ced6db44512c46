"""How fast the engine goes, as the gateway sees it: decoding steps so far, and the time that one takes.

Every running sample gains a token a step, so each token that comes moves the count by its part of the samples that
run. What must not be here: memory.
"""

from __future__ import annotations

_FIRST_STEP_S = 0.02
"""Seconds of a step until one was seen."""
_SMOOTHING = 0.02
"""Part that one reading has in the mean."""


class Pace:
    """The machine of one engine.

    Attributes:
        steps: Decoding steps so far, on average over what runs.
        step_s: Seconds of one, smoothed.
        samples: Samples that run.
    """

    __slots__ = ("samples", "step_s", "steps")

    def __init__(self) -> None:
        self.steps = 0.0
        self.step_s = _FIRST_STEP_S
        self.samples = 0

    def opened(self) -> None:
        """A generation started."""
        self.samples += 1

    def closed(self) -> None:
        """A generation is over."""
        self.samples -= 1

    def grew(self, tokens: int, elapsed: float, *, first: bool) -> None:
        """A sample told new tokens.

        Args:
            tokens: How many.
            elapsed: Seconds since it last told any.
            first: Whether they are its first, whose time was the prompt's.
        """
        self.steps += tokens / max(self.samples, 1)
        if not first:
            self.step_s += _SMOOTHING * (elapsed / tokens - self.step_s)

    @property
    def token_s(self) -> float:
        """Engine time that one sample's token takes: its part of a step."""
        return self.step_s / max(self.samples, 1)

    def seconds(self, tokens: int) -> float:
        """Seconds that a sample takes to generate so many tokens."""
        return tokens * self.step_s
