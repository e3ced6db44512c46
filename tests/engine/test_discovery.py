"""What ``capabilities`` says of vLLMs that have the plugin, have it in part, or have not."""

import http.server
import json
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.server.engine.plugin.discovery import Capabilities, capabilities, read_capabilities

FULL = {
    "version": "1.2",
    "runner": "v1",
    "rules": {"available": True, "reasons": [], "remedies": [], "names": {"repetition": "…", "boundary": "…"}},
    "signals": {"available": True, "reasons": [], "slots": 64, "lag_tokens": 8},
    "thought": {"start": [1], "end": [2], "force": [2]},
}


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status, body = self.server.answer
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            status, body = 401, {}
        blob = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(blob)
        self.server.asked.append(self.path)

    def log_message(self, *_):
        pass


@pytest.fixture
def vllm():
    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    server.answer, server.key, server.asked = (200, FULL), "", []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_full_plugin(vllm):
    assert capabilities(vllm.url + "/") == Capabilities(
        installed=True, rules=("boundary", "repetition"), signals=True, slots=64, lag_tokens=8, thought=True,
        runner="v1", version="1.2",
    )  # fmt: skip
    assert vllm.asked == ["/suffice/v1/plugin"]


def test_the_key_is_sent(vllm):
    vllm.key = "secret"
    assert capabilities(vllm.url).why_not == ("vLLM asks for its API key",)
    assert capabilities(vllm.url, api_key="secret").installed


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((404, {}), "VLLM_PLUGINS=suffice"),
        ((500, {}), "500"),
        ((200, b"<html>"), "does not answer"),
    ],
    ids=["not-loaded", "broken", "not-json"],
)
def test_what_is_missing_is_said(vllm, answer, says):
    vllm.answer = answer
    told = capabilities(vllm.url)
    assert not told.installed
    assert says in told.why_not[0]


def test_nobody_there():
    assert capabilities("http://127.0.0.1:1").why_not == ("vLLM does not answer",)


def test_an_engine_that_cannot_says_why():
    reasons = {"available": False, "reasons": ["speculative_decoding"]}
    told = read_capabilities(FULL | {
        "rules": reasons | {"remedies": ["start vLLM without --speculative-config"], "names": {"repetition": "…"}},
        "signals": reasons,
    })  # fmt: skip
    assert (told.installed, told.rules, told.signals) == (True, (), False)
    assert told.why_not == ("speculative_decoding", "start vLLM without --speculative-config")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "v1"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*FULL, *FULL["rules"], "slots"]), inner),
)


@given(JSON)
def test_any_answer_can_be_read(told):
    assert isinstance(read_capabilities(told), Capabilities)


def test_it_needs_nothing_of_the_engine():
    script = "import sys, suffice.server.engine.plugin.discovery; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert not {"torch", "vllm", "fastapi", "numpy"} & set(done.stdout.split())
