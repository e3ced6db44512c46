"""The one parameter of each rule that trades answers for tokens, and the values of it that calibration tries.

Values stand from conservative to aggressive and are fixed here, before any data are seen: fixed-sequence testing lives
on that. What must not be here: how a value is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Axis:
    """What calibration turns.

    Attributes:
        parameter: The parameter's name.
        values: Its values, from conservative to aggressive; each ends a thought no later than the one before.
    """

    parameter: str
    values: tuple[float, ...]


_CONFIDENCES = (
    0.9995,
    0.999,
    0.998,
    0.995,
    0.99,
    0.98,
    0.97,
    0.96,
    0.95,
    0.93,
    0.9,
    0.87,
    0.84,
    0.8,
    0.75,
    0.7,
    0.6,
    0.5,
)
_WINDOWS = (12, 10, 8, 7, 6, 5, 4, 3, 2, 1)
_VARIANCES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_ENTROPIES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)

AXES: Mapping[str, Axis] = {
    "convergence": Axis("window", _WINDOWS),
    "confidence": Axis("threshold", _CONFIDENCES),
    "entropy": Axis("variance", _VARIANCES),
    "combined": Axis("threshold", _CONFIDENCES),
    "fixed_interval": Axis("window", _WINDOWS),
    "static_cap": Axis("cap", tuple(round(65_536 * 0.9**step) for step in range(80))),
    "engine_entropy": Axis("threshold", _ENTROPIES),
}

HOPELESS_AXIS = Axis(
    "hopeless", (0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9)
)
"""The lower threshold of the rules that have one."""
