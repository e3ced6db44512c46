"""The likely length of a prompt follows what was counted, for each route and model apart."""

import pytest
from suffice.policies.allocation.prompts import PromptRatios


def test_the_likely_length_follows_the_counts():
    ratios = PromptRatios()
    assert ratios.likely("chat", "m", 400) == 200
    ratios.learn("chat", "m", estimate=400, counted=100)
    assert ratios.likely("chat", "m", 400) == 100
    for _ in range(200):
        ratios.learn("chat", "m", estimate=400, counted=300)
    assert ratios.likely("chat", "m", 400) == pytest.approx(300, abs=2)
    assert ratios.likely("completions", "m", 400) == ratios.likely("chat", "other", 400) == 200


def test_a_prompt_has_a_token_at_least():
    ratios = PromptRatios()
    ratios.learn("chat", "m", estimate=0, counted=0)
    assert ratios.likely("chat", "m", 0) == 1
