"""The gateway as its users run it, a process of its own; used by tests and by benchmarks."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from suffice.server.engine.local import answers, free_port


@dataclass(frozen=True)
class Endpoint:
    """A server under test: its base URL without /v1, a key, and a model it serves."""

    url: str
    model: str
    key: str = ""
    data_dir: Path = Path()


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

    def endpoint(self, model: str) -> Endpoint:
        return Endpoint(url=self.url, model=model, key=self.key, data_dir=self.data_dir)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
