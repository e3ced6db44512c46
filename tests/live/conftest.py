"""What the live tests share: wires before the engine, and the one word that makes any model predictable."""

from __future__ import annotations

import dataclasses

import httpx2
import pytest
from live.between import Between


@pytest.fixture(scope="session")
def word(live_engine):
    """The id of ``1``: a model that may say nothing else thinks and answers without end."""
    body = {"model": live_engine.model, "prompt": "1", "add_special_tokens": False}
    (number,) = httpx2.post(f"{live_engine.url}/tokenize", json=body, trust_env=False).json()["tokens"]
    return number


@pytest.fixture(scope="session")
def serve(gateway_process, tmp_path_factory):
    """Start gateways before given upstreams, each with accounts of its own."""
    running = []

    def start(upstream, model, *options):
        process = gateway_process(upstream, tmp_path_factory.mktemp("gateway"), *options)
        process.start()
        running.append(process)
        return process.endpoint(model)

    yield start
    for process in running:
        process.stop()


@pytest.fixture(scope="session")
def no_budgets(live_engine, serve):
    """A gateway before an engine that takes no thinking budgets, and the wire in between."""
    with Between(live_engine.url, budgets=False) as wire:
        yield serve(wire.url, live_engine.model), wire


@pytest.fixture(scope="session")
def slow(live_engine, serve):
    """A gateway before an engine whose streams come slowly, and the wire in between."""
    with Between(live_engine.url, piece_s=0.05) as wire:
        yield serve(wire.url, live_engine.model), wire


@pytest.fixture(scope="session")
def thinks(live_engine, gateway):
    """Whether the engine's model thinks and its thoughts can be capped; the packaged fallback model does not."""
    body = {"model": live_engine.model, "prompt": "a", "max_tokens": 1, "thinking_token_budget": 1}
    answer = httpx2.post(f"{live_engine.url}/v1/completions", json=body, trust_env=False)
    if answer.status_code != 200:
        pytest.skip("the tiny reasoning model is not there; the packaged model does not think")
    return dataclasses.replace(gateway)
