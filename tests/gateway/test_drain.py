"""SIGTERM: what runs may finish, what is new is refused, what takes too long ends as its budget would."""

import contextlib
import signal
import sqlite3
import threading

import httpx2
import pytest
from fake_vllm import FakeVLLM, Script
from gateway.rig import Gateway, events, wait
from suffice.server.ledger.keys import KeyStore, ensure_local_key

CHAT = "/v1/chat/completions"
BODY = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2000, "stream": True}
USAGE = {"stream_options": {"include_usage": True}}


class Stream(threading.Thread):
    """One streamed answer, read in the background."""

    def __init__(self, client, body):
        super().__init__(daemon=True)
        self.client, self.body = client, body
        self.began = threading.Event()
        self.text = ""
        self.start()
        assert self.began.wait(10)

    def run(self):
        with (
            contextlib.suppress(httpx2.RemoteProtocolError),
            self.client.stream("POST", CHAT, json=self.body) as answer,
        ):
            for piece in answer.iter_text():
                self.text += piece
                self.began.set()


@pytest.fixture
def serve(gateway_process, tmp_path):
    """A fake and a gateway process before it."""
    started, clients = [], []
    with FakeVLLM(token_s=0.01) as fake:

        def start(drain_s):
            file = tmp_path / "suffice.yaml"
            file.write_text(f"server: {{drain_s: {drain_s}, metrics_port: null}}\nupstreams: [{{url: '{fake.url}'}}]\n")
            process = gateway_process(fake.url, tmp_path / "data", "--config", str(file))
            keys = KeyStore(tmp_path / "data")
            secret = ensure_local_key(tmp_path / "data", keys)
            keys.close()
            process.start()
            started.append(process)
            fake.forget()
            client = httpx2.Client(
                base_url=process.url, headers={"authorization": f"Bearer {secret}"}, timeout=20, trust_env=False
            )
            clients.append(client)
            return fake, process, client

        yield start
        for client in clients:
            client.close()
        for process in started:
            if process.process.poll() is None:
                process.kill()


def settled(data_dir):
    db = sqlite3.connect(data_dir / "ledger.sqlite")
    rows = db.execute("SELECT state, outcome, used_tokens FROM reservations").fetchall()
    reserved = db.execute("SELECT coalesce(sum(amount), 0) FROM reserved").fetchone()[0]
    db.close()
    return rows, reserved


def test_streams_in_flight_finish_and_new_requests_are_refused(serve):
    fake, process, client = serve(drain_s=20)
    fake.says(Script.of(answer="word " * 100))
    streams = [Stream(client, BODY | USAGE) for _ in range(3)]
    process.process.send_signal(signal.SIGTERM)
    wait(lambda: client.get("/ready").status_code == 503)
    refused = client.post(CHAT, json=BODY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert "retry-after" in refused.headers
    assert client.get("/health").status_code == 200
    for stream in streams:
        stream.join(15)
        found = events(stream.text)
        assert found[-1].data == "[DONE]"
        assert found[-3].data["choices"][0]["finish_reason"] == "stop"
        assert found[-2].data["suffice"]["stops"] == []
    assert process.process.wait(15) == 0
    rows, reserved = settled(process.data_dir)
    assert [(state, outcome) for state, outcome, _ in rows] == [("settled", "completed")] * 3
    assert sum(used for *_, used in rows) == sum(one.prompt_tokens + one.generated_tokens for one in fake.requests)
    assert reserved == 0


def test_what_outlasts_the_grace_period_ends_as_its_budget_would(tmp_path):
    with FakeVLLM(Script.of(answer="more", endless=True), token_s=0.01) as fake:
        gate = Gateway(fake, tmp_path, {"server": {"drain_s": 0.3}}).start()
        fake.forget()
        streams = [Stream(gate.client, BODY | USAGE) for _ in range(2)]
        answers = []
        whole = threading.Thread(target=lambda: answers.append(gate.post(CHAT, BODY | {"stream": False})))
        whole.start()
        wait(lambda: fake.running == 3)
        gate.ask_to_stop()
        for thread in (*streams, whole):
            thread.join(10)
        gate.stop()
        for stream in streams:
            found = events(stream.text)
            assert found[-1].data == "[DONE]"
            assert found[-3].data["choices"][0]["finish_reason"] == "length"
            assert [stop["rule"] for stop in found[-2].data["suffice"]["stops"]] == ["shutdown"]
        assert answers[0].json()["choices"][0]["finish_reason"] == "length"
        assert fake.aborted == 3
        rows, reserved = settled(tmp_path)
    assert [(state, outcome) for state, outcome, _ in rows] == [("settled", "completed")] * 3
    assert all(used > 0 for *_, used in rows)
    assert reserved == 0


def test_a_killed_gateway_recovers_what_was_open(serve):
    fake, process, client = serve(drain_s=5)
    fake.says(Script.of(answer="more", endless=True))
    fake.settings.token_s = 0.001
    stream = Stream(client, BODY)
    wait(lambda: fake.generated_tokens > 600)
    process.kill()
    fake.wait_idle()
    assert settled(process.data_dir)[1] > 0
    process.start()
    rows, reserved = settled(process.data_dir)
    (state, outcome, used), *_ = rows
    assert (state, outcome, reserved) == ("settled", "recovered", 0)
    generated = fake.requests[0].prompt_tokens + fake.requests[0].generated_tokens
    assert generated - 512 <= used <= generated + 512
    assert stream.text
    assert process.stop() == 0


def test_an_idle_gateway_ends_in_order_when_interrupted(serve):
    _, process, client = serve(drain_s=600)
    assert client.get("/health").status_code == 200
    process.process.send_signal(signal.SIGINT)
    assert process.process.wait(60) == 0
    assert "Traceback" not in (process.data_dir / "gateway.log").read_text()
