"""The desk before real vLLM: tenants apart, a paused answer the same as an uninterrupted one, memory as it was held."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from gateway.rig import Gateway, wait
from live.between import Between
from suffice.policies.events import Paused, Resumed

pytestmark = pytest.mark.live

LONG = "Count from one to a hundred, slowly, and tell every number. " * 6
PAUSES = 5


@pytest.fixture(scope="module")
def gate(live_engine, tmp_path_factory):
    """A gateway in this process, so that its desk can be told to pause at known moments."""
    config = {"kv": {"scrape_s": 0.1, "retraction": None}}
    with Between(live_engine.url, piece_s=0.005) as wire:
        held = Gateway(SimpleNamespace(url=wire.url), tmp_path_factory.mktemp("gateway"), config).start()
        wait(lambda: held.service.desk.admission is not None)
        yield held
        held.stop()


def chat(gate, model, text, **more):
    """A request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0} | more


def told(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_cached_prompt_helps_its_own_tenant_and_no_other(live_engine, gate):
    request = chat(gate, live_engine.model, LONG, max_tokens=4)
    (_, first), (_, other) = gate.key("first"), gate.key("other")
    answers = [told(gate.post("/v1/chat/completions", request, key=key)) for key in (first, first, other, other)]
    hits = [(answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0) for answer in answers]
    assert hits[0] == hits[2] == 0
    assert hits[1] == hits[3] > 0


def test_block_seconds_follow_from_the_engines_own_times(live_engine, gate):
    answer = told(
        gate.post("/v1/chat/completions", chat(gate, live_engine.model, "3", max_tokens=256, ignore_eos=True))
    )
    spent, times, block = answer["suffice"]["spent"], answer["metrics"], gate.service.desk.block_size
    prompt, generated = spent["prompt_tokens"], spent["completion_tokens"]
    prefill = (times["time_to_first_token_ms"] - times["queue_time_ms"]) / 1000
    steps = sum(-(-(prompt + step) // block) for step in range(1, generated + 1))
    expected = -(-prompt // block) * prefill + steps * times["generation_time_ms"] / 1000 / generated
    assert spent["kv_block_seconds"] == pytest.approx(expected, abs=0.001)


def generated(seat):
    """Tokens of a request's running samples so far."""
    return sum(sample.before + sample.generated for sample in seat.samples.values())


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_bulk_answer_paused_again_and_again_is_the_same(live_engine, gate, api):
    path = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}[api]
    request = chat(gate, live_engine.model, "Start at 7. Add 5. Double it.", max_tokens=600, ignore_eos=True)
    if api == "completions":
        request["prompt"] = request.pop("messages")[0]["content"]
    alone = told(gate.post(path, request))["choices"][0]
    found = []
    bulk = request | {"suffice": {"class": "bulk"}}
    thread = threading.Thread(target=lambda: found.append(gate.post(path, bulk)))
    thread.start()

    def tell(event):
        for seat in gate.service.desk.running():
            seat.interrupt(event(at=seat.clock()))

    for round_ in range(1, PAUSES + 1):
        wait(lambda: found or gate.call(lambda: list(gate.service.desk.running())) != [])
        assert not found, found[0].text[:600]
        (seat,) = gate.call(lambda: list(gate.service.desk.running()))
        wait(lambda seat=seat, least=80 * round_: generated(seat) > least)
        gate.call(lambda: tell(Paused))
        wait(lambda seat=seat: not seat.samples)
        gate.call(lambda: tell(Resumed))
    thread.join(120)
    (answer,) = found
    body = told(answer)
    assert body["choices"][0] == alone
    assert body["suffice"]["spent"]["completion_tokens"] == 600
