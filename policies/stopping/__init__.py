"""When one sample ends, or its thought does: rules inside a sample, by name.

``RULES`` end a thought early; a request or a configuration chooses at most one. ``GUARDS`` watch over any sample and
stand beside each other. Both are made with ``setting=Setting(...)`` and say by ``needs`` what they cost upstream.
"""

from __future__ import annotations

from suffice.policies.rules import Registry
from suffice.policies.stopping import (
    boundary,
    deadline,
    engine_entropy,
    extend,
    length,
    probe_exit,
    repetition,
    static_cap,
    willing,
)
from suffice.policies.stopping.family import Need, Setting, StoppingRule, needs_of

__all__ = ["GUARDS", "RULES", "Need", "Setting", "StoppingRule", "needs_of"]

RULES: Registry[StoppingRule] = Registry(
    "suffice.early_exit",
    {kind.name: kind for kind in (*probe_exit.KINDS, static_cap.KIND, engine_entropy.KIND, willing.KIND)},
)

GUARDS: Registry[StoppingRule] = Registry(
    "policies.guards",
    {kind.name: kind for kind in (repetition.KIND, length.KIND, boundary.KIND, deadline.KIND, extend.KIND)},
)
