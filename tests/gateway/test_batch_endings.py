"""How a batch ends: whatever ends it, the account is settled once, nothing stays open, and no vote is lost."""

import pytest
from fake_vllm import FakeVLLM, Script
from gateway.batches import BATCH, SEED, Background, Caller, body, by_name, split, votes
from gateway.rig import CRASHES, Gateway, events, wait
from suffice.policies.replay_log import replay
from suffice.server.gateway.batch import telling
from suffice.server.ledger.amounts import Resource
from suffice.server.replay.log_files import read_log


def settlements(gate):
    return {kind: gate.metric("suffice_ledger_settles_total", kind=kind) for kind in ("first", "duplicate")}


class Books:
    """A key of its own, and what its account says in the end."""

    def __init__(self, gate):
        self.gate = gate
        self.id, self.key = gate.key()
        self.before = settlements(gate)
        self.settled = len(gate.settled())

    def closed(self, outcome):
        """Everything is settled once, at what the fake has counted, or what of it reached the gateway."""
        gate = self.gate
        wait(lambda: gate.usage(f"key:{self.id}", Resource.REQUESTS) == (1, 0))
        gate.idle()
        spent, reserved = gate.usage(f"key:{self.id}")
        (row,) = gate.settled()[self.settled :]
        assert (row.state, row.outcome, row.used, reserved) == ("settled", outcome, spent, 0)
        assert spent <= row.reserved
        now = settlements(gate)
        assert (now["first"], now["duplicate"]) == (self.before["first"] + 1, self.before["duplicate"])
        assert spent <= sum(one.prompt_tokens + one.generated_tokens for one in gate.fake.requests)
        assert gate.metric("suffice_budget_overshoot_tokens_total") == 0
        return spent


STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def ask(gate, request, books, *, stream):
    """The final object."""
    answer = gate.post(BATCH, request | {"stream": stream}, key=books.key)
    assert answer.status_code == 200, answer.text
    return split(events(answer.text))[2] if stream else answer.json()


def slow_last(gate, names, *, quick):
    """So many samples answer at once; those after them never end."""
    count = iter(range(10**6))

    def script(ask):
        if next(count) < quick:
            return Script.of(thought="hm", answer=f"The answer is {ask.seed % 2}.")
        return Script(thought=(" hm",), answer=(" more",), endless=True)

    gate.fake.says(script)
    gate.fake.settings.token_s = 0.005
    return body(*names, sample_tokens=3000)


@STREAM
def test_a_deadline(make, stream):
    gate = make()
    books = Books(gate)
    request = slow_last(gate, "ab", quick=6)
    told = ask(gate, request | {"deadline_ms": 1500}, books, stream=stream)
    assert (told["status"], told["incomplete"]) == ("incomplete", {"why": "deadline_ms"})
    assert len(told["state"]["votes"]) == sum(result["samples"] for result in told["results"]) == 6
    assert told["state"]["lost_tokens"] == told["spent"]["lost_tokens"] > 0
    assert told["suffice"]["spent"]["cancelled_tokens"] == told["spent"]["lost_tokens"]
    gate.fake.wait_idle()
    assert gate.fake.aborted == 4
    assert books.closed("completed") == told["usage"]["total_tokens"]


@STREAM
def test_the_client_leaves(make, stream):
    gate = make()
    books = Books(gate)
    request = slow_last(gate, "ab", quick=6)
    client = Caller(gate, request | {"stream": stream}, books.key)
    if stream:
        client.read_until(b"event: batch.progress", 6)
    wait(lambda: len(gate.fake.requests) == 10 and gate.fake.generated_tokens > 100)
    client.leave()
    assert books.closed("client_gone") > 0
    assert gate.fake.aborted == 4
    assert len(gate.fake.requests) == 10


def test_a_question_that_upstream_refuses_does_not_end_the_others(make):
    gate = make()
    books = Books(gate)
    votes(gate, {"a": ["7"], "b": ["8"]})
    request = body("a", "b", sampling={"max": 3})
    request["questions"][0]["messages"][0]["content"] += " word" * 5000
    told = ask(gate, request, books, stream=False)
    found = by_name(told)
    assert told["status"] == "completed"
    assert found["a"]["error"]["code"] == "context_length_exceeded"
    assert (found["a"]["answer"], found["a"]["samples"]) == (None, 0)
    assert (found["b"]["answer"]["value"], found["b"]["samples"]) == ("8", 3)
    assert "error" not in found["b"]
    assert books.closed("completed") == told["usage"]["total_tokens"]


@STREAM
def test_upstream_fails_for_good(make, stream):
    gate = make()
    books = Books(gate)
    asked = votes(gate, {"a": ["7"], "b": ["8"]})
    script = gate.fake.app.model

    def failing(ask):
        if len(asked) == 5:
            gate.fake.fail("status", times=None, status=500)
        return script(ask)

    gate.fake.says(failing)
    told = ask(gate, body("a", "b", concurrency=1), books, stream=stream)
    assert (told["status"], told["incomplete"]["why"]) == ("incomplete", "upstream_failed")
    assert told["incomplete"]["error"]["code"] == "upstream_error"
    assert len(told["state"]["votes"]) == 6
    assert by_name(told)["a"]["answer"]["value"] == "7"
    assert books.closed("failed") == told["usage"]["total_tokens"]


@STREAM
def test_upstream_never_works(make, stream):
    gate = make()
    books = Books(gate)
    gate.fake.fail("status", times=None, status=500)
    answer = gate.post(BATCH, body("a", "b", stream=stream), key=books.key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    assert books.closed("failed") == 0


@pytest.mark.parametrize("kind", ["status", "reset", "error_event", "invalid_json", "no_finish", "end"])
def test_a_passing_trouble_costs_no_sample(make, kind):
    gate = make()
    books = Books(gate)
    votes(gate, {"a": ["1", "2", "3"], "b": ["8"]})
    gate.fake.fail(kind, after=4, times=2, status=500)
    told = ask(gate, body("a", "b", sampling={"max": 3}), books, stream=False)
    found = by_name(told)
    assert told["status"] == "completed"
    assert found["a"]["votes"] == {"1": 1, "2": 1, "3": 1}
    assert found["b"]["votes"] == {"8": 3}
    assert told["spent"]["tokens"] == sum(result["tokens"] for result in told["results"]) + told["spent"]["lost_tokens"]
    assert told["usage"]["completion_tokens"] == told["spent"]["tokens"]
    books.closed("completed")


def test_a_question_that_fails_again_and_again_is_given_up(make):
    gate = make()
    books = Books(gate)

    def script(ask):
        if "question bad" in ask.prompt:
            raise RuntimeError("the engine breaks on this very question")
        return Script.of(thought="hm hm hm hm hm hm", answer="The answer is 7.")

    gate.fake.says(script)
    gate.fake.settings.token_s = 0.01  # the others outlast its patience
    told = ask(gate, body("good", "bad", sampling={"max": 24}, concurrency=2), books, stream=False)
    gate.fake.app.failures.clear()
    CRASHES.take()  # the fake's own
    found = by_name(told)
    assert told["status"] == "completed"
    assert found["bad"]["error"]["code"] == "upstream_error"
    assert found["good"]["samples"] == 24
    books.closed("completed")


@STREAM
def test_the_server_goes_down(tmp_path, stream):
    with FakeVLLM() as fake:
        gate = Gateway(fake, tmp_path, {"server": {"drain_s": 0.3}}).start()
        fake.forget()
        request = slow_last(gate, "ab", quick=6)
        client = Background(gate, request | {"stream": stream})
        wait(lambda: len(fake.requests) == 10)
        gate.ask_to_stop()
        client.join(15)
        gate.stop()
        told = split(events(client.answer.text))[2] if stream else client.answer.json()
        assert (told["status"], told["incomplete"]["why"]) == ("incomplete", "shutdown")
        assert len(told["state"]["votes"]) == 6
        assert fake.aborted == 4
        (row,) = gate.settled()
    assert (row.state, row.outcome, row.used) == ("settled", "completed", told["usage"]["total_tokens"])


def test_the_worst_case_must_fit_the_account(make):
    gate = make()
    id_, key = gate.key(limits=("tokens=5000/day",))
    answer = gate.post(BATCH, body("a", total=5000), key=key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
    assert gate.fake.requests == []
    assert gate.usage(f"key:{id_}") == (0, 0)


def test_what_prompts_were_estimated_too_long_is_given_back_while_it_runs(make):
    gate = make()
    id_, key = gate.key()
    request = slow_last(gate, "a", quick=2) | {"sampling": {"max": 10}, "concurrency": 1}
    client = Caller(gate, request | {"stream": True}, key)
    client.read_until(b"event: batch.progress", 2)
    prompt = gate.fake.requests[0].prompt_tokens
    wait(lambda: gate.usage(f"key:{id_}")[1] == 10 * prompt + request["total_tokens"])
    client.leave()
    gate.idle()


def test_nothing_that_anybody_wrote_is_logged(make, caplog):
    gate = make()
    marker = "canary2846"
    gate.fake.says(Script.of(thought=f"I say {marker}", answer=f"{marker} is 9876543210987."))
    request = body("a", answer={"kind": "exact"}, sampling={"max": 3}, seed=SEED)
    request["questions"] = [{"id": marker, "messages": [{"role": "user", "content": f"say {marker}"}]}]
    told = gate.post(BATCH, request).json()
    vote = {"id": marker, "sample": 0, "answer": marker, "tokens": 3}
    gate.post(BATCH, request | {"resume": {"votes": [vote]}})
    gate.post(BATCH, request | {"resume": {"votes": [vote | {marker: marker}]}})
    assert marker in told["results"][0]["answer"]["value"]
    log = gate.data_dir / "events.jsonl"
    name = told["suffice"]["request_id"]
    wait(lambda: f'"request_id":"{name}","event":"Batch"' in log.read_text())
    written = log.read_text()
    assert written.count(f'"id":"{name}"') == 3
    assert '"votes":[[0,0,0,' in written
    kept = [written, gate.client.get("/metrics").text]
    kept += [record.getMessage() for record in caplog.records if "httpx" not in record.name]
    for text in kept:
        assert marker not in text
        assert "9876543210987" not in text


def test_every_samples_lines_tell_its_decisions_again(make):
    gate = make(reasoning_config=False)
    votes(gate, {"a": ["7"], "b": ["1", "2"]}, lambda *_: 20)
    request = body("a", "b", sampling={"max": 4}, suffice={"budget": {"thinking_tokens": 6}})
    name = gate.post(BATCH, request).json()["suffice"]["request_id"]
    log = gate.data_dir / "events.jsonl"
    wait(lambda: f'"request_id":"{name}","event":"Batch"' in log.read_text())
    found = {one.id: one.records for one in read_log(log) if one.id.startswith(name)}
    assert len(found) == 8
    for records in found.values():
        assert replay(records).differences == ()
        assert records[0]["batch"]["id"] == name
    places = sorted((records[0]["batch"]["question"], records[0]["batch"]["sample"]) for records in found.values())
    assert places == [(question, sample) for question in (0, 1) for sample in range(4)]
    told = {(records[0]["batch"]["question"], records[-1]["answers"][0]) for records in found.values()}
    assert told == {(0, 0), (1, 0), (1, 1)}


def test_a_stream_that_has_nothing_to_tell_is_kept_alive(make, monkeypatch):
    monkeypatch.setattr(telling, "KEEP_ALIVE_S", 0.02)
    gate = make()
    _, key = gate.key()
    client = Caller(gate, slow_last(gate, "a", quick=0) | {"stream": True}, key)
    client.read_until(b": keep-alive\n\n", 3)
    client.leave()
    gate.idle()
