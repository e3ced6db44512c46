"""What this vLLM is and what the plugin can do in it: read from vLLM's configuration, alike in all of its processes.

What must not be here: tensors, requests, HTTP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suffice.server.engine.plugin.steering import Marks
from suffice.server.engine.plugin.table import default_path

if TYPE_CHECKING:
    from pathlib import Path

SPECULATIVE = "speculative_decoding"
"""vLLM's first runner loads no processors then; under the second, one request has several rows a step."""
ASYNCHRONOUS = "asynchronous_scheduling"
"""vLLM's first runner then hides the newest token from processors that no ``--logits-processors`` names."""
POOLING = "pooling_model"
DIFFUSION = "diffusion_model"
SEVERAL_NODES = "several_nodes"
"""Memory is not shared between machines."""

REMEDIES = {
    SPECULATIVE: "start vLLM without --speculative-config",
    ASYNCHRONOUS: "start vLLM with --no-async-scheduling",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSetting:
    """This vLLM.

    Attributes:
        runner: ``v1`` or ``v2``: which of vLLM's two model runners computes.
        obstacles: Why the plugin does nothing here; empty where it works.
        signal_obstacles: Why it takes no signals here, beyond these.
        marks: Around a thought; None where vLLM was not told and was given no reasoning parser that knows.
        vocabulary: Token ids are below this.
        ranks: Processes that compute one request together; those of one group see the same logits.
        table: File of the signal table.
    """

    runner: str
    obstacles: tuple[str, ...]
    signal_obstacles: tuple[str, ...]
    marks: Marks | None
    vocabulary: int
    ranks: int
    table: Path

    @classmethod
    def of(cls, config: Any) -> EngineSetting:
        """Read a ``VllmConfig``."""
        second = bool(getattr(config, "use_v2_model_runner", False))
        model, parallel = config.model_config, config.parallel_config
        obstacles: list[str] = []
        if config.speculative_config is not None:
            obstacles.append(SPECULATIVE)
        if not second and config.scheduler_config.async_scheduling and not model.logits_processors:
            obstacles.append(ASYNCHRONOUS)
        if model.runner_type == "pooling":
            obstacles.append(POOLING)
        if getattr(model, "is_diffusion", False):
            obstacles.append(DIFFUSION)
        several = getattr(parallel, "nnodes", 1) > 1 or parallel.distributed_executor_backend == "ray"
        return cls(
            runner="v2" if second else "v1",
            obstacles=tuple(obstacles),
            signal_obstacles=(SEVERAL_NODES,) if several else (),
            marks=_marks(getattr(config, "reasoning_config", None)),
            vocabulary=model.get_vocab_size(),
            ranks=parallel.tensor_parallel_size,
            # Each data-parallel engine has a suffix of its own; their requests share one table.
            table=default_path(re.sub(r"_dp\d+$", "", config.instance_id)),
        )


def _marks(reasoning: Any) -> Marks | None:
    start, end, forced = (
        getattr(reasoning, name, None)
        for name in ("reasoning_start_token_ids", "natural_reasoning_end_token_ids", "reasoning_end_token_ids")
    )
    if not start or not end:
        return None
    return Marks(start=tuple(start), end=tuple(end), force=tuple(forced or end))
