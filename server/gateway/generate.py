"""One generating request, from its bytes to its settlement: receive, plan, reserve, admit, drive, settle, record."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
import uuid
from typing import TYPE_CHECKING, Any

from suffice.policies.chain import Chain
from suffice.policies.errors import InvalidBudget
from suffice.policies.plan import ThinkingCap
from suffice.policies.recording import Recorder, watched
from suffice.server.errors import (
    ApiError,
    ClientLeft,
    DeadlineExceeded,
    InvalidRequest,
)
from suffice.server.gateway import hindsight, sse
from suffice.server.gateway import receipt as receipts
from suffice.server.gateway.answering import answered, over_budget
from suffice.server.gateway.driver import Driver
from suffice.server.gateway.examining import examiner_for
from suffice.server.gateway.intake import parse_object, read_body
from suffice.server.gateway.planned import planned
from suffice.server.gateway.planner import find_model, plan_request, preset_name, prompt_estimate
from suffice.server.gateway.presenting import WinnerAnswer
from suffice.server.gateway.rulesets import make_rules
from suffice.server.gateway.seating import memory_bounded, visit_of
from suffice.server.gateway.service import PRIORITIES
from suffice.server.gateway.signals import Signals
from suffice.server.gateway.sink import CLIENT_LEFT, Sink
from suffice.server.gateway.trimming import trim_context
from suffice.server.gateway.voting import Ballots
from suffice.server.gateway.wishes import answer_kind, wishes_of
from suffice.server.ledger.amounts import Amount, Denied

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send
    from suffice.policies.plan import Plan
    from suffice.policies.stopping.lengths import RouteLengths
    from suffice.server.desk.seat import Seat
    from suffice.server.gateway.dialects.base import Answer, Call, Dialect
    from suffice.server.gateway.facts import Served
    from suffice.server.gateway.rulesets import RuleSet
    from suffice.server.gateway.service import Service
    from suffice.server.gateway.wishes import Wishes
    from suffice.server.ledger.amounts import Account
    from suffice.server.ledger.keys import KeyRecord


_OK = 200
KEEP_ALIVE_S = 5.0
"""Seconds between comments on a stream that has nothing to show yet."""
_ROOMY = 1024
"""Tokens of room beside the estimated prompt that make an exact count of it not worth a call."""


class GenerateEndpoint:
    """An ASGI endpoint for one dialect."""

    def __init__(self, service: Service, dialect: Dialect) -> None:
        self._service = service
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every error becomes an error object, and nothing reserved is lost."""
        request = _Request(self._service, self._dialect, scope, receive, send)
        await answered(request, self._dialect.name, self._service.metrics)


class _Request:
    """The state of one request on its way through."""

    def __init__(self, service: Service, dialect: Dialect, scope: Scope, receive: Receive, send: Send) -> None:
        self._service = service
        self._dialect = dialect
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._began = time.monotonic()
        self._id = uuid.uuid4().hex
        self._sink = Sink(send, {"x-request-id": self._id})
        self._answer: Answer | None = None
        self._held: int | None = None
        self.status = 200
        self.model_label = "none"

    def elapsed(self) -> float:
        """Seconds since the request was received; to a microsecond, so that a log tells it as it was decided by."""
        return round(time.monotonic() - self._began, 6)

    async def answer(self) -> None:
        """Do everything.

        Raises:
            ApiError: The request was refused, or failed before anything was sent.
        """
        service = self._service
        service.admit()
        key = service.authenticate(self._headers)
        config = service.config
        raw = await read_body(
            self._receive, max_bytes=config.server.max_body_bytes, timeout_s=config.server.body_timeout_s
        )
        call = self._dialect.parse(parse_object(raw), images=config.server.allow_images)
        model = find_model(service.served, call.model)
        self.model_label = model.name
        header = self._headers.get(b"x-suffice-preset")
        preset = preset_name(config, call, None if header is None else header.decode("latin-1"))
        wishes = self._wishes(call, preset, model)
        call, trimming = await trim_context(service, self._dialect.name, call, key, model, preset, wishes)
        plan = await self._plan(call, key, model, preset, wishes)
        accounts = service.keys.accounts(key)
        worst = service.desk.worst_block_seconds(plan.prompt_tokens, plan.sample_tokens, plan.most_samples)
        plan = memory_bounded(plan, accounts, worst)
        lengths = service.experience.lengths(key.id, self._dialect.name, model.name)
        ruled = make_rules(wishes, plan, lengths)
        suffix = await service.suffix(model, wishes) if plan.probe_tokens else []
        outcome = "failed"
        # Rules that live on text are watched, so that the log tells what they wanted and not what they saw.
        chain = Chain(plan, ruled.rules if service.event_log is None else watched(ruled.rules))
        ballots = _ballots(ruled, model)
        begin = planned(config, self._dialect, call, key, model, preset, wishes, plan, ruled.rules, at=self.elapsed())
        begin |= {"policy_version": service.version}
        seat = service.desk.seat(visit_of(self._dialect, call, key, plan, self._id, self._began))
        driver, log = self._driver(call, model, chain, wishes, ruled, ballots, suffix, seat)
        # Nothing may stand between the reservation and the block that settles it.
        await self._reserve(accounts, plan)
        service.metrics.overhead.labels(self._dialect.name).observe(self.elapsed())
        try:
            outcome = await self._drive(driver, seat, stream=call.stream)
            estimated = await self._estimate(driver, call, chain, model)
        finally:
            # Counted here, so that what was generated is charged however the driving ended.
            used = Amount(
                tokens=chain.prompt_tokens + chain.meter.used,
                requests=1 if chain.samples else 0,  # one that was refused in the queue asked for nothing
                kv_block_ms=round(seat.block_seconds * 1000),
            )
            # Shielded: the account is settled once whatever happens to this task meanwhile.
            await asyncio.shield(self._settle(used, outcome))
        self._choose(ruled)
        audit = self._look_back(chain, ruled, wishes, ballots, model, lengths)
        receipt = receipts.build(
            chain,
            draw=ruled.draw,
            ballots=ballots,
            request_id=self._id,
            preset=preset,
            version=service.version,
            wall_s=self.elapsed(),
            estimated=estimated,
            audit=audit,
            judge=driver.judge,
            queue_s=seat.queue_s,
            block_seconds=seat.block_seconds,
            context=trimming,
        )
        self._record(chain, driver)
        self._log(begin, log, receipt, outcome, ballots)
        await self._finish(driver, call, chain, receipt)

    async def refuse(self, error: ApiError) -> None:
        """Send an error, in the form of the API that was asked."""
        self.status = error.status
        self._service.metrics.refused.labels(error.error_code).inc()
        body = error.anthropic_body() if self._dialect.name == "messages" else error.body()
        if not self._sink.started:
            await self._sink.whole(error.status, body, error.headers())
        elif self._answer is not None and self._sink.connected:
            await self._sink.end_stream(self._answer.broken(error.body()))

    def _wishes(self, call: Call, preset: str, model: Served) -> Wishes:
        config = self._service.config
        try:
            return wishes_of(
                config,
                call,
                preset,
                frozenset(model.plugin.rules),
                prior_of=functools.partial(self._service.experience.prior, model.name),
                audited=hindsight.drawn_for_audit(self._id, config.policies.audit_share),
            )
        except InvalidBudget as error:
            raise InvalidRequest(str(error), param=error.param) from None

    async def _plan(self, call: Call, key: KeyRecord, model: Served, preset: str, wishes: Wishes) -> Plan:
        """Plan by the upper estimate of the prompt; where the context is too tight for it, by the exact length."""
        config = self._service.config
        counting = self._dialect.counting(call)
        exact = None
        named = max((limits.sample_tokens or 0 for _, limits in call.sources), default=0)
        tight = model.context is not None and prompt_estimate(call, model) + (named or _ROOMY) > model.context
        # A named length is not fitted to the context; but a thought within it is.
        if tight and counting is not None and not (call.explicit_max and model.thought is None):
            status, answer = await self._service.upstream.try_json("/tokenize", {"model": model.name, **counting})
            exact = answer.get("count") if status == _OK else None
        return plan_request(config, self._dialect, call, key, model, preset, wishes, prompt_tokens=exact)

    def _choose(self, ruled: RuleSet) -> None:
        """Name the sample that the client sees, where it sees only one."""
        if ruled.draw is not None and isinstance(self._answer, WinnerAnswer):
            self._answer.choose(ruled.draw.winner or 0)

    async def _reserve(self, accounts: tuple[Account, ...], plan: Plan) -> None:
        """Reserve the worst case.

        Raises:
            BudgetExhausted: What is spent leaves no room.
            RateLimited: Requests in flight hold the room.
        """
        memory = plan.limits.get("kv_block_seconds")
        amount = Amount(
            tokens=plan.worst_case_tokens, requests=1, kv_block_ms=0 if memory is None else memory.value * 1000
        )
        with self._service.metrics.ledger_wait.labels("reserve").time():
            granted = await self._service.ledger.reserve(request_id=self._id, accounts=accounts, amount=amount)
        if not isinstance(granted, Denied):
            self._held = plan.total_tokens if plan.prompts == 1 else None
            self._service.metrics.ledger_reserves.labels("granted").inc()
            self._service.metrics.reserved.inc(amount.tokens)
            return
        self._service.metrics.ledger_reserves.labels("denied").inc()
        raise over_budget(granted, "request")

    def _driver(
        self,
        call: Call,
        model: Served,
        chain: Chain,
        wishes: Wishes,
        ruled: RuleSet,
        ballots: Ballots | None,
        suffix: list[int],
        seat: Seat,
    ) -> tuple[Driver, Recorder | None]:
        service = self._service
        headers, fields = {"x-request-id": self._id}, {"cache_salt": service.cache_salt(seat.visit.tenant)}
        priority = PRIORITIES[call.field.service_class]
        if model.priority and priority:
            headers["x-vllm-priority"] = str(priority)
        log = None
        if service.event_log is not None:
            log = Recorder(chain.rules, each_chunk=service.config.telemetry.event_log_chunks)
        created = int(time.time())
        build = functools.partial(self._dialect.answer, call, self._id, created, model)
        self._answer = WinnerAnswer(build) if wishes.one_shown else build()
        driver = Driver(
            chain=chain,
            dialect=self._dialect,
            call=call,
            answer=self._answer,
            upstream=service.upstream,
            model=model,
            sink=self._sink,
            upstream_fields=fields,
            upstream_headers=headers,
            clock=self.elapsed,
            metrics=service.metrics,
            on_progress=self._progress,
            log=log,
            signals=Signals.of(ruled.needs, model.thought, ruled.top),
            ballots=ballots,
            examiner=examiner_for(service, call, wishes, ballots, fields, headers),
            sample_fields=ruled.sample_fields(chain.plan, tells_tokens=self._dialect.facts(call).tells_tokens),
            probe_suffix=suffix,
            one_shown=wishes.one_shown,
            seat=seat,
            link=service.link if chain.plan.close_by is ThinkingCap.ENGINE or wishes.in_engine else None,
            engine_arguments=wishes.engine_arguments(_step_ids(model)) if model.plugin.rules else None,
        )
        return driver, log

    def _look_back(
        self,
        chain: Chain,
        ruled: RuleSet,
        wishes: Wishes,
        ballots: Ballots | None,
        model: Served,
        lengths: RouteLengths,
    ) -> dict[str, Any] | None:
        """Learn from the request; what its audit found, where it was audited."""
        experience = self._service.experience
        hindsight.learn_lengths(experience, lengths, chain)
        hindsight.learn_vote(experience, model.name, answer_kind(wishes), ruled, chain)
        return hindsight.audit(experience, ruled, chain, ballots, self._service.metrics)

    def _progress(self, prompt_tokens: int, generated: int) -> None:
        if self._held is not None and prompt_tokens:
            # The prompt's length was estimated from above; now that it is known, the difference is given back.
            self._service.ledger.amend(self._id, prompt_tokens + self._held)
            self._held = None
        self._service.ledger.checkpoint(self._id, prompt_tokens + generated)

    async def _drive(self, driver: Driver, seat: Seat, *, stream: bool) -> str:
        """Wait for a place, then drive until the request is complete, watching the client's connection all along.

        Raises:
            ApiError: The desk refused the request.
            ClientLeft: The client left while it waited.
        """
        loop = asyncio.get_running_loop()
        beside = [loop.create_task(self._watch(driver, seat))]
        try:
            await seat.wait()
            if not self._sink.connected:
                raise ClientLeft("queued")
            self._service.drivers.add(driver)
            if stream and isinstance(self._answer, WinnerAnswer):
                beside.append(loop.create_task(self._keep_alive()))
            await driver.run(self._service.keeper.prices_for(seat))
        finally:
            seat.leave()
            self._service.drivers.discard(driver)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        if not self._sink.connected:
            return "client_gone"
        return "failed" if driver.error is not None else "completed"

    async def _keep_alive(self) -> None:
        """Comments on a stream whose samples are still voting, so that nobody between us and the client gives it up."""
        while True:
            await asyncio.sleep(KEEP_ALIVE_S)
            self._sink.write(sse.KEEP_ALIVE)
            await self._sink.flush()

    async def _watch(self, driver: Driver, seat: Seat) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._sink.connected = False
                if not seat.running:
                    seat.give_up()
                    return
                phase = "waiting" if driver.first_token_s is None else "streaming"
                self._service.metrics.client_disconnects.labels(phase).inc()
                driver.client_gone()
                return

    async def _estimate(self, driver: Driver, call: Call, chain: Chain, model: Served) -> bool:
        """Count the text of a cut stream whose API tells no running counts.

        Each delta was booked as one token, which is the least it can be. Upstream's tokeniser tells better; where it
        cannot be asked, what was booked stands. A prompt that the stream did not tell of is counted the same way, or
        charged by its upper estimate.
        """
        if self._dialect.counts_tokens or not (chain.failed or chain.cancelled_tokens) or not driver.uncounted_text:
            return False
        text = "".join(driver.uncounted_text)
        body = {"model": model.name, "prompt": text, "add_special_tokens": False}
        if not chain.prompt_tokens:
            chain.assume_prompt(await self._prompt_length(call, chain, model))
        try:
            status, answer = await self._service.upstream.try_json("/tokenize", body)
        except ApiError:
            return True
        count = answer.get("count")
        if status == _OK and isinstance(count, int):
            driver.uncounted_text.clear()
            chain.meter.charge_estimate(count, chain.plan.total_tokens)
        return True

    async def _prompt_length(self, call: Call, chain: Chain, model: Served) -> int:
        """The prompt's length by upstream's tokeniser, or its upper estimate where that cannot be asked."""
        counting = self._dialect.counting(call)
        if counting is not None:
            with contextlib.suppress(ApiError):
                status, answer = await self._service.upstream.try_json("/tokenize", {"model": model.name, **counting})
                count = answer.get("count")
                if status == _OK and isinstance(count, int):
                    return count
        return chain.plan.prompt_tokens

    async def _settle(self, used: Amount, outcome: str) -> None:
        with self._service.metrics.ledger_wait.labels("settle").time():
            first = await self._service.ledger.settle(self._id, used, outcome)
        self._service.metrics.ledger_settles.labels("first" if first else "duplicate").inc()

    def _record(self, chain: Chain, driver: Driver) -> None:
        metrics = self._service.metrics
        metrics.tokens.labels("prompt").inc(chain.prompt_tokens)
        metrics.tokens.labels("completion").inc(chain.meter.used)
        metrics.tokens.labels("thinking").inc(sum(chain.thinking_tokens(i) for i in range(chain.samples)))
        metrics.tokens.labels("cancelled").inc(chain.cancelled_tokens)
        metrics.overshoot.inc(max(0, chain.meter.used - chain.plan.total_tokens))
        for stop in chain.stops:
            metrics.stops.labels(stop.rule, stop.by).inc()
        for item in chain.plan.not_applied:
            metrics.not_applied.labels(item.rule).inc()
        if driver.first_token_s is not None:
            metrics.first_token.labels(self._dialect.name).observe(driver.first_token_s)

    def _log(
        self,
        begin: dict[str, Any],
        log: Recorder | None,
        receipt: dict[str, Any],
        outcome: str,
        ballots: Ballots | None,
    ) -> None:
        """Write the request's lines: what was planned, what happened and was decided, and what came of it."""
        if self._service.event_log is None or log is None:
            return
        log.flush()
        last = {"event": "Settled", "at": self.elapsed(), "outcome": outcome, "receipt": receipts.loggable(receipt)}
        if ballots is not None:
            # By number, so that replay can compare answers without seeing any.
            last["answers"] = [ballots.vote(sample) for sample in range(receipt["spent"]["samples"])]
        self._service.event_log.write(self._id, [begin, *log.records, last])

    async def _finish(self, driver: Driver, call: Call, chain: Chain, receipt: dict[str, Any]) -> None:
        """Send what ends the answer.

        Raises:
            ApiError: Nothing was sent yet and there is nothing to answer with.
        """
        if not self._sink.connected:
            self.status = CLIENT_LEFT
            return
        error = driver.error
        if error is None and chain.meter.used == 0 and any(stop.rule == "deadline_ms" for stop in chain.stops):
            error = DeadlineExceeded("the deadline passed before the first token", param="suffice.budget.deadline_ms")
        answer = driver.answer
        if error is not None:
            if not self._sink.started:
                raise error
            self.status = error.status
            await self._sink.end_stream(answer.broken(error.body()))
        elif not call.stream:
            await self._sink.whole(200, answer.whole(receipt, receipts.usage(chain)))
        else:
            await self._sink.end_stream(answer.last(receipt, receipts.usage(chain)))


def _ballots(ruled: RuleSet, model: Served) -> Ballots | None:
    """Where answers are read, if a rule compares any."""
    if ruled.reader is None:
        return None
    thought = model.thought
    return Ballots(ruled.reader, thought.close_text if thought is not None and thought.visible else None)


def _step_ids(model: Served) -> list[int]:
    return [] if model.thought is None else model.thought.step_ids
