"""Fixtures of the whole suite: one real engine and one gateway before it, started only if a test asks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from processes import Endpoint, GatewayProcess
from suffice.server.engine.local import LocalEngine
from suffice.server.engine.packaged_model import NAME, ensure_model

# How long an example takes depends on what else the machine does; it is not what a test shows.
settings.register_profile("suffice", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suffice")

ROOT = Path(__file__).resolve().parent.parent
ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"
TINY = ROOT / "tests" / "tiny_model" / "weights"


@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="session")
def live_engine(tmp_path_factory):
    """A real vLLM, started once for the whole run.

    ``SUFFICE_TEST_ENGINE=URL,MODEL`` names one that runs already, such as ``http://127.0.0.1:8100,tiny``; it is used
    as it is and left running. It must have been started with the flags below, and nobody else may be using it.
    """
    if running := os.environ.get("SUFFICE_TEST_ENGINE"):
        url, _, model = running.partition(",")
        yield Endpoint(url=url, model=model)
        return
    if not ENGINE_PYTHON.exists():
        reason = "there is no engine environment; run: make setup"
        if os.environ.get("SUFFICE_REQUIRE_ENGINE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    if (TINY / "model.safetensors").exists():
        model, name = TINY, "tiny"
        flags = ("--reasoning-parser", "deepseek_r1")
    else:
        model, name, flags = ensure_model(ROOT / ".suffice" / "models", ENGINE_PYTHON), NAME, ()
    engine = LocalEngine(
        python=ENGINE_PYTHON, model=model, name=name, log=tmp_path_factory.mktemp("engine") / "vllm.log", flags=flags
    )
    engine.start()
    try:
        engine.wait_ready(lambda _: None)
        yield Endpoint(url=engine.url, model=name)
    finally:
        engine.stop()


@pytest.fixture(scope="session")
def gateway_process():
    return GatewayProcess


@pytest.fixture(scope="session")
def gateway(live_engine, tmp_path_factory):
    """A gateway before the real engine."""
    process = GatewayProcess(live_engine.url, tmp_path_factory.mktemp("gateway"))
    process.start()
    try:
        yield process.endpoint(live_engine.model)
    finally:
        process.stop()
