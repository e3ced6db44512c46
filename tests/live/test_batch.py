"""One budget over many questions on the real engine: what the batch says it spent is what the engine counted."""

from __future__ import annotations

import json

import httpx2
import pytest
from live.engine_truth import settled, spending

pytestmark = pytest.mark.live

SUMS = {"first": "Start at 43. Add 8. What do you get?", "second": "Start at 12. Double it. Add 5. What do you get?"}


def body(model, **more):
    questions = [{"id": name, "messages": [{"role": "user", "content": text}]} for name, text in SUMS.items()]
    found = {"model": model, "questions": questions, "answer": {"kind": "number"}, "concurrency": 3}
    return found | {"sample_tokens": 60, "sampling": {"least": 2, "max": 5}} | more


def ask(gateway, request):
    headers = {"authorization": f"Bearer {gateway.key}"}
    url = f"{gateway.url}/v1/suffice/batch"
    answer = httpx2.post(url, json=request, headers=headers, timeout=120, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer


def agree(gateway, told, spent):
    """Batch, usage, ledger and engine say the same."""
    usage = told["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (spent.prompt, spent.generated)
    row = settled(gateway.data_dir, told["suffice"]["request_id"])
    assert (row.used, row.outcome) == (spent.prompt + spent.generated, "completed")
    assert row.used <= row.reserved


def test_a_whole_batch(live_engine, gateway):
    request = body(live_engine.model, total_tokens=5000, seed=1)
    with spending(live_engine.url) as spent:
        told = ask(gateway, request).json()
    agree(gateway, told, spent)
    assert told["status"] == "completed"
    assert [result["samples"] for result in told["results"]] == [5, 5]
    assert sum(result["tokens"] for result in told["results"]) == told["spent"]["tokens"] == spent.generated


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_total_is_met_to_the_token(live_engine, gateway, word, concurrency):
    # A model that may say but one word never ends by itself.
    more = {"allowed_token_ids": [word], "ignore_eos": True, "concurrency": concurrency, "sampling": {"max": 40}}
    with spending(live_engine.url) as spent:
        told = ask(gateway, body(live_engine.model, total_tokens=250, **more)).json()
    agree(gateway, told, spent)
    assert spent.generated == told["spent"]["tokens"] == 250


def test_going_on_charges_only_what_is_new(live_engine, gateway):
    request = body(live_engine.model, total_tokens=5000, seed=1, concurrency=1, stream=True)
    text = ask(gateway, request).text
    data = [json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line.startswith("data: ")]
    kept = [one["vote"] for one in data if "vote" in one][:4]
    with spending(live_engine.url) as spent:
        told = ask(gateway, request | {"stream": False, "resume": {"votes": kept}}).json()
    agree(gateway, told, spent)
    assert told["spent"]["tokens"] == spent.generated + sum(vote["tokens"] for vote in kept)
    assert [result["samples"] for result in told["results"]] == [5, 5]
