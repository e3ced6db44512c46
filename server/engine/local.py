"""A local vLLM as a child process: started with the flags that suffice wants, watched until ready, ended whole."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from suffice.server.engine.child import Child
from suffice.server.engine.cores import share_cores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

READY_TIMEOUT_S = 600
GRACE_S = 15

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_PLUGINS": "suffice",  # its routes are loaded only where they are named; without the plugin it names nothing
}

_FLAGS = (
    "--gpu-memory-utilization", "0.3", "--enable-prompt-tokens-details", "--enable-per-request-metrics",
    "--scheduling-policy", "priority", "--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--enforce-eager",
    "--disable-uvicorn-access-log",
)  # fmt: skip

_STAGES = (
    ("Starting vLLM server", "opening its API"),
    ("KV cache size", "warming up"),
    ("Starting to load model", "loading the weights"),
    ("Initializing a V1 LLM engine", "starting its worker"),
    ("Resolved architecture", "starting its engine"),
)
"""What vLLM's log says at each step of its start, the last step first, and what that means."""

NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Servers of ours are never asked through a proxy that the environment names."""


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
    _child: Child | None = field(init=False, default=None)

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
        self._child = Child(command, log=self.log, grace_s=GRACE_S, environment=_ENVIRONMENT)

    def _reasoning(self) -> tuple[str, ...]:
        """VLLM's thinking budget needs to know the marks of a thought, where the model has them."""
        tokenizer = self.model / "tokenizer.json"
        if not tokenizer.exists():
            return ()
        added = {token["content"] for token in json.loads(tokenizer.read_bytes()).get("added_tokens", ())}
        if not {"<think>", "</think>"} <= added:
            return ()
        marks = {"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}
        return ("--reasoning-config", json.dumps(marks))

    def wait_ready(self, progress: Callable[[str], None], *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until the server answers, telling all the while what it is doing.

        Raises:
            EngineFailed: It ended, or took too long.
        """
        began = time.monotonic()
        while time.monotonic() - began < timeout_s:
            if not self.alive():
                raise EngineFailed(f"{self.tail()}\nvLLM ended while starting; its log is {self.log}")
            if answers(f"{self.url}/health"):
                if self._child is not None:
                    share_cores(self._child.session)
                return
            progress(self._stage())
            time.sleep(0.5)
        raise EngineFailed(f"{self.tail()}\nvLLM was not ready after {timeout_s:.0f} s; its log is {self.log}")

    def _stage(self) -> str:
        log = self.tail(lines=1000)
        return next((meaning for said, meaning in _STAGES if said in log), "importing its libraries")

    def tail(self, *, lines: int = 30) -> str:
        """The end of the server's log."""
        return "" if self._child is None else self._child.tail(lines=lines)

    def alive(self) -> bool:
        """Whether the server's process runs."""
        return self._child is not None and self._child.poll() is None

    def stop(self) -> None:
        """End the server and every process it started."""
        if self._child is not None:
            self._child.stop()
            self._child = None


def free_port() -> int:
    """A free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(url: str) -> bool:
    """Whether a GET of the URL answers 200 within two seconds."""
    try:
        with NO_PROXY.open(url, timeout=2) as response:
            return bool(response.status == 200)  # noqa: PLR2004
    except (urllib.error.URLError, OSError):
        return False
