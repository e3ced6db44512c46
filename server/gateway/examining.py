"""Votes that take asking: a verifier's reward, a judge's word on which answers are equal.

Votes of one request are examined beside each other; only the judge takes them one by one, since whether an answer is
new depends on those before. What must not be here: what follows from a vote.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suffice.server.gateway.judging import Judge, Verdict
from suffice.server.gateway.wishes import judge_name

if TYPE_CHECKING:
    from suffice.server.gateway.dialects.base import Call
    from suffice.server.gateway.service import Service
    from suffice.server.gateway.verifying import Verifiers
    from suffice.server.gateway.voting import Ballots
    from suffice.server.gateway.wishes import Wishes


@dataclass(slots=True, kw_only=True)
class Vote:
    """One sample's vote, as far as it is known.

    Attributes:
        answer: Class of its answer; None where there is none.
        score: The verifier's reward; None where there is none.
        judge_tokens: Tokens that the judge generated for it.
    """

    answer: int | None = None
    score: float | None = None
    judge_tokens: int = 0


@dataclass(slots=True, kw_only=True)
class Examiner:
    """Reads the votes of one request.

    Attributes:
        ballots: What the samples said.
        call: What they were asked.
        verifiers: All verifiers.
        verifier: The one that scores this request's answers; None for none.
        judge: Tells which answers are equal; None where their keys do.
    """

    ballots: Ballots
    call: Call
    verifiers: Verifiers
    verifier: str | None = None
    judge: Judge | None = None
    _turn: asyncio.Lock | None = None

    async def examine(self, sample: int, vote: Vote, judge_tokens: int) -> None:
        """Fill in a sample's vote. When cancelled, the vote holds what was found and spent till then.

        Args:
            sample: The sample.
            vote: Where to write.
            judge_tokens: All that the judge may generate.
        """
        await self._classify(sample, vote, judge_tokens)
        text = self.ballots.text(sample)
        if self.verifier is not None and text:
            vote.score = await self.verifiers.score(self.verifier, self.call, text)

    async def _classify(self, sample: int, vote: Vote, judge_tokens: int) -> None:
        key = self.ballots.key(sample)
        classes = self.ballots.classes
        if self.judge is None or key is None:
            vote.answer = classes.of(key)
            return
        if self._turn is None:
            self._turn = asyncio.Lock()
        async with self._turn:
            if classes.is_new(key) and classes.keys and judge_tokens:
                verdict = Verdict()
                try:
                    same = await self.judge.compare(key, classes.keys, judge_tokens, verdict)
                finally:
                    vote.judge_tokens = min(verdict.tokens, judge_tokens)
                if same is not None:
                    classes.alias(key, classes.keys[same])
            vote.answer = classes.of(key)


def examiner_for(
    service: Service,
    call: Call,
    wishes: Wishes,
    ballots: Ballots | None,
    fields: dict[str, Any],
    headers: dict[str, str],
) -> Examiner | None:
    """The examiner of a request; None where its votes can be read without asking anybody.

    Args:
        service: Whom there is to ask.
        call: The request.
        wishes: The rules that it runs.
        ballots: Its answers, where any are read.
        fields: Fields of every upstream request of its tenant's.
        headers: Headers of those.
    """
    name = judge_name(wishes)
    verifier = None if wishes.sampling is None else wishes.sampling.verifier
    judge = None
    if wishes.judge is not None and name is not None and wishes.sampling is not None:
        judge = Judge(
            name,
            wishes.judge,
            upstream=service.upstream,
            call=call,
            fields=fields,
            headers=headers,
            metrics=service.metrics,
        )
    if ballots is None or (verifier is None and judge is None):
        return None
    return Examiner(ballots=ballots, call=call, verifiers=service.verifiers, verifier=verifier, judge=judge)
