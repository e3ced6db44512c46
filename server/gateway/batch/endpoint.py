"""One batch, from its bytes to its settlement: receive, plan, reserve, run, settle, record, answer."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import orjson
from suffice.policies.allocation.batch import BatchAllocation
from suffice.policies.errors import IllegalEvent, InvalidBudget
from suffice.server.errors import ApiError, InvalidRequest
from suffice.server.gateway import sse
from suffice.server.gateway.answering import answered
from suffice.server.gateway.batch.account import BatchAccount
from suffice.server.gateway.batch.limits import batch_limits
from suffice.server.gateway.batch.question import Question
from suffice.server.gateway.batch.request import parse_batch
from suffice.server.gateway.batch.run import UPSTREAM_FAILED, Run
from suffice.server.gateway.batch.sampler import Sampler
from suffice.server.gateway.batch.telling import Teller, batch_object, batch_receipt
from suffice.server.gateway.intake import parse_object, read_body
from suffice.server.gateway.planner import find_model, preset_name, prompt_estimate
from suffice.server.gateway.sink import CLIENT_LEFT, Sink
from suffice.server.gateway.wishes import wishes_of

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send
    from suffice.server.gateway.batch.limits import BatchLimits
    from suffice.server.gateway.batch.request import Asked, BatchRequest
    from suffice.server.gateway.driver import Driver
    from suffice.server.gateway.facts import Served
    from suffice.server.gateway.service import Service
    from suffice.server.ledger.keys import KeyRecord

NAME = "batch"


class BatchEndpoint:
    """The ASGI endpoint of batches."""

    path = "/v1/suffice/batch"

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one batch; every error becomes an error object, and nothing reserved is lost."""
        await answered(_Batch(self._service, scope, receive, send), NAME, self._service.metrics)


class _Batch:
    """The state of one batch on its way through."""

    def __init__(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        self._service = service
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._began = time.monotonic()
        self._id = uuid.uuid4().hex
        self._sink = Sink(send, {"x-request-id": self._id})
        self.status = 200
        self.model_label = "none"

    def elapsed(self) -> float:
        """Seconds since the batch was received; to a microsecond, so that a log tells it as it was decided by."""
        return round(time.monotonic() - self._began, 6)

    async def answer(self) -> None:
        """Do everything.

        Raises:
            ApiError: The batch was refused, or failed before anything was spent.
        """
        service = self._service
        service.admit()
        key = service.authenticate(self._headers)
        limits = service.config.server
        raw = await read_body(self._receive, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s)
        request = parse_batch(parse_object(raw), images=limits.allow_images, most_questions=limits.batch_questions)
        planned = self._plan(request, key)
        run, account, batch = planned.run, planned.account, planned.batch
        _restore(run, request)
        prompts = [
            (question.prompt_estimate, max(0, planned.limits.rule.most - batch.drawn(question.id)))
            for question in planned.questions
        ]
        # Nothing may stand between the reservation and the block that settles it.
        await account.reserve(service.keys.accounts(key), prompts, planned.limits.total_tokens - batch.spent)
        service.metrics.overhead.labels(NAME).observe(self.elapsed())
        outcome = "failed"
        try:
            await self._run(run, planned.teller)
            outcome = run.outcome
        finally:
            # Shielded: the account is settled once whatever happens to this task meanwhile.
            await asyncio.shield(account.settle(outcome))
        if run.spent.first_token_s is not None:
            service.metrics.first_token.labels(NAME).observe(run.spent.first_token_s)
        self._log(planned, outcome)
        await self._finish(planned)

    async def refuse(self, error: ApiError) -> None:
        """Send an error: as the whole answer, or as the last event of a stream that has begun."""
        self.status = error.status
        self._service.metrics.refused.labels(error.error_code).inc()
        if not self._sink.started:
            await self._sink.whole(error.status, error.body(), error.headers())
        elif self._sink.connected:
            await self._sink.end_stream(sse.encode(orjson.dumps(error.body()), b"error"))

    def _plan(self, request: BatchRequest, key: KeyRecord) -> _Planned:
        """Merge what was asked with what the operator allows, and build the parts of the run."""
        service = self._service
        model = find_model(service.served, request.model)
        self.model_label = model.name
        header = self._headers.get(b"x-suffice-preset")
        first = request.questions[0].call
        preset = preset_name(service.config, first, None if header is None else header.decode("latin-1"))
        limits = batch_limits(service.config, request, key, model, preset)
        questions = [self._question(place, asked, preset, model) for place, asked in enumerate(request.questions)]
        batch = BatchAllocation(limits.rule, total_tokens=limits.total_tokens, sample_tokens=limits.sample_tokens)
        for question in questions:
            batch.add(question.id)
        account = BatchAccount(service, self._id)
        teller = Teller(self._sink, batch, stream=request.stream)
        sampler = Sampler(
            service,
            batch_id=self._id,
            key=key,
            model=model,
            preset=preset,
            deadline_ms=request.deadline_ms,
            sample_tokens=limits.sample_tokens,
            account=account,
            clock=self.elapsed,
        )
        run = Run(
            batch,
            {question.id: question for question in questions},
            sampler=sampler,
            account=account,
            listener=teller,
            concurrency=limits.concurrency,
            deadline_s=limits.deadline_s,
            clock=self.elapsed,
        )
        return _Planned(
            model=model,
            preset=preset,
            limits=limits,
            questions=questions,
            batch=batch,
            account=account,
            teller=teller,
            run=run,
        )

    def _question(self, number: int, asked: Asked, preset: str, model: Served) -> Question:
        """A question with the rules that its samples run.

        Raises:
            InvalidRequest: A rule, a parameter or a kind of answer does not exist, or cannot be had in a batch.
        """
        config = self._service.config
        try:
            wishes = wishes_of(config, asked.call, preset, frozenset(model.plugin.rules))
        except InvalidBudget as error:
            # How answers are read stands beside the questions, and not in the suffice field.
            message, param = (text.replace("suffice.answer", "answer") for text in (str(error), error.param))
            raise InvalidRequest(message, param=param) from None
        if wishes.judge is not None:
            raise InvalidRequest("a batch asks no judge: it compares answers as they are read", param="answer.kind")
        return Question(number=number, asked=asked, wishes=wishes, prompt_estimate=prompt_estimate(asked.call, model))

    async def _run(self, run: Run, teller: Teller) -> None:
        """Run, watching the client's connection."""
        # A batch is drained as a driver is, and between two samples it may have none that is.
        standing = cast("Driver", run)
        self._service.drivers.add(standing)
        loop = asyncio.get_running_loop()
        beside = [loop.create_task(self._watch(run)), loop.create_task(teller.keep_alive())]
        try:
            await run.run()
        finally:
            self._service.drivers.discard(standing)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _watch(self, run: Run) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._sink.connected = False
                phase = "streaming" if run.votes else "waiting"
                self._service.metrics.client_disconnects.labels(phase).inc()
                run.client_gone()
                return

    def _log(self, planned: _Planned, outcome: str) -> None:
        """One line for the batch beside those of its samples: numbers only, questions by their place."""
        if self._service.event_log is None:
            return
        run, batch = planned.run, planned.batch
        record = {
            "event": "Batch",
            "at": self.elapsed(),
            "outcome": outcome,
            "stopped": run.stopped,
            "model": planned.model.name,
            "preset": planned.preset,
            "policy_version": self._service.version,
            "total_tokens": planned.limits.total_tokens,
            "spent": batch.spent,
            "prompt_tokens": planned.account.prompt_tokens,
            "generated": planned.account.generated,
            "questions": len(planned.questions),
            "votes": [[question.number, sample, answer, tokens] for question, sample, answer, tokens in run.votes],
        }
        self._service.event_log.write(self._id, [record])

    async def _finish(self, planned: _Planned) -> None:
        """Send what ends the answer.

        Raises:
            ApiError: Nothing was spent, and a failure is all that there is to tell.
        """
        run, batch, questions = planned.run, planned.batch, planned.questions
        if not self._sink.connected:
            self.status = CLIENT_LEFT
            return
        refused = all(question.error is not None for question in questions)
        told = self._sink.started or self._sink.pending
        if run.error is not None and not batch.spent and not told and (refused or run.stopped == UPSTREAM_FAILED):
            raise run.error
        for question in questions:
            if run.stopped is None and question.id not in planned.teller.told:
                # The budget is spent, which closes what was still open.
                planned.teller.closed(question)
        receipt = batch_receipt(
            run,
            planned.limits,
            request_id=self._id,
            preset=planned.preset,
            version=self._service.version,
            account=planned.account,
            clock=self.elapsed,
        )
        body = batch_object(
            run,
            batch,
            questions,
            batch_id=self._id,
            model=planned.model.name,
            total_tokens=planned.limits.total_tokens,
            account=planned.account,
            receipt=receipt,
        )
        await planned.teller.end(body)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """The parts of one run."""

    model: Served
    preset: str
    limits: BatchLimits
    questions: list[Question]
    batch: BatchAllocation
    account: BatchAccount
    teller: Teller
    run: Run


def _restore(run: Run, request: BatchRequest) -> None:
    """Go on where an earlier run ended.

    Raises:
        InvalidRequest: An operator's ceiling is below what its votes took.
    """
    if request.saved is None:
        return
    try:
        run.restore(request.saved)
    except IllegalEvent:
        raise InvalidRequest("resume: its votes took more tokens than this batch is allowed", param="resume") from None
