"""SIGKILL at any moment under load: no reservation is lost, no limit broken, no account wronged beyond a checkpoint."""

from __future__ import annotations

import asyncio

import pytest
from bench.sigkill import CHECKPOINT, run_beside

KILLS = 50


@pytest.mark.parametrize("seed", [1])
def test_killed_under_load(tmp_path, seed):
    kills = asyncio.run(run_beside(KILLS, seed, tmp_path))
    assert [fault for kill in kills for fault in kill.faults] == []
    assert len(kills) == KILLS
    # The load was real: kills met open reservations, and the recovery had something to judge.
    assert sum(kill.open for kill in kills) >= KILLS
    assert max(kill.over for kill in kills) <= CHECKPOINT
