"""No prompt, answer, thought or key in anything that the gateway keeps or tells about requests."""

import logging

import pytest
from fake_vllm import Script
from gateway.rig import wait

MARK = "canary-2846"
ASK = [{"role": "user", "content": f"say {MARK}"}]
BODIES = {
    "/v1/chat/completions": {"model": "fake", "messages": ASK, "tools": [], "stop": [MARK + "-stop"]},
    "/v1/completions": {"model": "fake", "prompt": MARK, "suffix_" + MARK: MARK},
    "/v1/responses": {"model": "fake", "input": MARK, "instructions": MARK},
    "/v1/messages": {"model": "fake", "messages": ASK, "max_tokens": 50, "system": MARK},
    "/v1/embeddings": {"model": "fake", "input": MARK},
    "/v1/messages/count_tokens": {"model": "fake", "messages": ASK},
}


@pytest.mark.parametrize("chunks", [False, True], ids=["events", "every-chunk"])
def test_a_marker_in_prompts_and_answers_is_kept_nowhere(make, caplog, chunks):
    gate = make({"telemetry": {"event_log_chunks": chunks}}, reasoning_config=False)
    caplog.set_level(logging.DEBUG)
    gate.fake.says(Script.of(thought=f"I say {MARK}", answer=f"here is {MARK} and {MARK}"))
    keys = [gate.key(f"key {number}")[1] for number in range(2)]
    for path, body in BODIES.items():
        for stream in (False, True):
            gate.post(path, body | {"stream": stream, "suffice": {"budget": {"thinking_tokens": 2}}}, key=keys[0])
        gate.post(path, body | {"model": MARK}, key=keys[1])
        gate.post(path, body | {MARK: MARK})
        gate.client.post(path, content=b'{"model": "fake", "messages": "' + MARK.encode())
        for kind in ("status", "error_event", "invalid_json", "reset"):
            gate.fake.fail(kind, message=f"bad {MARK}", status=400)
            gate.post(path, body | {"stream": True}, x_suffice_preset=MARK if kind == "reset" else "balanced")
            gate.fake.app.faults.clear()
    gate.idle()
    wait(lambda: (gate.data_dir / "events.jsonl").stat().st_size > 0)
    gate.call(lambda: gate.service.event_log._queue.put_nowait(b""))
    wait(gate.service.event_log._queue.empty)
    kept = {file.name: file.read_bytes() for file in gate.data_dir.iterdir() if file.is_file()}
    kept["metrics"] = gate.client.get("/metrics").content
    kept["log"] = "\n".join(record.getMessage() for record in caplog.records if "httpx" not in record.name).encode()
    assert b"Settled" in kept["events.jsonl"]
    assert b'"event":"Chunk"' in kept["events.jsonl"]
    assert (b'"chunks":' not in kept["events.jsonl"]) is chunks
    for name, content in kept.items():
        assert MARK.encode() not in content, name
        for secret in (*keys, gate.secret):
            assert secret.encode() not in content, name
            assert secret[20:].encode() not in content, name


def test_metrics_have_no_label_of_a_clients_making(gate):
    for name in (MARK, "x" * 300):
        gate.post("/v1/chat/completions", {"model": name, "messages": ASK})
        gate.post(f"/v1/{name}", {})
    text = gate.client.get("/metrics").text
    assert MARK not in text
    assert 'model="none"' in text
