"""A local vLLM as a child process: started with the flags that suffice wants, watched until ready, ended whole.

vLLM starts children of its own. All of them live in one process group, which ends with SIGTERM, then SIGKILL; and a
watchdog in front of it ends the group when this process dies without a chance to say so.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

READY_TIMEOUT_S = 300
GRACE_S = 15

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}

_FLAGS = (
    "--gpu-memory-utilization", "0.3", "--enable-prompt-tokens-details", "--enable-per-request-metrics",
    "--scheduling-policy", "priority", "--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--enforce-eager",
)  # fmt: skip

_WATCHDOG = """
import os, signal, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def end(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    try:
        child.wait(15)
    except subprocess.TimeoutExpired:
        pass
    os.killpg(0, signal.SIGKILL)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGCHLD, lambda *_: child.poll() is not None and end())
sys.stdin.read()
end()
"""
"""Runs between us and vLLM: when our end of its standard input closes, however we end, it ends the group."""


class EngineFailed(Exception):
    """vLLM did not come up; the message holds the end of its log."""


@dataclass(slots=True)
class LocalEngine:
    """One vLLM server on a loopback port.

    Attributes:
        python: Python of the engine's environment.
        model: Hugging Face folder.
        name: Name that it is served under.
        log: File for its output.
        max_model_len: Context in tokens.
        flags: More flags of vLLM's.
        port: Port; 0 chooses a free one.
    """

    python: Path
    model: Path
    name: str
    log: Path
    max_model_len: int = 2048
    flags: tuple[str, ...] = ()
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    @property
    def url(self) -> str:
        """Base URL, without ``/v1``."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server; ``wait_ready`` tells when it answers."""
        self.port = self.port or free_port()
        command = [
            str(self.python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.model),
            "--served-model-name", self.name, "--host", "127.0.0.1", "--port", str(self.port),
            "--max-model-len", str(self.max_model_len), *_FLAGS, *self._reasoning(), *self.flags,
        ]  # fmt: skip
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-c", _WATCHDOG, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_ENVIRONMENT | os.environ,
                start_new_session=True,
            )

    def _reasoning(self) -> tuple[str, ...]:
        """vLLM's thinking budget needs to know the marks of a thought, where the model has them."""
        tokenizer = self.model / "tokenizer.json"
        if not tokenizer.exists():
            return ()
        added = {token["content"] for token in json.loads(tokenizer.read_bytes()).get("added_tokens", ())}
        if not {"<think>", "</think>"} <= added:
            return ()
        marks = {"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}
        return ("--reasoning-config", json.dumps(marks))

    def wait_ready(self, progress: Callable[[str], None], *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until the server answers, telling once a second what it is doing.

        Raises:
            EngineFailed: It ended, or took too long.
        """
        began = time.monotonic()
        while time.monotonic() - began < timeout_s:
            if self._process is None or self._process.poll() is not None:
                raise EngineFailed(f"vLLM ended while starting:\n{self.tail()}")
            if answers(f"{self.url}/health"):
                return
            progress(f"starting vLLM, {time.monotonic() - began:.0f} s: {self._stage()}")
            time.sleep(1)
        raise EngineFailed(f"vLLM was not ready after {timeout_s:.0f} s:\n{self.tail()}")

    def _stage(self) -> str:
        lines = self.tail(lines=1).strip()
        return lines.rpartition("] ")[2][:80] if lines else "importing"

    def tail(self, *, lines: int = 30) -> str:
        """The end of the server's log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def alive(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End the server and every process it started."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(GRACE_S + 5)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """A free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(url: str) -> bool:
    """Whether a GET of the URL answers 200 within two seconds."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - a URL of ours
            return bool(response.status == 200)  # noqa: PLR2004
    except (urllib.error.URLError, OSError):
        return False
