"""Batches as tests ask for them, with a model whose answers and lengths hang on the question and the sample alone."""

from __future__ import annotations

import json
import re
import socket
import threading
from typing import TYPE_CHECKING, Any

import httpx2
from fake_vllm import Script

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.rig import Event, Gateway
    from httpx2 import Response

BATCH = "/v1/suffice/batch"
SEED = 1000
OVERHEAD = 7
"""Tokens of a sample beside its thought: the mark, ``The answer is 7.`` and the end of turn."""


def body(*names: str, total: int = 100_000, **more: Any) -> dict[str, Any]:
    """A batch with one question a name; each is seeded, so that a sample's seed tells its place."""
    questions = [{"id": name, "messages": [{"role": "user", "content": f"question {name}"}]} for name in names]
    found = {"model": "fake", "questions": questions, "total_tokens": total, "seed": SEED}
    return found | {"answer": {"kind": "number"}, "sample_tokens": 60, "concurrency": 4} | more


def votes(
    gate: Gateway, answers: dict[str, Sequence[str]], lengths: Callable[[str, int], int] = lambda *_: 3
) -> list[tuple[str, int]]:
    """Have each question answer as listed, then as its last, after thoughts of the given lengths.

    Returns:
        Question and sample of every script that was asked for, which grows.
    """
    asked: list[tuple[str, int]] = []

    def script(ask: Any) -> Script:
        name, sample = place(ask.prompt, ask.seed)
        if "seed" not in ask.body:
            sample = 0  # a probe
        else:
            asked.append((name, sample))
        given = answers[name]
        thought = (" hm",) * lengths(name, sample)
        return Script(thought=thought, answer=("The", " answer", " is", f" {given[min(sample, len(given) - 1)]}", "."))

    gate.fake.says(script)
    return asked


def place(prompt: str, seed: int) -> tuple[str, int]:
    """Question and sample of an upstream request."""
    found = re.search(r"question (\w+)", prompt)
    assert found
    return found[1], seed - SEED


def by_name(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The results of a final object by question."""
    return {result["id"]: result for result in answer["results"]}


def split(found: Sequence[Event]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """A stream as its progress, its results and its final object."""
    *rest, last = found
    assert last.name == "batch.completed"
    assert {event.name for event in rest} <= {"batch.progress", "batch.result"}
    told = [[event.data for event in rest if event.name == f"batch.{kind}"] for kind in ("progress", "result")]
    return told[0], told[1], last.data


class Background(threading.Thread):
    """One batch, asked in the background."""

    def __init__(self, gate: Gateway, request: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self._gate, self._request = gate, request
        self.answer: Response | None = None
        self.start()

    def run(self) -> None:
        """Wait for the answer."""
        self.answer = self._gate.post(BATCH, self._request)


class Caller:
    """A client that may leave at any moment, on a connection of its own."""

    def __init__(self, gate: Gateway, request: dict[str, Any], key: str) -> None:
        url = httpx2.URL(gate.url)
        content = json.dumps(request).encode()
        head = f"POST {BATCH} HTTP/1.1\r\nhost: {url.host}\r\nauthorization: Bearer {key}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        self._socket = socket.create_connection((url.host, url.port), timeout=10)
        self._socket.sendall(head.encode() + content)
        self.got = b""

    def read_until(self, mark: bytes, count: int) -> None:
        """Read until a mark has come so many times."""
        while self.got.count(mark) < count:
            piece = self._socket.recv(65536)
            assert piece, self.got
            self.got += piece

    def leave(self) -> None:
        """Close the connection."""
        self._socket.close()
