"""One sample of a batch: planned within its grant, driven by the same machine as any request, and told.

Samples are requests of their own towards upstream and in the event log, each with one choice and the tokens of its
grant as its total. What must not be here: which question is drawn, and what follows from a vote.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from suffice.policies.chain import Chain
from suffice.policies.plan import ThinkingCap
from suffice.policies.recording import Recorder, watched
from suffice.server.errors import ApiError, ClientLeft, InternalError
from suffice.server.gateway import hindsight
from suffice.server.gateway import receipt as receipts
from suffice.server.gateway.dialects.chat import ChatDialect
from suffice.server.gateway.driver import Driver
from suffice.server.gateway.planned import planned
from suffice.server.gateway.planner import plan_request
from suffice.server.gateway.rulesets import make_rules, reader_of
from suffice.server.gateway.seating import tenant_of, visit_of
from suffice.server.gateway.service import PRIORITIES
from suffice.server.gateway.signals import Signals
from suffice.server.gateway.sink import Sink
from suffice.server.gateway.voting import Ballots

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message
    from suffice.policies.allocation.batch import Draw
    from suffice.policies.plan import Plan
    from suffice.server.desk.seat import Seat
    from suffice.server.gateway.batch.account import BatchAccount
    from suffice.server.gateway.batch.question import Question
    from suffice.server.gateway.dialects.base import Call
    from suffice.server.gateway.facts import Served
    from suffice.server.gateway.rulesets import RuleSet
    from suffice.server.gateway.service import Service
    from suffice.server.ledger.keys import KeyRecord

_LOG = logging.getLogger(__name__)
_OK = 200

INTERRUPTIONS = frozenset({"deadline_ms", "shutdown", "client_gone"})
"""What ends the samples of a batch from outside; a sample that it cut is no vote and is drawn anew."""


@dataclass(slots=True, kw_only=True)
class Ended:
    """What came of one sample.

    Attributes:
        draw: What was to be drawn.
        id: Its name upstream and in the event log.
        tokens: Tokens that it generated, probes included.
        key: Its answer as equal answers have it; None where it has none.
        choice: What it said and how it ended.
        interrupted: What ended it from outside; None for a sample that is a vote or failed.
        error: Why it failed.
        chain: Its machine; None where it never began.
        first_token_s: Seconds from the batch's receipt to its first token.
        queue_s: Seconds that it waited for a place.
        block_seconds: KV blocks that it held, times seconds.
        records: Its lines for the event log, but for the last.
    """

    draw: Draw
    id: str
    tokens: int = 0
    key: str | None = None
    choice: dict[str, Any] | None = None
    interrupted: str | None = None
    error: ApiError | None = None
    chain: Chain | None = None
    first_token_s: float | None = None
    queue_s: float = 0.0
    block_seconds: float = 0.0
    records: list[dict[str, Any]] | None = None


class Sampler:
    """Draws samples for one batch.

    Args:
        service: The gateway's parts.
        batch_id: The batch's id.
        key: Who asks.
        model: What generates.
        preset: The preset in force.
        deadline_ms: The client's own deadline of the batch.
        sample_tokens: Tokens of a sample that the budget does not cut short.
        account: Where what is generated is counted.
        clock: Seconds since the batch was received.

    Attributes:
        stopped: Why nothing is launched any more; None while the batch goes on.
    """

    def __init__(  # noqa: PLR0913 - what all samples of a batch share
        self,
        service: Service,
        *,
        batch_id: str,
        key: KeyRecord,
        model: Served,
        preset: str,
        deadline_ms: int | None,
        sample_tokens: int,
        account: BatchAccount,
        clock: Callable[[], float],
    ) -> None:
        self._service = service
        self._id = batch_id
        self._key = key
        self._model = model
        self._preset = preset
        self._deadline_ms = deadline_ms
        self._sample_tokens = sample_tokens
        self._account = account
        self._clock = clock
        self._salt = service.cache_salt(tenant_of(key))
        self._dialect = ChatDialect()
        self._lengths = service.experience.lengths(key.id, self._dialect.name, model.name)
        self._launched = 0
        self._under_way: dict[Driver, Sink] = {}
        self._waiting: set[Seat] = set()
        self.stopped: str | None = None

    def client_gone(self) -> None:
        """The client left: end everything that is under way."""
        for seat in tuple(self._waiting):
            seat.give_up()
        for driver, sink in tuple(self._under_way.items()):
            sink.connected = False
            driver.client_gone()

    async def draw(self, question: Question, draw: Draw) -> Ended:
        """One sample, from planning it to its end. Raises nothing of its own; what fails is told in the result."""
        ended = Ended(draw=draw, id=f"{self._id}-{self._launched}")
        self._launched += 1
        try:
            await self._draw(question, ended)
        except ApiError as error:
            ended.error = error
        except Exception as error:  # noqa: BLE001 - a sample that never ended would hold the batch for ever
            _LOG.error("a sample failed: %s", type(error).__name__)  # its message may hold text
            ended.error = InternalError("the gateway failed")
        finally:
            self._book(ended)
        return ended

    async def _draw(self, question: Question, ended: Ended) -> None:
        service, model = self._service, self._model
        call = self._call(question, ended.draw)
        plan = await self._plan(question, call)
        ruled = make_rules(question.wishes, plan, self._lengths)
        suffix = await service.suffix(model, question.wishes) if plan.probe_tokens else []
        chain = ended.chain = Chain(plan, ruled.rules if service.event_log is None else watched(ruled.rules))
        thought = model.thought
        ballots = Ballots(
            reader_of(question.wishes), thought.close_text if thought is not None and thought.visible else None
        )
        if service.event_log is not None:
            ended.records = [self._begin(question, call, plan, ruled, ended.draw)]
        sink = Sink(_nowhere, {})
        received = time.monotonic() - self._clock()
        seat = service.desk.seat(visit_of(self._dialect, call, self._key, plan, ended.id, received))
        driver, log = self._driver(question, call, chain, ruled, ballots, suffix, ended, sink, seat)
        try:
            await self._launch(driver, sink, seat)
        finally:
            ended.queue_s, ended.block_seconds = seat.queue_s, seat.block_seconds
            ended.first_token_s = driver.first_token_s
            if log is not None and ended.records is not None:
                log.flush()
                ended.records += log.records
        ended.error = driver.error
        cut = (stop.rule for stop in chain.stops if stop.rule in INTERRUPTIONS)
        ended.interrupted = next(cut, None if chain.samples else self.stopped)
        if ended.error is None and ended.interrupted is None:
            self._read(ended, driver, ballots)

    async def _launch(self, driver: Driver, sink: Sink, seat: Seat) -> None:
        """Wait for a place, then go upstream; a batch that ended while its sample waited launches it no more.

        Raises:
            ApiError: The desk refused the sample.
        """
        self._waiting.add(seat)
        try:
            await seat.wait()
        except ClientLeft:
            return
        finally:
            self._waiting.discard(seat)
        self._service.drivers.add(driver)
        self._under_way[driver] = sink
        try:
            if self.stopped is None:
                await driver.run(self._service.keeper.prices_for(seat))
        finally:
            seat.leave()
            del self._under_way[driver]
            self._service.drivers.discard(driver)

    def _call(self, question: Question, draw: Draw) -> Call:
        """The question's request as that of one sample: its grant as the total, and its own seed."""
        call = question.asked.call
        budget = call.field.budget.model_copy(update={"total_tokens": draw.tokens, "deadline_ms": self._deadline_ms})
        seed = call.body.get("seed")
        body = call.body | ({"seed": seed + draw.sample} if isinstance(seed, int) else {})
        return replace(call, body=body, field=call.field.model_copy(update={"budget": budget}))

    async def _plan(self, question: Question, call: Call) -> Plan:
        """Plan by the prompt's length where an earlier sample told it or the context is tight, else by its estimate."""
        model = self._model
        tight = model.context is not None and question.prompt_estimate + self._sample_tokens > model.context
        if tight and question.prompt_tokens is None:
            counting = self._dialect.counting(call)
            if counting is not None:
                body = {"model": model.name, **counting}
                status, answer = await self._service.upstream.try_json("/tokenize", body)
                question.prompt_tokens = answer.get("count") if status == _OK else None
        return plan_request(
            self._service.config,
            self._dialect,
            call,
            self._key,
            model,
            self._preset,
            question.wishes,
            prompt_tokens=question.prompt_tokens,
        )

    def _begin(self, question: Question, call: Call, plan: Plan, ruled: RuleSet, draw: Draw) -> dict[str, Any]:
        """The first line in the event log; the batch and the question are told by number."""
        begin = planned(
            self._service.config,
            self._dialect,
            call,
            self._key,
            self._model,
            self._preset,
            question.wishes,
            plan,
            ruled.rules,
            at=self._clock(),
        )
        batch = {"id": self._id, "question": question.number, "sample": draw.sample}
        return begin | {"policy_version": self._service.version, "batch": batch}

    def _driver(  # noqa: PLR0913, PLR0917 - all that one sample is made of
        self,
        question: Question,
        call: Call,
        chain: Chain,
        ruled: RuleSet,
        ballots: Ballots,
        suffix: list[int],
        ended: Ended,
        sink: Sink,
        seat: Seat,
    ) -> tuple[Driver, Recorder | None]:
        service, model, wishes = self._service, self._model, question.wishes
        headers = {"x-request-id": ended.id}
        priority = PRIORITIES[call.field.service_class]
        if model.priority and priority:
            headers["x-vllm-priority"] = str(priority)
        log = None
        if service.event_log is not None:
            log = Recorder(chain.rules, each_chunk=service.config.telemetry.event_log_chunks)

        def progress(prompt_tokens: int, generated: int) -> None:
            if prompt_tokens and question.prompt_tokens is None:
                question.prompt_tokens = prompt_tokens
            self._account.progress(ended.id, prompt_tokens, generated)

        driver = Driver(
            chain=chain,
            dialect=self._dialect,
            call=call,
            answer=self._dialect.answer(call, ended.id, int(time.time()), model),
            upstream=service.upstream,
            model=model,
            sink=sink,
            upstream_fields={"cache_salt": self._salt},
            upstream_headers=headers,
            clock=self._clock,
            metrics=service.metrics,
            on_progress=progress,
            log=log,
            signals=Signals.of(ruled.needs, model.thought, ruled.top),
            ballots=ballots,
            sample_fields=ruled.sample_fields(chain.plan, tells_tokens=self._dialect.facts(call).tells_tokens),
            probe_suffix=suffix,
            link=service.link if chain.plan.close_by is ThinkingCap.ENGINE or wishes.in_engine else None,
            engine_arguments=(
                wishes.engine_arguments([] if model.thought is None else model.thought.step_ids)
                if model.plugin.rules
                else None
            ),
            seat=seat,
        )
        return driver, log

    def _read(self, ended: Ended, driver: Driver, ballots: Ballots) -> None:
        """What a sample that is over said. One that the rest of the budget cut short has no answer."""
        choice = driver.answer.whole({}, {})["choices"][0]
        ended.choice = {"message": choice["message"], "finish_reason": choice["finish_reason"]}
        cut = choice["finish_reason"] == "length" and ended.draw.tokens < self._sample_tokens
        ended.key = None if cut else ballots.key(0)

    def _book(self, ended: Ended) -> None:
        """Count what the sample used, for good. One that failed is not charged its prompt: it may be drawn again."""
        chain = ended.chain
        if chain is None:
            return
        ended.tokens = chain.meter.used
        self._account.block_seconds += ended.block_seconds
        self._account.progress(ended.id, 0 if ended.error else chain.prompt_tokens, ended.tokens)
        metrics = self._service.metrics
        metrics.tokens.labels("prompt").inc(chain.prompt_tokens)
        metrics.tokens.labels("completion").inc(ended.tokens)
        metrics.tokens.labels("thinking").inc(sum(chain.thinking_tokens(i) for i in range(chain.samples)))
        metrics.tokens.labels("cancelled").inc(chain.cancelled_tokens)
        metrics.overshoot.inc(max(0, ended.tokens - ended.draw.tokens))
        for stop in chain.stops:
            metrics.stops.labels(stop.rule, stop.by).inc()
        for item in chain.plan.not_applied:
            metrics.not_applied.labels(item.rule).inc()
        hindsight.learn_lengths(self._service.experience, self._lengths, chain)

    def log(self, ended: Ended, answer: int | None) -> None:
        """Write the sample's lines; its answer is told by the class that it has within its question."""
        chain = ended.chain
        if self._service.event_log is None or ended.records is None or chain is None or not chain.samples:
            return
        receipt = receipts.build(
            chain,
            request_id=ended.id,
            preset=self._preset,
            version=self._service.version,
            wall_s=self._clock(),
            estimated=False,
        )
        outcome = "failed" if ended.error else "client_gone" if ended.interrupted == "client_gone" else "completed"
        last = {
            "event": "Settled",
            "at": self._clock(),
            "outcome": outcome,
            "receipt": receipts.loggable(receipt),
            "answers": [answer],
        }
        self._service.event_log.write(ended.id, [*ended.records, last])


async def _nowhere(_message: Message) -> None:
    """A sample's own bytes go to nobody: the batch tells what came of it."""
