"""How fast the engine goes, told by the samples' own progress."""

import pytest
from suffice.policies.allocation.pace import Pace


def test_a_step_is_a_token_of_every_running_sample():
    pace = Pace()
    for _ in range(4):
        pace.opened()
    for _ in range(10):
        for _ in range(4):
            pace.grew(1, 0.05, first=False)
    assert pace.steps == pytest.approx(10)
    pace.closed()
    pace.closed()
    for _ in range(10):
        pace.grew(1, 0.05, first=False)
        pace.grew(1, 0.05, first=False)
    assert pace.steps == pytest.approx(20)


def test_the_time_of_a_step_is_learned_and_a_prompts_is_not():
    pace = Pace()
    pace.opened()
    pace.grew(1, 90.0, first=True)
    for _ in range(400):
        pace.grew(2, 0.1, first=False)
    assert pace.step_s == pytest.approx(0.05, rel=0.01)
    assert pace.seconds(100) == pytest.approx(5, rel=0.01)
    pace.opened()
    assert pace.token_s == pytest.approx(0.025, rel=0.01)
