"""The desk through HTTP: waiting, refusing, pausing and accounting, before a fake engine whose memory is short."""

import contextlib
import json
import threading
import time

import pytest
from fake_vllm import FakeVLLM, Script
from gateway.rig import Gateway, contents, events, wait
from suffice.policies.events import Paused, Resumed
from suffice.server.ledger.amounts import Resource

CHAT = "/v1/chat/completions"
QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
BULK = {"suffice": {"class": "bulk"}}


@pytest.fixture
def short(tmp_path):
    """A gateway of the test's own before an engine of 64 blocks, one of them vLLM's; 63 blocks hold 1008 tokens."""
    with contextlib.ExitStack() as stack:

        def start(**kv):
            fake = stack.enter_context(FakeVLLM(kv_cache_tokens=1024))
            gate = Gateway(fake, tmp_path / "data", {"kv": {"scrape_s": 0.02, "headroom": 0} | kv}).start()
            stack.callback(gate.stop)
            wait(lambda: gate.service.desk.admission is not None)
            fake.wait_idle()
            fake.forget()
            return gate

        yield start


class Beside:
    """A request that runs beside the test."""

    def __init__(self, gate, body, **more):
        self.answer = None
        self._thread = threading.Thread(target=self._run, args=(gate, body, more))
        self._thread.start()

    def _run(self, gate, body, more):
        self.answer = gate.post(CHAT, body, **more)

    @property
    def done(self):
        return not self._thread.is_alive()

    def result(self):
        self._thread.join(20)
        assert self.done
        return self.answer


def slow(gate, *, tokens=400, token_s=0.002):
    gate.fake.says(Script.of(answer="more", endless=True))
    gate.fake.settings.token_s = token_s
    return QUESTION | {"max_tokens": tokens}


def queued(gate, count):
    wait(
        lambda: (
            sum(gate.metric("suffice_queue_depth", service=name) for name in ("interactive", "default", "bulk"))
            == count
        )
    )


def test_what_does_not_fit_waits_its_turn(short):
    gate = short()
    body = slow(gate, tokens=800)
    first, second = Beside(gate, body), Beside(gate, body)
    queued(gate, 1)
    assert len(gate.fake.requests) == 1
    receipts = sorted(
        (one.result().json()["suffice"] for one in (first, second)), key=lambda one: one["spent"]["queue_ms"]
    )
    assert receipts[0]["spent"]["queue_ms"] == 0
    assert receipts[1]["spent"]["queue_ms"] > 300
    assert all(one["spent"]["completion_tokens"] == 800 for one in receipts)
    gate.idle()
    assert gate.metric("suffice_admission_decisions_total", verdict="queued") == 1
    assert gate.service.desk.admission.peak == 0


def test_what_can_never_fit_is_refused_and_costs_nothing(short):
    gate = short()
    id_, key = gate.key()
    answer = gate.post(CHAT, QUESTION | {"max_tokens": 2000}, key=key)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("kv_cache_exceeded", "max_tokens")
    assert "fits" in error["message"]
    assert gate.usage(f"key:{id_}") == (0, 0)
    assert gate.usage(f"key:{id_}", Resource.REQUESTS) == (0, 0)
    assert gate.fake.requests == []


def test_a_full_queue_says_when_to_come_back(short):
    gate = short(queue=1)
    body = slow(gate, tokens=900)
    running = [Beside(gate, body)]
    wait(lambda: bool(gate.fake.requests))
    running.append(Beside(gate, body))
    queued(gate, 1)
    answer = gate.post(CHAT, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
    for one in running:
        assert one.result().status_code == 200


def test_a_deadline_that_cannot_be_met_is_told_at_the_door(short):
    gate = short()
    body = slow(gate, tokens=900, token_s=0.01)
    running = Beside(gate, body)
    wait(lambda: gate.service.desk.pace.steps > 30)
    began = time.monotonic()
    answer = gate.post(CHAT, body | {"suffice": {"budget": {"deadline_ms": 500}}})
    assert time.monotonic() - began < 0.4
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "deadline_unreachable")
    assert "retry-after" in answer.headers
    gate.fake.settings.token_s = 0
    running.result()


def test_a_client_that_leaves_the_queue_costs_nothing(short):
    gate = short()
    body = slow(gate, tokens=900)
    running = Beside(gate, body)
    wait(lambda: bool(gate.fake.requests))
    id_, key = gate.key()
    with pytest.raises(Exception, match=r"(?i)time"):
        gate.client.post(CHAT, json=body, headers={"authorization": f"Bearer {key}"}, timeout=0.3)
    wait(lambda: gate.metric("suffice_client_disconnects_total", phase="queued") == 1)
    running.result()
    gate.idle()
    assert len(gate.fake.requests) == 1
    assert gate.usage(f"key:{id_}") == (0, 0)
    assert gate.usage(f"key:{id_}", Resource.REQUESTS) == (0, 0)


def test_going_down_refuses_whoever_waits_and_finishes_whoever_runs(short):
    gate = short()
    body = slow(gate, tokens=900, token_s=0.001)
    running = Beside(gate, body)
    wait(lambda: bool(gate.fake.requests))
    waiting = Beside(gate, body)
    queued(gate, 1)
    gate.call(gate.service.drain)
    assert (waiting.result().status_code, waiting.result().json()["error"]["code"]) == (503, "shutting_down")
    assert running.result().status_code == 200


def test_interactive_work_overtakes_bulk(short):
    gate = short(retraction=None)
    body = slow(gate, tokens=900, token_s=0.0005)
    first = Beside(gate, body)
    wait(lambda: bool(gate.fake.requests))
    bulk = [Beside(gate, body | BULK) for _ in range(3)]
    queued(gate, 3)
    quick = Beside(gate, body | {"suffice": {"class": "interactive"}})
    queued(gate, 4)
    for one in (first, quick, *bulk):
        assert one.result().status_code == 200
    waits = [one.answer.json()["suffice"]["spent"]["queue_ms"] for one in bulk]
    assert quick.answer.json()["suffice"]["spent"]["queue_ms"] < sorted(waits)[1]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("thought", ["", "hm, let me see. " * 20], ids=["plain", "thinking"])
def test_a_bulk_answer_is_paused_and_resumed_unseen(short, stream, thought):
    words = " ".join(f"w{number}" for number in range(150))
    gate = short(retraction=None)
    script = Script.of(thought=thought, answer=words) if thought else Script.of(answer=words)
    gate.fake.says(script)
    whole = gate.post(CHAT, QUESTION | {"max_tokens": 900}).json()["choices"][0]["message"]
    gate.fake.settings.token_s = 0.003
    gate.fake.says(script)
    found = Beside(gate, QUESTION | {"max_tokens": 900, "stream": stream} | BULK)
    wait(lambda: len(gate.fake.requests) == 2)
    for _ in range(2):
        time.sleep(0.15)
        interrupt(gate, Paused)
        wait(lambda: gate.service.desk.pace.samples == 0)
        interrupt(gate, Resumed)
    answer = found.result()
    assert answer.status_code == 200
    if stream:
        deltas = [
            event.data["choices"][0]["delta"]
            for event in events(answer.text)
            if event.data != "[DONE]" and event.data["choices"]
        ]
        told = {name: "".join(delta.get(name) or "" for delta in deltas) for name in ("content", "reasoning")}
    else:
        told = answer.json()["choices"][0]["message"]
    assert told["content"] == whole["content"]
    assert (told.get("reasoning") or "") == (whole.get("reasoning") or "")
    assert len(gate.fake.requests) >= 4


def interrupt(gate, event):
    """Tell the one request that runs what the desk's clock would tell it."""

    def tell():
        (seat,) = gate.service.desk.running()
        seat.interrupt(event(at=seat.clock()))

    gate.call(tell)


def test_bulk_gives_way_to_what_waits(short):
    gate = short(retraction={"high": 0.9, "low": 0.85, "pauses": 3, "grace_s": 0.05, "longest_pause_s": 60})
    body = slow(gate, tokens=450, token_s=0)
    whole = gate.post(CHAT, body).json()["choices"][0]["message"]["content"]
    gate.fake.forget()
    gate.fake.settings.token_s = 0.004
    bulk = [Beside(gate, body | BULK)]
    wait(lambda: len(gate.fake.requests) == 1)
    bulk.append(Beside(gate, body | BULK))
    wait(lambda: len(gate.fake.requests) == 2)
    time.sleep(0.2)
    quick = Beside(gate, body | {"suffice": {"class": "interactive"}})
    wait(lambda: gate.metric("suffice_retractions_total", action="pause") == 1)
    assert quick.result().status_code == 200
    for one in bulk:
        answer = one.result().json()
        assert answer["suffice"]["spent"]["completion_tokens"] == 450
        (text,) = contents(answer)
        assert text == whole
    assert gate.metric("suffice_retractions_total", action="resume") == 1


@pytest.mark.parametrize(
    "more",
    [
        {"stop": ["zz"]},
        {"seed": 1, "temperature": 1},
        {"presence_penalty": 1},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ],
    ids=["stop", "seed", "penalty", "tools"],
)
def test_what_would_not_be_the_same_is_never_paused(short, more):
    gate = short()
    body = slow(gate, tokens=900) | BULK | more
    running = Beside(gate, body)
    wait(lambda: list(gate.service.desk.running()) != [])
    assert not next(gate.service.desk.running()).visit.pausable
    gate.fake.settings.token_s = 0
    running.result()


def test_block_seconds_are_told_and_charged(short):
    gate = short()
    id_, key = gate.key()
    gate.fake.says(Script.of(answer="more", endless=True))
    gate.fake.settings.prefill_s, gate.fake.settings.token_s = 0.1, 0.002
    answer = gate.post(CHAT, QUESTION | {"max_tokens": 320}, key=key).json()
    told = answer["suffice"]["spent"]["kv_block_seconds"]
    # From the fake's own timings: 320 tokens in 0.64 s, 10 blocks on average and the prompt's.
    assert 5 < told < 30
    gate.idle()
    spent, reserved = gate.usage(f"key:{id_}", Resource.KV_BLOCK_MS)
    assert spent == pytest.approx(told * 1000, abs=1)
    assert reserved == 0


def test_a_budget_of_block_seconds_ends_the_request(short):
    gate = short()
    body = slow(gate, tokens=900, token_s=0.01) | {"suffice": {"budget": {"kv_block_seconds": 3}}}
    receipt = gate.post(CHAT, body).json()["suffice"]
    assert receipt["plan"]["limits"]["kv_block_seconds"] == [3, "request"]
    assert [stop["rule"] for stop in receipt["stops"]] == ["kv_block_seconds"]
    assert 3 <= receipt["spent"]["kv_block_seconds"] < 6


def test_an_account_of_block_seconds_is_never_overdrawn(short):
    gate = short()
    id_, key = gate.key(limits=("kv_block_ms=400000/hour",))
    body = slow(gate, tokens=300, token_s=0.001)
    answer = gate.post(CHAT, body, key=key)
    assert answer.status_code == 200
    limits = answer.json()["suffice"]["plan"]["limits"]
    assert limits["kv_block_seconds"][1] == "account"
    gate.idle()
    spent, reserved = gate.usage(f"key:{id_}", Resource.KV_BLOCK_MS)
    assert 0 < spent <= limits["kv_block_seconds"][0] * 1000
    assert reserved == 0
    small, poor = gate.key(limits=("kv_block_ms=1/hour",))
    refused = gate.post(CHAT, body, key=poor)
    assert refused.status_code == 429
    assert gate.usage(f"key:{small}", Resource.KV_BLOCK_MS) == (0, 0)


def test_the_engine_is_read_and_shown(short):
    gate = short()
    gate.fake.settings.kv_cache_usage = 0.5
    wait(lambda: gate.metric("suffice_kv_held_blocks") > 30)
    assert gate.metric("suffice_kv_usable_blocks") == 63
    assert gate.metric("suffice_engine_state_age_seconds") < 5
    assert gate.metric("suffice_engine_scrapes_total", outcome="read") > 0


def test_an_engine_that_tells_nothing_of_its_cache_is_no_reason_to_refuse(make):
    gate = make({"kv": {"scrape_s": 0.02}}, kv_cache_tokens=0)
    wait(lambda: gate.metric("suffice_engine_scrapes_total", outcome="read") > 1)
    answer = gate.post(CHAT, QUESTION)
    assert answer.status_code == 200
    assert answer.json()["suffice"]["spent"]["kv_block_seconds"] == 0
    assert gate.metric("suffice_admission_decisions_total", verdict="unknown") == 1


def test_prices_rise_while_requests_wait_and_fall_afterwards(short):
    gate = short(price={"queue_s": 0.05, "kv_pressure": 0.5, "rate": 50})
    assert gate.metric("suffice_price", resource="second") == 0
    body = slow(gate, tokens=900, token_s=0.001)
    running = [Beside(gate, body) for _ in range(3)]
    wait(lambda: gate.metric("suffice_price", resource="block_second") > 0)
    wait(lambda: gate.metric("suffice_price", resource="second") > 0)
    for one in running:
        one.result()
    wait(lambda: gate.metric("suffice_price", resource="second") == 0)
    wait(lambda: gate.metric("suffice_price", resource="block_second") == 0)


def test_nothing_of_the_desk_tells_text(short, caplog):
    gate = short()
    gate.fake.says(Script.of(answer="a secret word"))
    assert gate.post(CHAT, QUESTION | BULK | {"max_tokens": 100}).status_code == 200
    gate.idle()
    file = gate.data_dir / "events.jsonl"
    wait(lambda: '"Settled"' in file.read_text())
    log = file.read_text()
    assert "secret" not in log
    assert json.loads(log.splitlines()[-1])["receipt"]["spent"]["kv_block_seconds"] >= 0
