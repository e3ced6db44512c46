"""The plugin's routes in vLLM's own wiring."""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from types import SimpleNamespace

from fastapi import FastAPI
from runners import First
from setting import CAP, CONFIG, END, WORD, config, params, ticket
from starlette.testclient import TestClient
from suffice.server.engine.plugin import processor as plugin
from suffice.server.engine.plugin.endpoints import SufficeEndpoints
from vllm.plugins import load_endpoint_plugins
from vllm.plugins.endpoint_plugins.interface import (
    EndpointPlugin,
    attach_endpoint_plugins,
    init_endpoint_plugins_state,
)


def served(configuration=CONFIG, **arguments):
    """vLLM's own wiring of the plugin around an application without an engine."""
    os.environ["VLLM_PLUGINS"] = "suffice"
    try:
        app = FastAPI()
        attach_endpoint_plugins(app, ("generate",))
        args = Namespace(**{"api_key": None} | arguments)
        engine = SimpleNamespace(vllm_config=configuration)
        asyncio.run(init_endpoint_plugins_state(engine, app.state, args))
    finally:
        del os.environ["VLLM_PLUGINS"]
    return TestClient(app)


def check_the_routes_are_loaded_only_where_they_are_named():
    assert not load_endpoint_plugins(("generate",))
    assert isinstance(SufficeEndpoints(), EndpointPlugin)
    First()
    assert served().get("/suffice/v1/plugin").status_code == 200


def check_discovery_tells_what_works():
    First()
    told = served().get("/suffice/v1/plugin").json()
    assert told["runner"] == "v1"
    assert told["rules"]["available"]
    assert {"engine_entropy", "repetition"} <= set(told["rules"]["names"])
    assert told["signals"] == {
        "available": True, "reasons": [], "actions": ["cap", "close_thought", "stop"], "slots": 4096,
        "max_nonce": 2**53 - 1, "lag_tokens": 0,
    }  # fmt: skip
    assert told["thought"] is None


def check_discovery_tells_what_does_not():
    speculative = config(speculative_config={"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2})
    told = served(speculative).get("/suffice/v1/plugin").json()
    assert not told["rules"]["available"]
    assert not told["signals"]["available"]
    assert told["rules"]["reasons"] == ["speculative_decoding"]
    assert {"speculative_decoding"} == plugin.UNAVAILABLE
    plugin.UNAVAILABLE.clear()


def check_signals_and_status_over_http():
    runner = First()
    mine = ticket()
    runner.add("a", params(CAP | mine))
    runner.steps(2)
    client = served()
    slot, nonce = mine["suffice_slot"], mine["suffice_nonce"]
    sent = client.post("/suffice/v1/signal", json={"slot": slot, "nonce": nonce, "action": "cap", "value": 4})
    assert (sent.status_code, sent.json()) == (200, {"accepted": True})
    runner.steps(5)
    assert runner.outputs("a") == [WORD] * 4 + [END, WORD, WORD]
    told = client.get(f"/suffice/v1/slots/{slot}?nonce={nonce}").json()
    assert told == {
        "tokens": 6, "thinking_tokens": 4, "closed": {"rule": "thinking_tokens", "at_token": 4}, "stopped": None,
    }  # fmt: skip


def check_bad_signals_are_refused():
    mine = ticket()
    runner = First()
    runner.add("a", params(CAP | mine))
    client = served()
    good = {"slot": mine["suffice_slot"], "nonce": mine["suffice_nonce"], "action": "close_thought"}
    for change, status in (
        ({"nonce": good["nonce"] ^ 1}, 409), ({"slot": (good["slot"] + 1) % 4096}, 409), ({"slot": -1}, 400),
        ({"slot": 4096}, 400), ({"slot": True}, 400), ({"slot": "1"}, 400), ({"nonce": 0}, 400),
        ({"nonce": 2**70}, 400), ({"action": "explode"}, 400), ({"action": None}, 400), ({"action": ["stop"]}, 400),
        ({"action": "cap"}, 400), ({"value": 3}, 400), ({"action": "cap", "value": 2**32}, 400),
        ({"action": "cap", "value": -1}, 400), ({"more": 1}, 400),
    ):  # fmt: skip
        answer = client.post("/suffice/v1/signal", json=good | change)
        assert answer.status_code == status, (change, answer.text)
        assert answer.json()["error"]["code"] in {"invalid_value", "stale_nonce"}
    for body, status in ((b"", 400), (b"[1]", 400), (b"\xff", 400), (b"[" * 900, 400), (b"x" * 2000, 413)):
        assert client.post("/suffice/v1/signal", content=body).status_code == status, body[:10]
    for path in ("x", "-1", "4096", "1%00", "9" * 30):
        assert client.get(f"/suffice/v1/slots/{path}?nonce=1").status_code == 400, path
    for query in ("", "?nonce=", "?nonce=x", "?nonce=0", "?nonce=%C2%B2"):
        assert client.get(f"/suffice/v1/slots/1{query}").status_code == 400, query
    runner.steps(2)
    assert runner.outputs("a") == [WORD, WORD]


def check_the_key_of_vllm_is_asked_for():
    First()
    client = served(api_key=["secret", "second"])
    for method, path in (("GET", "plugin"), ("POST", "signal"), ("GET", "slots/1?nonce=1")):
        assert client.request(method, f"/suffice/v1/{path}").status_code == 401
        assert client.request(method, f"/suffice/v1/{path}", headers={"Authorization": "Bearer no"}).status_code == 401
    good = client.get("/suffice/v1/plugin", headers={"Authorization": "Bearer second"})
    assert good.status_code == 200


def check_the_key_from_the_environment_counts():
    First()
    os.environ["VLLM_API_KEY"] = "from-env"
    try:
        client = served()
    finally:
        del os.environ["VLLM_API_KEY"]
    assert client.get("/suffice/v1/plugin").status_code == 401


def check_a_render_server_has_no_engine():
    app = FastAPI()
    endpoints = SufficeEndpoints()
    endpoints.attach_router(app)
    asyncio.run(endpoints.init_state(None, app.state, Namespace(api_key=None)))
    assert TestClient(app).get("/suffice/v1/plugin").status_code == 503
