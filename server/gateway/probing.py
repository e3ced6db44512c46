"""Probes: a short generation beside a running sample, on its tokens so far with the thought closed.

It goes out with the sample's own model and cache salt, so that all but its last few tokens come from the prefix cache.
What must not be here: when to probe, and what to conclude.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

TOP = 10
"""Most likely tokens that the entropy of the first one is taken over."""


def probe_body(prompt: list[int], max_tokens: int) -> dict[str, Any]:
    """The upstream request: greedy, since it asks what the sample would most likely answer."""
    return {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "logprobs": TOP,
        "stop": ["\n"],
        "add_special_tokens": False,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


@dataclass(slots=True)
class ProbeReading:
    """What a probe's stream told.

    Attributes:
        tokens: Tokens generated so far.
        failed: Whether it was cut or broke; what it said then counts for nothing.
    """

    tokens: int = 0
    failed: bool = False
    _pieces: list[str] = field(default_factory=list)
    _logprobs: list[float] = field(default_factory=list)
    _first: dict[str, float] | None = None

    def take(self, frame: dict[str, Any]) -> None:
        """Read one frame of the completions API."""
        if "error" in frame:
            self.failed = True
            return
        usage = frame.get("usage")
        if usage:
            self.tokens = max(self.tokens, usage["completion_tokens"])
        for choice in frame.get("choices") or ():
            self._pieces.append(choice.get("text") or "")
            logprobs = choice.get("logprobs") or {}
            self._logprobs += logprobs.get("token_logprobs") or ()
            if self._first is None and logprobs.get("top_logprobs"):
                self._first = logprobs["top_logprobs"][0]

    @property
    def text(self) -> str:
        """What it said."""
        return "".join(self._pieces)

    @property
    def confidence(self) -> float | None:
        """Geometric mean of its tokens' probabilities (DEER, arXiv 2504.15895), from 0 to 1."""
        return math.exp(sum(self._logprobs) / len(self._logprobs)) if self._logprobs else None

    @property
    def entropy(self) -> float | None:
        """Entropy of its first token over the most likely ones, renormalised, in nats (EAT, arXiv 2509.26522)."""
        if not self._first:
            return None
        weights = [math.exp(value) for value in self._first.values()]
        total = sum(weights)
        return -sum(weight / total * math.log(weight / total) for weight in weights if weight > 0)
