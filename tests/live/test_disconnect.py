"""Clients that leave: the engine stops at once, the account is settled once, and nothing stays reserved."""

from __future__ import annotations

import contextlib
import threading
import time

import httpx2
import pytest

from live.asking import PATHS, THOUGHT, body
from live.engine_truth import RUNNING, gauge, held, rows, spending, wait_idle

pytestmark = pytest.mark.live

APIS = pytest.mark.parametrize("api", ["chat", "completions", "responses", "messages"])


class Client:
    """A client that can leave when it likes."""

    def __init__(self, gateway, api, request):
        self._http = httpx2.Client(base_url=gateway.url, timeout=60, trust_env=False)
        self._headers = {"authorization": f"Bearer {gateway.key}"}
        self._path = PATHS[api]
        self._request = request
        self._stack = contextlib.ExitStack()
        self.read = b""

    def __enter__(self):
        """Nothing is sent yet."""
        return self

    def __exit__(self, *_):
        """Leave."""
        self._stack.close()
        self._http.close()

    def stream(self):
        """Send the request and take the answer's headers."""
        response = self._stack.enter_context(
            self._http.stream("POST", self._path, json=self._request | {"stream": True}, headers=self._headers)
        )
        assert response.status_code == 200
        return response

    def give_up_after(self, seconds):
        """Send the request and leave when the time is over, answered or not."""
        with contextlib.suppress(httpx2.TimeoutException), self._http.stream(
            "POST", self._path, json=self._request, headers=self._headers, timeout=seconds
        ) as response:
            for piece in response.iter_raw():
                self.read += piece


def long(live, api, word, **more):
    """A request that goes on for a long time, unless somebody ends it."""
    fields = {"allowed_token_ids": [word], "ignore_eos": True} if api in ("chat", "completions") else {}
    fields |= {"ignore_eos": True} if api == "responses" else {}
    return body(api, live.model, tokens=1500, **fields, **more)


def gone(live, gateway, before):
    """Nothing runs, nothing is held, and what came since ``before`` was settled, once each."""
    wait_idle(live.url, 5)
    until = time.monotonic() + 5
    while held(gateway.data_dir):
        assert time.monotonic() < until, "tokens stay reserved"
        time.sleep(0.02)
    new = [row for name, row in rows(gateway.data_dir).items() if name not in before]
    assert all(row.state == "settled" and row.used <= row.reserved for row in new)
    return new


@pytest.fixture
def before(live_engine, gateway):
    wait_idle(live_engine.url)
    return rows(gateway.data_dir)


def wait_running(live, count):
    until = time.monotonic() + 30
    while gauge(live.url, RUNNING[0])[RUNNING[0]] < count:
        assert time.monotonic() < until, "the engine did not start"
        time.sleep(0.005)


@APIS
def test_in_the_middle_of_an_answer(live_engine, gateway, word, before, api):
    with spending(live_engine.url) as spent, Client(gateway, api, long(live_engine, api, word)) as client:
        pieces = client.stream().iter_raw()
        for _ in range(3):
            next(pieces)
    (row,) = gone(live_engine, gateway, before)
    assert row.outcome == "client_gone"
    assert 0 < row.used < 1500
    assert spent.generated < 1500


@APIS
def test_before_the_first_token(live_engine, gateway, word, before, api):
    """The engine has the request; its prompt is long enough that the client leaves before anything comes."""
    with Client(gateway, api, long(live_engine, api, word)) as client:
        leaving = threading.Thread(target=client.give_up_after, args=(0.02,))
        leaving.start()
        leaving.join()
        assert client.read == b""
    new = gone(live_engine, gateway, before)
    assert len(new) <= 1, "whether the request was read before the client left is a matter of luck"
    assert all(row.outcome == "client_gone" and row.used < 1500 for row in new)


def test_within_a_thought(live_engine, thinks, word, before):
    request = long(live_engine, "chat", word, thinking=THOUGHT, suffice={"budget": {"thinking_tokens": 1200}})
    with Client(thinks, "chat", request) as client:
        read = b""
        for piece in client.stream().iter_raw():
            read += piece
            if read.count(b'"reasoning"') > 3:
                break
    assert b'"content":"1"' not in read
    (row,) = gone(live_engine, thinks, before)
    assert row.outcome == "client_gone"
    assert 0 < row.used < 1200


def test_after_a_thought_that_the_gateway_closed(live_engine, thinks, no_budgets, word):
    gateway, _ = no_budgets
    before = rows(gateway.data_dir)
    request = long(live_engine, "chat", word, thinking=THOUGHT, suffice={"budget": {"thinking_tokens": 4}})
    with Client(gateway, "chat", request) as client:
        read = b""
        for piece in client.stream().iter_raw():
            read += piece
            if read.count(b'"content":"1"') > 3:
                break
    (row,) = gone(live_engine, gateway, before)
    assert row.outcome == "client_gone"
    assert 4 < row.used < 1500


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_with_four_samples(live_engine, gateway, word, before, api):
    with Client(gateway, api, long(live_engine, api, word, n=4)) as client:
        next(client.stream().iter_raw())
        wait_running(live_engine, 1)
    (row,) = gone(live_engine, gateway, before)
    assert row.outcome == "client_gone"
    assert row.used < 4 * 1500


@APIS
def test_without_a_stream(live_engine, gateway, word, before, api):
    with Client(gateway, api, long(live_engine, api, word)) as client:
        client.give_up_after(0.25)
        assert client.read == b""
    (row,) = gone(live_engine, gateway, before)
    assert row.outcome == "client_gone"
    assert row.used < 1500


def test_in_the_engine_s_queue(live_engine, gateway, word, before):
    """More requests than the engine runs at once: those that wait are taken out of its queue too."""
    many = 300
    request = body("completions", live_engine.model, tokens=300, allowed_token_ids=[word], ignore_eos=True, n=1)
    with contextlib.ExitStack() as clients:
        http = clients.enter_context(
            httpx2.Client(
                base_url=live_engine.url,
                timeout=60,
                trust_env=False,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            )
        )
        for _ in range(many // 100):
            filling = http.stream("POST", PATHS["completions"], json=request | {"n": 100, "stream": True})
            assert clients.enter_context(filling).status_code == 200
        until = time.monotonic() + 30
        while not gauge(live_engine.url, RUNNING[1])[RUNNING[1]]:
            assert time.monotonic() < until, "the engine has no queue"
        with Client(gateway, "chat", long(live_engine, "chat", word)) as client:
            client.give_up_after(0.5)
    (row,) = gone(live_engine, gateway, before)
    assert row.outcome == "client_gone"


@APIS
def test_at_the_end(live_engine, gateway, word, before, api):
    """The client leaves as soon as it has read the last byte: the request is complete, and charged as such."""
    request = body(api, live_engine.model, tokens=4)
    with Client(gateway, api, request) as client:
        response = client.stream()
        last = {"responses": b"response.", "messages": b"message_stop"}.get(api, b"[DONE]")
        read = b""
        for piece in response.iter_raw():
            read += piece
            if last in read and api != "responses":
                break
    (row,) = gone(live_engine, gateway, before)
    assert row.outcome == "completed"


def test_a_crowd_that_leaves_together(live_engine, gateway, word, before):
    crowd = [Client(gateway, "chat", long(live_engine, "chat", word)) for _ in range(40)]
    with contextlib.ExitStack() as here:
        for client in crowd:
            here.enter_context(client)
        threads = [threading.Thread(target=client.stream) for client in crowd]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_running(live_engine, 40)
    new = gone(live_engine, gateway, before)
    assert [row.outcome for row in new] == ["client_gone"] * 40
