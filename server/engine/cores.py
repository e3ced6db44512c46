"""On a machine of few cores: vLLM's scheduler waits where its worker computes.

Scheduler and worker wait for each other by spinning, so that one of them always works and the other turns in circles.
Where there are two cores they take both, and clients, the gateway and vLLM's own API stand in line for seconds. Bound
to the worker's cores, the scheduler spins while the worker would only spin as well. What must not be here: starting
and stopping.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

FEW = 4
"""On more cores than this nobody is in the way."""
_PROC = Path("/proc")


def share_cores(session: int) -> int:
    """Bind the schedulers of a CPU engine to the cores of their workers; does nothing where that is not needed.

    Args:
        session: Session that the engine's processes are in.

    Returns:
        How many schedulers were bound.
    """
    if not hasattr(os, "sched_setaffinity") or not _PROC.exists() or len(os.sched_getaffinity(0)) > FEW:
        return 0
    bound = 0
    for process in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):  # processes end while they are looked at
            before, _, after = (process / "stat").read_text().rpartition(")")
            _, parent, _, own = after.split()[:4]
            if int(own) != session or not before.partition("(")[2].startswith("VLLM::Worker"):
                continue
            cores = os.sched_getaffinity(int(process.name))
            if cores == os.sched_getaffinity(int(parent)):
                continue
            for thread in (_PROC / parent / "task").iterdir():
                os.sched_setaffinity(int(thread.name), cores)
            bound += 1
    return bound
