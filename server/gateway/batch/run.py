"""The loop of one batch: what to launch next, what came of it, and when to end.

The allocation decides whose sample is next. What must not be here: how a sample is drawn, and what the client is sent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from suffice.policies.allocation.patience import Patience
from suffice.policies.events import Draining
from suffice.server.errors import InternalError, InvalidRequest, ModelNotFound, RequestTooLarge
from suffice.server.gateway.batch.spent import Spent

if TYPE_CHECKING:
    from collections.abc import Callable

    from suffice.policies.allocation.batch import BatchAllocation, Draw
    from suffice.policies.events import AnyEvent
    from suffice.server.errors import ApiError
    from suffice.server.gateway.batch.account import BatchAccount
    from suffice.server.gateway.batch.question import Question
    from suffice.server.gateway.batch.sampler import Ended, Sampler
    from suffice.server.gateway.batch.saved import SavedState

UPSTREAM_FAILED = "upstream_failed"

_OF_THE_QUESTION = (InvalidRequest, ModelNotFound, RequestTooLarge)
"""Refusals that the same question would meet again; any other failure is upstream's."""


class Listener(Protocol):
    """Hears what comes of a batch while it runs."""

    def voted(self, vote: dict[str, Any]) -> None:
        """A vote was counted."""
        ...

    def closed(self, question: Question) -> None:
        """A question draws no more samples."""
        ...

    async def flush(self) -> None:
        """Wait until the client has taken what it was sent."""
        ...


class Run:
    """One batch on its way.

    It stands among the service's drivers, so that a server that goes down waits for it and tells it when to end.

    Args:
        batch: The allocation.
        questions: By name, in order.
        sampler: Draws samples.
        account: Who pays.
        listener: Hears of votes and closed questions.
        concurrency: Samples beside each other.
        deadline_s: Seconds from receipt to the end.
        clock: Seconds since receipt.

    Attributes:
        votes: All votes in the order in which they were counted: question, sample, class of the answer, tokens.
        spent: What the samples of this run used, whatever became of them.
        stopped: Why it ended before its time; None where it did not.
        error: The last failure that a sample met; None where none did.
    """

    def __init__(
        self,
        batch: BatchAllocation,
        questions: dict[str, Question],
        *,
        sampler: Sampler,
        account: BatchAccount,
        listener: Listener,
        concurrency: int,
        deadline_s: float | None,
        clock: Callable[[], float],
    ) -> None:
        self._batch = batch
        self._questions = questions
        self._sampler = sampler
        self._account = account
        self._listener = listener
        self._concurrency = concurrency
        self._deadline_s = deadline_s
        self._clock = clock
        self._patience = Patience()
        self._held: set[str] = set()
        """Questions that failed and pause."""
        self._pause_ends: float | None = None
        """When what pauses now may be tried again; None where nothing pauses."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: list[Ended] = []
        self._wake = asyncio.Event()
        self.votes: list[tuple[Question, int, int | None, int]] = []
        self.spent = Spent()
        self.stopped: str | None = None
        self.error: ApiError | None = None

    def restore(self, saved: SavedState) -> None:
        """Take in the votes of an earlier run, in their order."""
        for vote in saved.votes:
            question = self._questions[vote.id]
            answer = question.classify(vote.answer)
            self._batch.restore(vote.id, vote.sample, answer, vote.tokens)
            choice = None if vote.choice is None else vote.choice.model_dump(exclude_unset=True)
            question.hear(vote.sample, answer, choice)
            self.votes.append((question, vote.sample, answer, vote.tokens))
        self._batch.write_off(saved.lost_tokens)

    async def run(self) -> None:
        """Draw until the budget is spent, every question has its samples, or something ends it. Leaves no task."""
        timer = None
        if self._deadline_s is not None:
            delay = max(0.0, self._deadline_s - self._clock())
            timer = asyncio.get_running_loop().call_later(delay, self.stop, "deadline_ms")
        try:
            while self._launch():
                await self._something()
                self._take_all()
                # What is next goes upstream before a slow client is waited for.
                self._launch()
                await self._listener.flush()
        finally:
            if timer is not None:
                timer.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._take_all()

    def now(self) -> float:
        """Seconds since the batch was received."""
        return self._clock()

    def interrupt(self, event: AnyEvent) -> None:
        """Hear of an event from outside; samples that are under way hear of it themselves."""
        if isinstance(event, Draining):
            self.stop("shutdown")

    def client_gone(self) -> None:
        """The client left: end everything."""
        self.stop("client_gone")
        self._sampler.client_gone()

    def stop(self, why: str) -> None:
        """Launch nothing more. The first reason counts."""
        self.stopped = self.stopped or why
        self._sampler.stopped = self.stopped
        self._wake.set()

    def _launch(self) -> bool:
        """Launch what is worth it now.

        Returns:
            Whether there is something to wait for.
        """
        now = self._clock()
        for name in [name for name in self._held if now >= self._questions[name].patience.resumes_at]:
            self._held.discard(name)
            self._batch.hold(name, held=False)
        pauses = [self._questions[name].patience.resumes_at for name in self._held]
        if now < self._patience.resumes_at:
            pauses.append(self._patience.resumes_at)
        elif self.stopped is None:
            for draw in self._batch.next(self._concurrency - self._batch.under_way):
                task = asyncio.get_running_loop().create_task(self._draw(draw))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._pause_ends = min(pauses) if pauses and self.stopped is None else None
        return self._batch.under_way > 0 or self._pause_ends is not None

    async def _draw(self, draw: Draw) -> None:
        ended = await self._sampler.draw(self._questions[draw.question], draw)
        self._over.append(ended)
        self._wake.set()

    async def _something(self) -> None:
        """Wait until a sample is over, a pause is, or something ends the batch."""
        pause = None if self._pause_ends is None else max(0.0, self._pause_ends - self._clock())
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def _take_all(self) -> None:
        over, self._over = self._over, []
        for ended in over:
            self._take(self._questions[ended.draw.question], ended)

    def _take(self, question: Question, ended: Ended) -> None:
        """What came of one sample."""
        self.spent.add(ended)
        draw, answer = ended.draw, None
        if ended.chain is not None and ended.chain.prompt_tokens:
            self._account.prompt_known(question.number, ended.chain.prompt_tokens)
        question.charged += ended.error is None
        if ended.error is not None or ended.interrupted is not None:
            self._batch.lose(draw.question, draw.sample, ended.tokens)
            self._lost(question, ended)
        else:
            self._patience.succeeded()
            answer = question.classify(ended.key)
            self._batch.observe(draw.question, draw.sample, answer, ended.tokens)
            question.hear(draw.sample, answer, ended.choice)
            question.patience.succeeded()
            self.votes.append((question, draw.sample, answer, ended.tokens))
            self._listener.voted(self.vote(*self.votes[-1]))
        self._sampler.log(ended, answer)
        if self._batch.over(draw.question):
            self._account.closed(question.number, question.charged)
            self._listener.closed(question)

    def _lost(self, question: Question, ended: Ended) -> None:
        if ended.interrupted is not None:
            self.stop(ended.interrupted)
            return
        error = self.error = ended.error or InternalError("the gateway failed")
        now = self._clock()
        refused = isinstance(error, _OF_THE_QUESTION)
        if not refused:
            self._patience.failed(now)
            question.patience.failed(now)
            self._held.add(question.id)
            self._batch.hold(question.id, held=True)
        if self._patience.over:
            self.stop(UPSTREAM_FAILED)
        elif refused or question.patience.over:
            # Others may go on where this one alone fails again and again.
            question.error = error.body()["error"]
            self._batch.close(question.id)
            self._held.discard(question.id)

    @staticmethod
    def vote(question: Question, sample: int, answer: int | None, tokens: int) -> dict[str, Any]:
        """A vote as the client keeps it to go on with: with all that was said where it may be shown as the winner."""
        found = {"id": question.id, "sample": sample, "answer": question.key_of(answer), "tokens": tokens}
        choice = question.choice_of(sample, answer)
        return found if choice is None else found | {"choice": choice}

    def state(self) -> dict[str, Any]:
        """Where the batch stands, for the client to send back."""
        return {"votes": [self.vote(*vote) for vote in self.votes], "lost_tokens": self._batch.lost_tokens}

    @property
    def outcome(self) -> str:
        """How it ended, for the ledger."""
        if self.stopped == "client_gone":
            return "client_gone"
        failed = self.stopped == UPSTREAM_FAILED or (self.error is not None and not self.votes)
        return "failed" if failed else "completed"
