"""How long prompts really are, learned from how far estimates from above were off. What must not be here: texts."""

from __future__ import annotations

_FIRST_RATIO = 0.5
"""Length of a prompt over its estimate from above, until one was counted."""
_SMOOTHING = 0.05
"""Part that one prompt has in the ratio."""


class PromptRatios:
    """The ratios of routes and models, each smoothed over its prompts."""

    __slots__ = ("_ratios",)

    def __init__(self) -> None:
        self._ratios: dict[tuple[str, str], float] = {}

    def learn(self, route: str, model: str, *, estimate: int, counted: int) -> None:
        """The engine counted a prompt."""
        ratio = counted / max(estimate, 1)
        known = self._ratios.get((route, model), ratio)
        self._ratios[route, model] = known + _SMOOTHING * (ratio - known)

    def likely(self, route: str, model: str, estimate: int) -> int:
        """The likely length of a prompt, in tokens, at least 1."""
        return max(round(estimate * self._ratios.get((route, model), _FIRST_RATIO)), 1)
