"""What the client of a batch sees: events while it runs, and one object at its end, streamed or whole.

A client that keeps the ``vote`` of every ``batch.progress`` holds all that it needs to go on after the connection
broke: ``resume: {"votes": [...]}``. What must not be here: decisions.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import orjson
from suffice.server.gateway import sse
from suffice.server.gateway.batch.run import UPSTREAM_FAILED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from suffice.policies.allocation.batch import BatchAllocation
    from suffice.server.gateway.batch.account import BatchAccount
    from suffice.server.gateway.batch.limits import BatchLimits
    from suffice.server.gateway.batch.question import Question
    from suffice.server.gateway.batch.run import Run
    from suffice.server.gateway.sink import Sink

PROGRESS, RESULT, COMPLETED = b"batch.progress", b"batch.result", b"batch.completed"
KEEP_ALIVE_S = 5.0
"""Seconds between comments on a stream, so that nobody between us and the client gives it up while samples run."""


class Teller:
    """Tells the client of one batch what comes of it while it runs.

    Args:
        sink: The way to the client.
        batch: The allocation.
        stream: Whether the client wants events.

    Attributes:
        told: Questions whose result was told.
    """

    def __init__(self, sink: Sink, batch: BatchAllocation, *, stream: bool) -> None:
        self._sink = sink
        self._batch = batch
        self._stream = stream
        self.told: set[str] = set()

    def voted(self, vote: dict[str, Any]) -> None:
        """A vote was counted."""
        self._write(PROGRESS, {"vote": vote, "spent": self._batch.spent, "lost_tokens": self._batch.lost_tokens})

    def closed(self, question: Question) -> None:
        """A question draws no more samples."""
        self.told.add(question.id)
        self._write(RESULT, question.result(self._batch))

    def _write(self, name: bytes, data: dict[str, Any]) -> None:
        if self._stream:
            self._sink.write(sse.encode(orjson.dumps(data), name))

    async def flush(self) -> None:
        """Wait until the client has taken what it was sent."""
        await self._sink.flush()

    async def keep_alive(self) -> None:
        """Comments from time to time. Runs until cancelled."""
        while self._stream:
            await asyncio.sleep(KEEP_ALIVE_S)
            self._sink.write(sse.KEEP_ALIVE)
            await self._sink.flush()

    async def end(self, body: dict[str, Any]) -> None:
        """Send the final object."""
        if self._stream:
            await self._sink.end_stream(sse.encode(orjson.dumps(body), COMPLETED))
        else:
            await self._sink.whole(200, body)


def batch_object(
    run: Run,
    batch: BatchAllocation,
    questions: Sequence[Question],
    *,
    batch_id: str,
    model: str,
    total_tokens: int,
    account: BatchAccount,
    receipt: dict[str, Any],
) -> dict[str, Any]:
    """The final object.

    Args:
        run: The run that is over.
        batch: Its allocation.
        questions: Its questions, in order.
        batch_id: Its id.
        model: What generated.
        total_tokens: The budget of all runs.
        account: What this run used.
        receipt: This run's receipt.
    """
    found: dict[str, Any] = {
        "id": f"batch-{batch_id}",
        "object": "suffice.batch",
        "created": int(time.time()),
        "model": model,
        "status": "completed" if run.stopped is None else "incomplete",
        "results": [question.result(batch) for question in questions],
        "spent": {"tokens": batch.spent, "left": total_tokens - batch.spent, "lost_tokens": batch.lost_tokens},
        "usage": {
            "prompt_tokens": account.prompt_tokens,
            "completion_tokens": account.generated,
            "total_tokens": account.prompt_tokens + account.generated,
        },
        "suffice": receipt,
    }
    if run.stopped is not None:
        found["incomplete"] = {"why": run.stopped}
        if run.stopped == UPSTREAM_FAILED and run.error is not None:
            found["incomplete"]["error"] = run.error.body()["error"]
        found["state"] = run.state()
    return found


def batch_receipt(
    run: Run,
    limits: BatchLimits,
    *,
    request_id: str,
    preset: str,
    version: str,
    account: BatchAccount,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """The receipt of one run.

    Args:
        run: The run that is over.
        limits: What held.
        request_id: Its id.
        preset: The preset in force.
        version: Name of the rules in force.
        account: What it used.
        clock: Seconds since receipt.
    """
    spent = run.spent
    receipt: dict[str, Any] = {
        "request_id": request_id,
        "plan": {
            "preset": preset,
            "policy_version": version,
            "limits": {name: [bound.value, bound.source] for name, bound in sorted(limits.bounds.items())},
            "concurrency": limits.concurrency,
        },
        "spent": spent.receipt(prompt_tokens=account.prompt_tokens, wall_s=clock()),
        "saved": {"samples": 0, "tokens_estimate": 0},
        "stops": [{"rule": rule, "by": by, "samples": samples} for (rule, by), samples in sorted(spent.stops.items())],
    }
    if spent.not_applied:
        receipt["not_applied"] = [{"rule": rule, "why": why} for rule, why in sorted(spent.not_applied.items())]
    return receipt
