"""A judge of answers: a chat model on the upstream that says which of the known answers a new one equals.

Asked once for each answer that reads unlike all that came before; what it says holds for the request. What it
generates comes out of what the chain granted. What must not be here: votes, and reading answers.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import orjson
from suffice.server.errors import ApiError
from suffice.server.gateway.verifying import question

if TYPE_CHECKING:
    from collections.abc import Sequence

    from suffice.server.config import JudgeSection
    from suffice.server.gateway.dialects.base import Call
    from suffice.server.gateway.upstream import Upstream
    from suffice.server.telemetry.metrics import Metrics

MOST_KNOWN = 16
"""Answers that a new one is compared with; those that were met first."""
_LONGEST = 2000
"""Characters of an answer, and of the question, that the judge is shown."""
_DONE = b"[DONE]"
_BROKEN = (KeyError, TypeError, AttributeError, IndexError, ValueError)

_TASK = (
    "You compare answers to one question. Two answers are the same if they state the same result, however they are "
    "written. Reply with the number of the known answer that the new answer is the same as, or with 0 if it is none "
    "of them. Reply with the number alone."
)


class Judge:
    """The judge of one request.

    Args:
        name: Its name in the operator's file.
        section: Which model it is.
        upstream: Where it runs.
        call: The request whose answers it compares.
        fields: What goes with every upstream request of the tenant's.
        headers: Headers of those.
        metrics: Counters.

    Attributes:
        asked: Verdicts asked for.
        merged: Answers that were found equal to another.
    """

    def __init__(
        self,
        name: str,
        section: JudgeSection,
        *,
        upstream: Upstream,
        call: Call,
        fields: dict[str, Any],
        headers: dict[str, str],
        metrics: Metrics,
    ) -> None:
        self.name = name
        self.asked = 0
        self.merged = 0
        self._section = section
        self._upstream = upstream
        self._question = question(call.body)[-_LONGEST:]
        self._fields = fields
        self._headers = headers
        self._metrics = metrics

    async def compare(self, answer: str, known: Sequence[str], max_tokens: int, verdict: Verdict) -> int | None:
        """Ask which known answer a new one equals. Never raises but when cancelled.

        Args:
            answer: The new answer.
            known: The others.
            max_tokens: All that may be generated.
            verdict: Where to write what was said, so that its tokens are known however this ends.

        Returns:
            The place of the known answer; None where it equals none, or nothing was said in time.
        """
        known = known[:MOST_KNOWN]
        self.asked += 1
        outcome, number = "failed", None
        try:
            async with asyncio.timeout(self._section.timeout_s):
                await self._ask(self._body(answer, known, max_tokens), verdict)
            number = verdict.number
            outcome = "unclear" if number is None or number > len(known) else "same" if number else "different"
        except TimeoutError:
            outcome = "late"
        except (ApiError, *_BROKEN):
            pass
        finally:
            self._metrics.judged.labels(self.name, outcome).inc()
        self.merged += outcome == "same"
        return number - 1 if number and outcome == "same" else None

    def _body(self, answer: str, known: Sequence[str], max_tokens: int) -> dict[str, Any]:
        listed = "\n".join(f"{place}: {text[:_LONGEST]}" for place, text in enumerate(known, start=1))
        asked = f"Question: {self._question}\n\nKnown answers:\n{listed}\n\nNew answer: {answer[:_LONGEST]}"
        body: dict[str, Any] = {
            "model": self._section.model,
            "messages": [{"role": "system", "content": _TASK}, {"role": "user", "content": asked}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        if not self._section.thinks:
            body["chat_template_kwargs"] = {"enable_thinking": False}
            body["structured_outputs"] = {"choice": [str(place) for place in range(len(known) + 1)]}
        return body | self._fields

    async def _ask(self, body: dict[str, Any], verdict: Verdict) -> None:
        headers = self._headers | {"x-request-id": f"{self._headers['x-request-id']}-judge-{self.asked}"}
        async with self._upstream.stream("/v1/chat/completions", body, headers) as batches:
            async for batch in batches:
                for event in batch:
                    if event.data != _DONE:
                        verdict.take(orjson.loads(event.data))


class Verdict:
    """What a judge's stream told.

    Attributes:
        tokens: Tokens generated so far.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._answer: list[str] = []
        self._thought: list[str] = []

    def take(self, frame: dict[str, Any]) -> None:
        """Read one chunk."""
        if "error" in frame:
            raise ValueError("upstream broke off")
        usage = frame.get("usage")
        if usage:
            self.tokens = max(self.tokens, usage["completion_tokens"])
        for choice in frame.get("choices") or ():
            delta = choice.get("delta") or {}
            self._answer.append(delta.get("content") or "")
            self._thought.append(delta.get("reasoning") or "")

    @property
    def number(self) -> int | None:
        """The number it said; a server's parser may take an answer without a thought for a thought."""
        said = re.search(r"\d{1,3}", "".join(self._answer).strip() or "".join(self._thought))
        return None if said is None else int(said[0])
