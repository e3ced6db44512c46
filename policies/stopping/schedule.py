"""When to probe: positions in a thought, far apart where the thought is long.

**Geometric.** ``d(0) = first``, ``d(k+1) = ceil(growth * d(k))``. Two bounds follow, whatever the thought is like.

- *Overshoot.* Let ``s`` be the first position at which a probe would have ended the thought, and from which on every
  probe would. If ``s <= first`` it ends at ``first``. Else ``d(k) < s <= d(k+1)`` for some ``k``, hence
  ``d(k+1) < growth * d(k) + 1 <= growth * (s - 1) + 1 <= growth * s``: it ends within a factor ``growth`` of ``s``.
  A criterion that wants ``w`` probes in a row ends it below ``max(d(w-1), growth^w * (s + 1 / (growth - 1)))``.
- *Number.* ``d(k) >= first * growth^k``, so a thought of ``T`` tokens meets at most
  ``1 + floor(log(T / first) / log(growth))`` positions: 19 for 16,384 tokens with 256 and 1.25.

**Even.** Every ``interval`` tokens: ``T / interval`` probes, the schedule of systems that this one is compared with.

A chunk that spans several positions is probed once, at its end; the bounds then hold up to the length of a chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from suffice.policies.rules import Parameter
from suffice.policies.stopping.price import worth

PROBE_TOKENS = Parameter(default=20, least=1, most=256, what="tokens that a probe may generate")

GEOMETRIC_PARAMETERS = {
    "probe_first": Parameter(default=256, least=1, most=1_000_000, what="thinking tokens before the first probe"),
    "probe_growth": Parameter(default=1.25, least=1.05, most=16.0, what="factor from one probe's place to the next"),
    "probe_tokens": PROBE_TOKENS,
}


class Schedule(Protocol):
    """Positions at which to probe."""

    @property
    def first(self) -> int:
        """The first position."""
        ...

    def after(self, due: int, position: int) -> int:
        """The first position beyond ``position``, which has reached ``due``, a position of the schedule."""
        ...


@dataclass(frozen=True, slots=True)
class Geometric:
    """Each position ``growth`` times the one before; ``growth`` is above 1."""

    first: int
    growth: float

    def after(self, due: int, position: int) -> int:
        """The first position beyond ``position``. All calls of one thought together: one step a position."""
        while due <= position:
            due = math.ceil(due * self.growth)
        return due


@dataclass(frozen=True, slots=True)
class Even:
    """Every ``interval`` tokens."""

    first: int

    def after(self, due: int, position: int) -> int:
        """The first position beyond ``position``."""
        return due + (1 + (position - due) // self.first) * self.first


def useful(position: int, longest: int | None, probe_tokens: int) -> bool:
    """Whether a probe can still save more tokens than it may take.

    Args:
        position: Tokens of the thought so far.
        longest: Tokens that the thought can take at most; None where nothing bounds it.
        probe_tokens: Tokens that the probe may generate.
    """
    return longest is None or worth(longest - position, probe_tokens)
