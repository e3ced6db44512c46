"""The event log tells a live run again: the same rules on its events give the same decisions."""

import contextlib
import json

import httpx2
import pytest
from fake_vllm import Script
from gateway.rig import wait
from suffice.policies.decisions import Abort, Open, Probe
from suffice.policies.replay_log import replay

CHAT = "/v1/chat/completions"
QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "marker-7741 think about it"}]}
EXIT = {"rule": "convergence", "probe_first": 8, "probe_growth": 1.5, "probe_tokens": 4}
BUDGET = {"total_tokens": 800, "answer_reserve": 10}
LONG = Script(thought=(" hm",) * 400, answer=(" 42",))
GUARDED = {
    "policies": {
        "guards": {"repetition": {"least": 24, "max_pattern": 4}, "boundary": {}, "deadline": {}, "extend": {}}
    }
}


def lines(gate):
    """Every record of the log so far."""
    path = gate.data_dir / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ended(gate):
    """Ids of the requests that are written, in order."""
    return [line["request_id"] for line in lines(gate) if line.get("event") == "Settled"]


def logged(gate, request_id):
    """The records of one request, once they are written."""
    wait(lambda: request_id in ended(gate))
    return [line for line in lines(gate) if line["request_id"] == request_id]


def next_logged(gate, before):
    """The records of the first request that was written after others."""
    wait(lambda: len(ended(gate)) > before)
    return logged(gate, ended(gate)[before])


def told_again(records):
    """Replay a log; it must say nothing but what it says."""
    replayed = replay(records)
    assert replayed.differences == ()
    assert sum("decision" in record for record in records) == len(replayed.decisions)
    spent = records[-1]["receipt"]["spent"]
    generated = spent["completion_tokens"] + spent["probe_tokens"] + spent["cancelled_tokens"]
    assert replayed.chain.meter.used == generated
    assert replayed.chain.complete
    return replayed


def ask(gate, body, **suffice):
    answer = gate.post(CHAT, QUESTION | body | {"suffice": suffice})
    assert answer.status_code == 200, answer.text
    return logged(gate, answer.json()["suffice"]["request_id"])


def kinds(replayed):
    return {type(decision) for decision in replayed.decisions}


def test_a_plain_request(gate):
    gate.fake.says(Script.of(thought="one two three four", answer="five six"))
    records = ask(gate, {"n": 3})
    told_again(records)
    assert sum(record.get("event") == "Chunk" for record in records) == 6, "one a sample and phase"
    assert records[0]["event"] == "Planned"
    assert "marker-7741" not in json.dumps(records)


def test_what_thoughts_of_the_route_usually_take_is_told_with_the_rule(make):
    gate = make({"policies": {"early_exit": EXIT}})
    gate.fake.says(Script.of(thought="one two three four", answer="five six"))
    first, second = (ask(gate, {})[0]["rules"] for _ in range(2))
    (before,), (after,) = ([rule for rule in rules if rule["family"] == "early_exit"] for rules in (first, second))
    assert "usual_tokens" not in before
    assert after["usual_tokens"] == 4


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param({}, id="engine-caps"),
        pytest.param({"reasoning_config": False}, id="gateway-caps"),
        pytest.param({"template_opens_thought": False}, id="model-opens-its-thought"),
        pytest.param({"tokens_per_chunk": 3}, id="large-chunks"),
    ],
)
def test_an_early_exit(make, kind):
    gate = make(**kind)
    gate.fake.says(LONG)
    gate.fake.settings.token_s = 0.004
    replayed = told_again(ask(gate, {}, budget=BUDGET, early_exit=EXIT, answer={"kind": "number"}))
    assert Probe in kinds(replayed)
    assert replayed.chain.stops[0].rule == "convergence"


@pytest.mark.parametrize("rule", ["curtailment", "certificate", "all", "confidence", "first_finish", "best_of_n"])
def test_samples_that_vote(make, rule):
    gate = make()
    lengths = iter(range(3, 400, 7))
    gate.fake.says(lambda ask: Script(thought=(" hm",) * next(lengths), answer=(f" {ask.seed % 2}",)))
    gate.fake.settings.token_s = 0.001
    sampling = {"rule": rule, "max": 8, "wave": 3}
    if rule == "confidence":
        sampling |= {"warm_up": 3, "window": 4, "eta": 50.0}
    records = ask(gate, {"max_tokens": 60, "seed": 3}, sampling=sampling, answer={"kind": "number"})
    told_again(records)
    assert len(records[-1]["answers"]) == records[-1]["receipt"]["spent"]["samples"]
    assert ("confidences" in json.dumps(records)) is (rule == "confidence")


@pytest.mark.parametrize("kind", [{}, {"reasoning_config": False}], ids=["engine-caps", "gateway-caps"])
def test_a_cap(make, kind):
    gate = make(**kind)
    gate.fake.says(LONG)
    replayed = told_again(ask(gate, {}, budget={"thinking_tokens": 50}))
    assert (replayed.chain.stops[0].rule, replayed.chain.stops[0].at_token) == ("thinking_tokens", 50)


def test_a_deadline(make):
    gate = make()
    gate.fake.says(LONG)
    gate.fake.settings.token_s = 0.005
    replayed = told_again(ask(gate, {}, budget={"deadline_ms": 200}))
    assert Abort in kinds(replayed)
    assert replayed.chain.stops[0].rule == "deadline_ms"


def test_a_client_that_leaves(make):
    gate = make()
    gate.fake.says(LONG)
    gate.fake.settings.token_s = 0.01
    before = len(ended(gate))
    with contextlib.suppress(httpx2.ReadTimeout):
        gate.client.post(CHAT, json=QUESTION, timeout=0.2)
    records = next_logged(gate, before)
    assert records[-1]["outcome"] == "client_gone"
    told_again(records)


def test_an_upstream_that_breaks(make):
    gate = make()
    before = len(ended(gate))
    gate.fake.fail("reset", after=5)
    assert gate.post(CHAT, QUESTION | {"n": 2}).status_code == 502
    told_again(next_logged(gate, before))


@pytest.mark.parametrize("chunks", [False, True], ids=["merged", "every-chunk"])
def test_rules_that_see_text(make, chunks):
    gate = make(GUARDED | {"telemetry": {"event_log_chunks": chunks}}, reasoning_config=False)
    gate.fake.says(Script(thought=tuple(f" w{i % 3}" for i in range(300)), answer=(" 42",)))
    records = ask(gate, {}, budget={"thinking_tokens": 250, "deadline_ms": 20_000})
    replayed = told_again(records)
    assert replayed.chain.stops[0].rule in ("repetition", "boundary")
    assert any("wants" in record for record in records)
    assert sum(isinstance(decision, Open) for decision in replayed.decisions) >= 2
