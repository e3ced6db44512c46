"""Logs of real runs: replay decides what was decided, by a vote, an early exit, a cap and a rule that sees tokens."""

from __future__ import annotations

import json
import time

import pytest
from live.asking import ask, body
from suffice.policies.replay_log import replay

pytestmark = pytest.mark.live

EXIT = {"rule": "convergence", "probe_first": 8, "probe_growth": 1.3, "probe_tokens": 8, "home": "gateway"}


def logged(gateway, request_id):
    """The records of a request, once they are written."""
    path = gateway.data_dir / "events.jsonl"
    deadline = time.monotonic() + 10
    while True:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found = [line for line in lines if line["request_id"] == request_id]
        if found and found[-1].get("event") == "Settled":
            return found
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "suffice",
    [
        pytest.param({}, id="plain"),
        pytest.param({"budget": {"thinking_tokens": 12}}, id="cap"),
        pytest.param({"early_exit": EXIT, "answer": {"kind": "number"}}, id="early-exit"),
        pytest.param({"early_exit": {"rule": "willing", "home": "gateway"}}, id="rule-that-sees-tokens"),
        pytest.param({"sampling": {"max": 6, "wave": 3}, "answer": {"kind": "number"}}, id="vote"),
        pytest.param({"sampling": {"rule": "confidence", "max": 6, "wave": 3, "warm_up": 3}}, id="confidence"),
        pytest.param({"budget": {"deadline_ms": 400}}, id="deadline"),
    ],
)
def test_a_live_run_is_told_again_by_its_log(thinks, suffice):
    told = ask(thinks, "chat", body("chat", thinks.model, tokens=300, suffice=suffice))
    if told.status != 200:
        assert told.status == 504, told.body
        pytest.skip("the deadline passed before the first token")
    records = logged(thinks, told.receipt["request_id"])
    replayed = replay(records)
    assert replayed.differences == ()
    assert len(replayed.decisions) >= 3
    assert replayed.chain.meter.used == told.usage[1]
    assert [stop.rule for stop in replayed.chain.stops] == [stop["rule"] for stop in told.receipt["stops"]]
