"""Clients that leave: the engine stops at once, the account is settled once, and nothing stays reserved."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from live.asking import PATHS, THOUGHT, body
from live.engine_truth import RUNNING, gauge, held, rows, wait_idle

pytestmark = pytest.mark.live

APIS = pytest.mark.parametrize("api", ["chat", "completions", "responses", "messages"])


CROWD = 8
"""Clients that leave together."""
OTHERS = 100
"""Samples of others that keep the engine busy meanwhile."""
TOKENS = 1500
FIRST = {
    "chat": b'"content":"1"',
    "completions": b'"text":"1"',
    "responses": b".delta",
    "messages": b"content_block_delta",
}
"""What shows that a stream has begun to tell tokens."""
LEFT = {"client_gone"}
ENDS = {"chat": LEFT, "completions": LEFT, "responses": LEFT, "messages": LEFT | {"completed"}}
"""How requests may end whose clients leave. Nothing makes messages long: one may come to its end before."""


def long(live, api, word, **more):
    """A request that goes on for a long time, unless somebody ends it."""
    fields = {"allowed_token_ids": [word], "ignore_eos": True} if api in ("chat", "completions") else {}
    fields |= {"ignore_eos": True} if api == "responses" else {}
    return body(api, live.model, tokens=TOKENS, **fields, **more)


class Crowd:
    """Clients that ask the same at once and leave together when the block ends."""

    def __init__(self, gateway, api, request, count=CROWD):
        limits = httpx2.Limits(max_connections=count, max_keepalive_connections=0)
        self._http = httpx2.Client(base_url=gateway.url, timeout=90, limits=limits, trust_env=False)
        self._send = {"json": request, "headers": {"authorization": f"Bearer {gateway.key or 'none'}"}}
        self._path = PATHS[api]
        self.count = count
        self._stack = contextlib.ExitStack()
        self._reading = []

    def __enter__(self):
        """Nothing is sent yet."""
        return self

    def __exit__(self, *_):
        """Leave."""
        self._stack.close()
        self._http.close()

    def _together(self, work):
        with ThreadPoolExecutor(self.count) as pool:
            return [task.result() for task in [pool.submit(work) for _ in range(self.count)]]

    def stream_until(self, mark):
        """Send all requests and read each until it has shown something."""
        send = self._send | {"json": self._send["json"] | {"stream": True}}

        def begin():
            response = self._http.send(self._http.build_request("POST", self._path, **send), stream=True)
            self._stack.callback(response.close)
            assert response.status_code == 200, response.read()
            read = b""
            pieces = response.iter_raw()
            self._reading.append(pieces)  # a reader that is dropped closes its response
            for piece in pieces:
                read += piece
                if mark in read:
                    return read
            raise AssertionError(f"the stream ended without {mark}: {read[-500:]}")

        return self._together(begin)

    def give_up_after(self, seconds):
        """Send all requests and leave when the time is over; what was read by then."""

        def wait():
            try:
                return self._http.post(self._path, **self._send, timeout=seconds).content
            except httpx2.TimeoutException:
                return b""

        return self._together(wait)


def gone(live, gateway, before):
    """Nothing runs, nothing is held, and what came since ``before`` was settled, once each."""
    wait_idle(live.url)
    until = time.monotonic() + 20
    while held(gateway.data_dir):
        assert time.monotonic() < until, "tokens stay reserved"
        time.sleep(0.02)
    new = [row for name, row in rows(gateway.data_dir).items() if name not in before]
    assert all(row.state == "settled" and row.used <= row.reserved for row in new)
    settles = gauge(gateway.url, 'suffice_ledger_settles_total{kind="duplicate"}')
    assert not any(settles.values()), "something was settled twice"
    return new


def left(new, count=CROWD, *, most=TOKENS):
    """All clients' requests were ended by their leaving, none by its own end."""
    assert [row.outcome for row in new] == ["client_gone"] * count
    assert all(row.used < most for row in new)


@contextlib.contextmanager
def slowed(live, word):
    """An engine full of others' work, so that nothing of ours can come to its end before the leaving is noticed.

    When ours has left, only the others' work may run on.
    """
    theirs = body("completions", live.model, tokens=TOKENS, allowed_token_ids=[word], ignore_eos=True, n=OTHERS)
    with Crowd(live, "completions", theirs, 1) as others:
        others.stream_until(FIRST["completions"])
        yield
        until = time.monotonic() + 20
        while gauge(live.url, RUNNING[0])[RUNNING[0]] > OTHERS:
            assert time.monotonic() < until, "the engine goes on"
            time.sleep(0.02)


@pytest.fixture
def before(live_engine, gateway):
    wait_idle(live_engine.url)
    return rows(gateway.data_dir)


@APIS
def test_in_the_middle_of_an_answer(live_engine, gateway, word, before, api):
    with slowed(live_engine, word), Crowd(gateway, api, long(live_engine, api, word)) as crowd:
        # The models of messages and responses say what they like; the others one word, in thought or answer.
        crowd.stream_until(b'"1"' if api == "chat" else FIRST[api])
    new = gone(live_engine, gateway, before)
    if api == "messages":
        assert len(new) == CROWD
        assert "client_gone" in {row.outcome for row in new} <= ENDS[api]
    else:
        left(new)


@APIS
def test_before_the_first_token(live_engine, gateway, word, before, api):
    """Clients without patience; whether the gateway had read a request before its client left is a matter of luck."""
    with slowed(live_engine, word), Crowd(gateway, api, long(live_engine, api, word) | {"stream": True}) as crowd:
        crowd.give_up_after(0.03)
    assert {row.outcome for row in gone(live_engine, gateway, before)} <= ENDS[api]


def test_within_a_thought(live_engine, thinks, word, before):
    request = long(live_engine, "chat", word, thinking=THOUGHT, suffice={"budget": {"thinking_tokens": 1200}})
    with slowed(live_engine, word), Crowd(thinks, "chat", request) as crowd:
        read = crowd.stream_until(b'"reasoning":"1')
        assert not any(FIRST["chat"] in one for one in read)
    left(gone(live_engine, thinks, before), most=1200)


def test_after_a_thought_that_the_gateway_closed(live_engine, thinks, no_budgets, word):
    gateway, _ = no_budgets
    before = rows(gateway.data_dir)
    request = long(live_engine, "chat", word, thinking=THOUGHT, suffice={"budget": {"thinking_tokens": 4}})
    with slowed(live_engine, word), Crowd(gateway, "chat", request) as crowd:
        crowd.stream_until(b'"content":"1')
    left(gone(live_engine, gateway, before))


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_with_four_samples(live_engine, gateway, word, before, api):
    with slowed(live_engine, word), Crowd(gateway, api, long(live_engine, api, word, n=4), 4) as crowd:
        crowd.stream_until(b'"index":3')
    left(gone(live_engine, gateway, before), 4, most=4 * TOKENS)


@APIS
def test_without_a_stream(live_engine, gateway, word, before, api):
    with slowed(live_engine, word), Crowd(gateway, api, long(live_engine, api, word)) as crowd:
        read = crowd.give_up_after(0.4)
    assert api == "messages" or read == [b""] * CROWD
    assert {row.outcome for row in gone(live_engine, gateway, before)} <= ENDS[api]


def test_in_the_engine_s_queue(live_engine, gateway, word, before):
    """More requests than the engine runs at once: one that waits is taken out of its queue too."""
    filling = body("completions", live_engine.model, tokens=TOKENS, allowed_token_ids=[word], ignore_eos=True, n=400)
    with Crowd(live_engine, "completions", filling, 1) as crowd:
        crowd.stream_until(FIRST["completions"])
        until = time.monotonic() + 30
        while not gauge(live_engine.url, RUNNING[1])[RUNNING[1]]:
            assert time.monotonic() < until, "the engine has no queue"
        with Crowd(gateway, "chat", long(live_engine, "chat", word), 1) as late:
            assert late.give_up_after(0.5) == [b""]
    left(gone(live_engine, gateway, before), 1)


@APIS
def test_at_the_end(live_engine, gateway, word, before, api):
    """A client that leaves as soon as it has read the last byte had a complete request, and is charged for it."""
    last = {"responses": b'"suffice"', "messages": b"message_stop"}.get(api, b"[DONE]")
    with Crowd(gateway, api, body(api, live_engine.model, tokens=4)) as crowd:
        crowd.stream_until(last)
    new = gone(live_engine, gateway, before)
    assert [row.outcome for row in new] == ["completed"] * CROWD
