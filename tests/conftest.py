"""Fixtures of the whole suite: one real engine and one gateway before it, started only if a test asks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from suffice.server.engine.local import LocalEngine, answers, free_port
from suffice.server.engine.packaged_model import NAME, ensure_model

ROOT = Path(__file__).resolve().parent.parent
ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"
TINY = ROOT / "tests" / "tiny_model" / "weights"


@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"


@dataclass(frozen=True)
class Endpoint:
    """A server under test: its base URL without /v1, a key, and a model it serves."""

    url: str
    model: str
    key: str = ""
    data_dir: Path = Path()


@pytest.fixture(scope="session")
def live_engine(tmp_path_factory):
    """A real vLLM, started once for the whole run."""
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


class GatewayProcess:
    """The gateway as its users run it: a process of its own."""

    def __init__(self, upstream: str, data_dir: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = data_dir
        self._command = [
            sys.executable, "-m", "suffice.server", "serve", "--upstream", upstream, "--port", str(self.port),
            "--metrics-port", "0", "--data-dir", str(data_dir), *options,
        ]  # fmt: skip
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        data = self.data_dir
        data.mkdir(parents=True, exist_ok=True)
        with (data / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not answers(f"{self.url}/ready"):
            assert self.process.poll() is None, (data / "gateway.log").read_text()
            assert time.monotonic() < deadline, "the gateway did not become ready"
            time.sleep(0.05)

    @property
    def key(self) -> str:
        return (self.data_dir / "local_key").read_text().strip()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@pytest.fixture(scope="session")
def gateway_process():
    return GatewayProcess


@pytest.fixture(scope="session")
def gateway(live_engine, tmp_path_factory):
    """A gateway before the real engine."""
    process = GatewayProcess(live_engine.url, tmp_path_factory.mktemp("gateway"))
    process.start()
    try:
        yield Endpoint(url=process.url, model=live_engine.model, key=process.key, data_dir=process.data_dir)
    finally:
        process.stop()
