"""A real engine with the tiny reasoning model and a gateway before it, for benchmarks that are commands."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from suffice.server.engine.local import LocalEngine, answers, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "tiny_model" / "weights"
ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"


@dataclass(frozen=True)
class Serving:
    """Where the parts answer.

    Attributes:
        engine: vLLM's URL.
        gateway: The gateway's URL.
        key: A key of the gateway's.
        model: Name of the model.
        data_dir: The gateway's data.
    """

    engine: str
    gateway: str
    key: str
    model: str
    data_dir: Path


@contextlib.contextmanager
def engine(*flags: str, model: Path = TINY, name: str = "tiny", url: str | None = None) -> Iterator[str]:
    """The URL of a vLLM: one that runs already, or one that is started for the time of the benchmark."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory() as scratch:
        started = LocalEngine(
            python=ENGINE_PYTHON,
            model=model,
            name=name,
            log=Path(scratch) / "vllm.log",
            flags=("--reasoning-parser", "deepseek_r1", *flags),
        )
        started.start()
        try:
            started.wait_ready(lambda _: None)
            yield started.url
        finally:
            started.stop()


@contextlib.contextmanager
def gateway(engine_url: str, config: str | None = None, *, model: str = "tiny") -> Iterator[Serving]:
    """A gateway process before an engine.

    Args:
        engine_url: The engine.
        config: The operator's file as text; its upstream is set by the command line.
        model: Name of the model.
    """
    with tempfile.TemporaryDirectory() as scratch:
        data_dir, port = Path(scratch), free_port()
        command = [
            sys.executable, "-m", "suffice.server", "serve", "--upstream", engine_url, "--port", str(port),
            "--metrics-port", "0", "--data-dir", str(data_dir),
        ]  # fmt: skip
        if config is not None:
            path = data_dir / "suffice.yaml"
            path.write_text(config, encoding="utf-8")
            command += ["--config", str(path)]
        with (data_dir / "gateway.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 90
            while not answers(f"http://127.0.0.1:{port}/ready"):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((data_dir / "gateway.log").read_text(encoding="utf-8")[-2000:])
                time.sleep(0.1)
            yield Serving(
                engine=engine_url,
                gateway=f"http://127.0.0.1:{port}",
                key=_key(data_dir),
                model=model,
                data_dir=data_dir,
            )
        finally:
            process.terminate()
            process.wait(60)


def _key(data_dir: Path) -> str:
    from bench.load import make_key  # noqa: PLC0415 - only commands have the folder on their path

    return make_key(data_dir, "bench")[1]
