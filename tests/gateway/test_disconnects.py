"""The client leaves: at every phase upstream is aborted, the account is settled once, and nothing stays reserved."""

import json
import socket
import struct

import pytest
from fake_vllm import Script
from gateway.rig import wait
from suffice.server.ledger.amounts import Resource

PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]
QUESTION = [{"role": "user", "content": "hello"}]
BODIES = {
    "/v1/chat/completions": {"model": "fake", "messages": QUESTION, "max_tokens": 3000},
    "/v1/completions": {"model": "fake", "prompt": "hello", "max_tokens": 3000},
    "/v1/responses": {"model": "fake", "input": "hello"},
    "/v1/messages": {"model": "fake", "messages": QUESTION, "max_tokens": 3000},
}
apis = pytest.mark.parametrize("path", PATHS)
streamed = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
leaving = pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])


class Caller:
    """A client on a bare socket, which can leave whenever it likes."""

    def __init__(self, gate, path, body, key):
        host, _, port = gate.url.removeprefix("http://").partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.body = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(self.body)}\r\n\r\n"
        )
        self.head = head.encode()
        self.got = b""

    def send(self, share=1.0):
        """Send the head and a share of the body."""
        self.socket.sendall(self.head + self.body[: int(len(self.body) * share)])
        return self

    def read_until(self, mark):
        """Read until a mark has come."""
        while mark not in self.got:
            piece = self.socket.recv(65536)
            assert piece, self.got
            self.got += piece
        return self

    def leave(self, *, reset=False):
        """Close the connection, in order or with a reset."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@pytest.fixture
def call(make):
    """A caller with a key of its own, and the check that follows its leaving."""
    opened = []

    def start(path, body=None, *, settings=None, **more):
        gate = make(**(settings or {}))
        gate.fake.says(Script.of(thought="a b c d e f", answer="more", endless=True))
        gate.fake.settings.token_s = 0.004
        id_, key = gate.key()
        caller = Caller(gate, path, (body or BODIES[path]) | more, key)
        opened.append(caller)
        return gate, caller, id_

    yield start
    for caller in opened:
        caller.leave()


def gone(gate, id_, *, requests=1, aborted=1):
    """Wait for the end, then see that everything adds up."""
    wait(lambda: gate.usage(f"key:{id_}", Resource.REQUESTS) == (requests, 0))
    gate.idle()
    assert gate.fake.running == 0
    assert aborted is None or gate.fake.aborted == aborted
    assert not [one for one in gate.settled() if one.state == "open"]
    spent, reserved = gate.usage(f"key:{id_}")
    assert reserved == 0
    prompt = max((one.prompt_tokens for one in gate.fake.requests), default=0)
    assert spent <= prompt + gate.fake.generated_tokens
    return spent


def settlements(gate):
    return {
        kind: gate.metric("suffice_ledger_settles_total", kind=kind) for kind in ("first", "duplicate", "recovered")
    }


@apis
def test_while_the_body_is_being_sent(call, path):
    gate, caller, id_ = call(path)
    labels = {"phase": "receiving"}
    before = gate.metric("suffice_client_disconnects_total", **labels)
    caller.send(share=0.5)
    caller.leave()
    wait(lambda: gate.metric("suffice_client_disconnects_total", **labels) == before + 1)
    assert gate.fake.requests == []
    assert gate.usage(f"key:{id_}", Resource.REQUESTS) == (0, 0)
    assert gate.metric("suffice_requests_in_flight") == 0


@apis
@streamed
@leaving
def test_right_after_the_body_was_sent(call, path, stream, reset):
    gate, caller, id_ = call(path, stream=stream)
    before = settlements(gate)
    caller.send().leave(reset=reset)
    wait(lambda: settlements(gate)["first"] == before["first"] + 1)
    gate.idle()
    assert gate.usage(f"key:{id_}")[1] == 0
    assert settlements(gate)["duplicate"] == before["duplicate"]


@apis
@streamed
def test_before_upstreams_headers(call, path, stream):
    gate, caller, id_ = call(path, stream=stream)
    gate.fake.fail("hang_before_headers")
    caller.send()
    wait(lambda: gate.fake.running == 1)
    caller.leave()
    assert gone(gate, id_) == 0


@apis
@streamed
def test_before_the_first_token(call, path, stream):
    gate, caller, id_ = call(path, stream=stream)
    gate.fake.settings.prefill_s = 30
    caller.send()
    wait(lambda: gate.fake.running == 1)
    caller.leave()
    gone(gate, id_)


@apis
@streamed
@leaving
def test_in_the_middle_of_a_thought(call, path, stream, reset):
    more = {"prompt": "hello<think>"} if path == "/v1/completions" else {}
    gate, caller, id_ = call(path, stream=stream, **more)
    gate.fake.says(Script(endless_thought=True))
    before = settlements(gate)
    caller.send()
    wait(lambda: gate.fake.generated_tokens > 10)
    caller.leave(reset=reset)
    spent = gone(gate, id_)
    assert spent > 8
    assert settlements(gate) == before | {"first": before["first"] + 1}
    assert gate.settled()[-1].outcome == "client_gone"


@apis
def test_in_the_middle_of_an_answer(call, path):
    gate, caller, id_ = call(path, stream=True)
    caller.send().read_until(b"more")
    wait(lambda: gate.fake.generated_tokens > 20)
    caller.leave()
    assert gone(gate, id_) > 15


@streamed
def test_with_four_samples(call, stream):
    gate, caller, id_ = call("/v1/chat/completions", stream=stream, n=4, max_tokens=500)
    caller.send()
    wait(lambda: gate.fake.generated_tokens > 40)
    caller.leave()
    assert gone(gate, id_, aborted=4) > 30


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@streamed
def test_between_the_segments_of_a_capped_thought(call, path, stream):
    budget = {"budget": {"thinking_tokens": 10, "total_tokens": 1000}}
    more = {"suffice": budget, "stream": stream}
    if path == "/v1/completions":
        more["prompt"] = "hello<think>"
    gate, caller, id_ = call(path, settings={"reasoning_config": False}, **more)
    gate.fake.says(Script(endless_thought=True, answer=("more",), endless=True))
    gate.fake.fail("hang_before_headers", path="/v1/completions", times=1) if "chat" in path else None
    caller.send()
    wait(lambda: len(gate.fake.requests) == 2)
    caller.leave()
    gone(gate, id_)
    first, second = gate.fake.requests
    assert (first.outcome, second.outcome) == ("finished", "aborted")


@apis
def test_after_the_last_token(call, path):
    gate, caller, id_ = call(path, stream=True)
    gate.fake.says(Script.of(answer="short"))
    end = {"/v1/messages": b"message_stop", "/v1/responses": b"response.completed"}.get(path, b"[DONE]")
    caller.send().read_until(end)
    caller.leave()
    spent = gone(gate, id_, aborted=0)
    assert spent == gate.fake.requests[0].prompt_tokens + gate.fake.generated_tokens
    assert gate.settled()[-1].outcome == "completed"


@streamed
def test_a_client_that_reads_nothing_and_leaves(call, stream):
    gate, caller, id_ = call("/v1/chat/completions", stream=stream)
    gate.fake.settings.token_s = 0
    caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.send()
    wait(lambda: gate.fake.generated_tokens > 1000)
    caller.leave(reset=True)
    gone(gate, id_, aborted=None)


def test_a_deadline_that_is_over_at_once_ends_a_task_that_never_began(call):
    """A deadline in the past is due before the upstream task's first step; that task must still report its end."""
    gate, caller, id_ = call("/v1/chat/completions", suffice={"budget": {"deadline_ms": 1}})
    caller.send().read_until(b"deadline_exceeded")
    gone(gate, id_, aborted=None)
