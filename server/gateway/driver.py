"""The driver: the only place where decisions become I/O.

One object drives one request. Upstream frames become events, events go through the chain, and what the chain returns
is carried out by one ``match``. The driver decides nothing: it does not know why a sample ends or a thought closes.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, assert_never

import orjson
from suffice.policies.decisions import Abort, Action, Complete, Finish, Open, Probe, ReadVote, SampleDone, Signal
from suffice.policies.errors import IllegalEvent
from suffice.policies.events import (
    AnyEvent,
    ClientGone,
    EndReason,
    EngineClosed,
    Priced,
    Probed,
    SegmentEnded,
    Started,
    Tick,
    Voted,
)
from suffice.server import errors
from suffice.server.gateway.dialects.base import Reading, Segment
from suffice.server.gateway.examining import Vote
from suffice.server.gateway.listening import Listener
from suffice.server.gateway.probing import ProbeReading, probe_body
from suffice.server.gateway.signals import Signals
from suffice.server.gateway.upstream import Upstream, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from suffice.policies.chain import Chain
    from suffice.policies.recording import Recorder
    from suffice.server.desk.seat import Seat
    from suffice.server.gateway.dialects.base import Answer, Call, Dialect
    from suffice.server.gateway.engine_link import EngineLink, Lease
    from suffice.server.gateway.examining import Examiner
    from suffice.server.gateway.facts import Served
    from suffice.server.gateway.judging import Judge
    from suffice.server.gateway.sink import Sink
    from suffice.server.gateway.voting import Ballots
    from suffice.server.telemetry.metrics import Metrics

_DONE = b"[DONE]"
_LOG = logging.getLogger(__name__)


class Driver:
    """Runs one request from its first upstream byte to the last sample.

    Args:
        chain: The request's machine.
        dialect: The API it came by.
        call: The checked request.
        answer: Builder of the client's answer.
        upstream: Where to generate.
        model: What will generate.
        sink: The way to the client.
        upstream_fields: Fields that the gateway sets on every upstream request (cache salt).
        sample_fields: Fields that it adds to those of samples, where the client has not set them itself.
        upstream_headers: Headers that the gateway sets on them; ``x-request-id`` gets the segment appended.
        clock: Seconds since the request was received.
        metrics: Counters.
        on_progress: Called with prompt and generated tokens whenever they grew.
        log: Where events and decisions are noted; None for nowhere.
        signals: Token-wise data that the rules live on.
        ballots: Reader of answers, where samples vote or are probed.
        examiner: Reader of votes, where that takes asking somebody.
        probe_suffix: Tokens that lead a probe to its answer.
        one_shown: Whether the client sees one sample only, whichever it will be.
        seat: The request's place at the desk, which is told what its samples do.
        link: The way to running requests inside the engine, where the plan uses it.
        engine_arguments: What goes to suffice's plugin in the engine with every sample.
    """

    def __init__(  # noqa: PLR0913 - every collaborator of a request meets here and nowhere else
        self,
        *,
        chain: Chain,
        dialect: Dialect,
        call: Call,
        answer: Answer,
        upstream: Upstream,
        model: Served,
        sink: Sink,
        upstream_fields: dict[str, Any],
        upstream_headers: dict[str, str],
        clock: Callable[[], float],
        metrics: Metrics,
        on_progress: Callable[[int, int], None],
        log: Recorder | None,
        signals: Signals | None = None,
        ballots: Ballots | None = None,
        examiner: Examiner | None = None,
        sample_fields: dict[str, Any] | None = None,
        probe_suffix: list[int] | None = None,
        one_shown: bool = False,
        seat: Seat | None = None,
        link: EngineLink | None = None,
        engine_arguments: dict[str, Any] | None = None,
    ) -> None:
        self._chain = chain
        self._dialect = dialect
        self._call = call
        self.answer = answer
        self._upstream = upstream
        self._model = model
        self._sink = sink
        self._fields = upstream_fields
        self._headers = upstream_headers
        self._clock = clock
        self._metrics = metrics
        self._on_progress = on_progress
        self._log = log
        self._signals = signals or Signals()
        self._listener = Listener(model, self._signals, ballots, counts_tokens=dialect.counts_tokens)
        self._ballots = ballots
        self._examiner = examiner
        self._sample_fields = sample_fields or {}
        self._votes: dict[int, asyncio.Task[None]] = {}
        self._probe_suffix = probe_suffix or []
        self._one_shown = one_shown
        self._seat = seat
        self._pausable = seat is not None and seat.visit.pausable
        if seat is not None:
            seat.drive(self.interrupt, clock, wants_prices=chain.listens_to(Priced))
        self._link = link
        self._engine_arguments = engine_arguments or {}
        self._leases: dict[int, Lease] = {}
        self._probes: dict[int, asyncio.Task[None]] = {}
        self._signals_out: set[asyncio.Task[None]] = set()
        self._segments: dict[int, Segment] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._complete = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.error: errors.ApiError | None = None
        self.first_token_s: float | None = None

    @property
    def uncounted_text(self) -> list[str]:
        """Text of a stream that tells no running counts."""
        return self._listener.uncounted

    async def run(self, first: AnyEvent | None = None) -> None:
        """Drive until the chain says that the request is complete. Leaves no task behind, however it ends.

        Args:
            first: What the rules are told right before the start.
        """
        try:
            self._arm_timer()
            if first is not None:
                self._observe(first)
            self._observe(Started(at=self._clock()))
            await self._complete.wait()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            tasks = [*self._tasks.values(), *self._probes.values(), *self._votes.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def judge(self) -> Judge | None:
        """Who told which answers are equal, where somebody did."""
        return None if self._examiner is None else self._examiner.judge

    def now(self) -> float:
        """Seconds since the request was received."""
        return self._clock()

    def client_gone(self) -> None:
        """The client left: end everything."""
        self._observe(ClientGone(at=self._clock()))

    def interrupt(self, event: AnyEvent) -> None:
        """Report an event from outside the streams, such as the server's shutting down."""
        self._observe(event)

    def _arm_timer(self) -> None:
        wake = self._chain.wakes_at()
        if wake is not None:
            delay = max(0.0, wake - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        # The loop's clock and ours may differ by a hair; the chain compares with the moment it asked for.
        wake = self._chain.wakes_at()
        self._observe(Tick(at=max(self._clock(), wake or 0.0)))

    def _observe(self, event: AnyEvent) -> None:
        actions = self._chain.observe(event)
        if self._log is not None:
            self._log.note(event, actions)
        for action in actions:
            self._perform(action)

    def _perform(self, action: Action) -> None:
        match action:
            case Open():
                self._open(action)
            case Probe():
                self._probe(action)
            case Signal():
                self._signal(action)
            case Abort():
                _cancel_soon(self._votes.get(action.sample) or self._tasks[action.sample])
            case ReadVote():
                self._vote(action)
            case SampleDone():
                if self._seat is not None:
                    self._seat.done(self._chain.meter.sample_used(action.sample), cut=action.finish == Finish.LENGTH)
                self._sink.write(self.answer.sample_done(self._segments[action.sample], action.finish))
                if action.sample in self._probes:
                    _cancel_soon(self._probes[action.sample])
            case Complete():
                self._complete.set()
            case _:
                assert_never(action)

    def _open(self, action: Open) -> None:
        segment = self._segments.get(action.sample)
        if segment is None:
            shown = 0 if self._one_shown else action.sample
            segment = self._segments[action.sample] = Segment(sample=action.sample, index=shown)
        segment.seen, segment.ended = 0, None
        segment.allowed = action.max_tokens
        if action.segment:
            self._listener.resumed(segment, action)
            self._sink.write(self.answer.reopened(segment, action))
        path, body = self._dialect.upstream(self._call, action, segment, self._model)
        self._signals.ask(path, body)
        if action.pause_at_close and self._model.thought is not None:
            body["stop_token_ids"] = [*body.get("stop_token_ids", ()), self._model.thought.end_id]
        arguments = self._engine_arguments
        lease = None if self._link is None or action.close_thought else self._link.lease()
        if lease is not None:
            self._leases[action.sample] = lease
            arguments = arguments | lease.arguments()
        if arguments and not action.close_thought:
            body["vllm_xargs"] = arguments
        if self._pausable:
            body["return_token_ids"] = True
        if self._seat is not None:
            self._seat.opened(action.sample, self._chain.meter.sample_used(action.sample))
        body = {"model": self._model.name, **self._sample_fields, **body, **self._fields}
        headers = self._named(f"{action.sample}-{action.segment}")
        self._metrics.upstream_requests.labels("resumed" if action.segment else "fresh").inc()
        self._tasks[action.sample] = asyncio.get_running_loop().create_task(
            self._generate(segment, path, body, headers)
        )

    def _named(self, part: str) -> dict[str, str]:
        """Headers of one upstream request, which has an id of its own."""
        return self._headers | {"x-request-id": f"{self._headers['x-request-id']}-{part}"}

    def _signal(self, action: Signal) -> None:
        lease = self._leases.get(action.sample)
        if lease is None or self._link is None:
            self._metrics.upstream_failures.labels("no_signal_slot").inc()
            return
        task = asyncio.get_running_loop().create_task(self._close_in_engine(self._link, lease))
        self._signals_out.add(task)
        task.add_done_callback(self._signals_out.discard)

    async def _close_in_engine(self, link: EngineLink, lease: Lease) -> None:
        if not await link.close_thought(lease):
            # The thought goes on to its cap, which holds whatever happens here.
            self._metrics.upstream_failures.labels("signal_not_taken").inc()

    async def _end_lease(self, sample: int) -> None:
        """Give a sample's slot back, and report what a rule of the engine's own did."""
        lease = self._leases.pop(sample, None)
        if lease is None or self._link is None:
            return
        if self._engine_arguments and self._sink.connected:
            fired = await self._link.fired(lease)
            if fired is not None and fired.rule in self._engine_arguments["suffice_rules"]:
                self._observe(EngineClosed(at=self._clock(), sample=sample, rule=fired.rule, at_token=fired.at_token))
        self._link.give_back(lease)

    def _vote(self, action: ReadVote) -> None:
        """Report a sample's vote; later, where reading it takes asking."""
        if self._examiner is not None:
            task = asyncio.get_running_loop().create_task(self._examine(self._examiner, action))
            self._votes[action.sample] = task
            return
        self._voted(action.sample, Vote(answer=None if self._ballots is None else self._ballots.vote(action.sample)))

    async def _examine(self, examiner: Examiner, action: ReadVote) -> None:
        """One vote: from asking to reporting it, exactly once. What was not told in time is not known."""
        vote = Vote()
        try:
            await examiner.examine(action.sample, vote, action.judge_tokens)
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - a vote that is never reported would hold the request for ever
            _LOG.error("a vote could not be read: %s", type(error).__name__)  # its message may hold text
        self._voted(action.sample, vote)

    def _voted(self, sample: int, vote: Vote) -> None:
        self._observe(
            Voted(
                at=self._clock(),
                sample=sample,
                answer=vote.answer,
                tokens=self._chain.meter.sample_used(sample),
                score=vote.score,
                judge_tokens=vote.judge_tokens,
            )
        )

    def _probe(self, action: Probe) -> None:
        segment, thought = self._segments[action.sample], self._model.thought
        prompt = [*segment.prompt_ids, *segment.token_ids, *(thought.close_ids if thought else ()), *self._probe_suffix]
        body = {"model": self._model.name, **probe_body(prompt, action.max_tokens), **self._fields}
        self._metrics.upstream_requests.labels("probe").inc()
        self._probes[action.sample] = asyncio.get_running_loop().create_task(self._take_probe(action, body))

    async def _take_probe(self, action: Probe, body: dict[str, Any]) -> None:
        """One probe: from opening its stream to reporting what it found, exactly once. A failed one found nothing."""
        reading = ProbeReading()
        headers = self._named(f"{action.sample}-probe-{action.at_token}")
        try:
            async with self._upstream.stream("/v1/completions", body, headers) as batches:
                async for batch in batches:
                    for event in batch:
                        if event.data != _DONE:
                            reading.take(orjson.loads(event.data))
        except (asyncio.CancelledError, errors.ApiError, KeyError, TypeError, AttributeError, IndexError, ValueError):
            reading.failed = True
        answer = None if self._ballots is None or reading.failed else self._ballots.classify(reading.text)
        self._observe(
            Probed(
                at=self._clock(),
                sample=action.sample,
                at_token=action.at_token,
                tokens=min(reading.tokens, action.max_tokens),
                answer=answer,
                confidence=None if reading.failed else reading.confidence,
                entropy=None if reading.failed else reading.entropy,
            )
        )

    async def _generate(self, segment: Segment, path: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        """One segment: from opening its stream to reporting its end, exactly once."""
        reason = EndReason.FAILED
        try:
            reason = await self._read(segment, path, body, headers)
        except asyncio.CancelledError:
            # What upstream has ended already cannot be aborted any more.
            reason = segment.ended or EndReason.ABORTED
            self._metrics.upstream_aborts.labels("decision" if self._sink.connected else "client_gone").inc()
        except errors.ApiError as error:
            self._fail(error)
        except IllegalEvent:
            self._fail(errors.UpstreamFailed("upstream generated more than it was allowed"))
        except (KeyError, TypeError, AttributeError, IndexError, ValueError):
            # A frame that is JSON but not of vLLM's shape.
            self._fail(errors.UpstreamFailed("upstream sent what cannot be understood"))
        except Exception as error:  # noqa: BLE001 - a segment that never ended would hold its reservation for ever
            _LOG.error("a segment failed: %s", type(error).__name__)  # its message may hold text
            self._fail(errors.InternalError("the gateway failed"))
        if self._seat is not None:
            self._seat.closed(segment.sample)
        await self._end_lease(segment.sample)
        phase = self._listener.phase(segment.sample)
        self._observe(SegmentEnded(at=self._clock(), sample=segment.sample, reason=reason, phase=phase))
        if self._sink.connected and not self._complete.is_set():
            await self._sink.flush()

    def _fail(self, error: errors.ApiError) -> None:
        self._metrics.upstream_failures.labels(error.error_code).inc()
        self.error = self.error or error

    async def _read(self, segment: Segment, path: str, body: dict[str, Any], headers: dict[str, str]) -> EndReason:
        reason: EndReason | None = None
        done = False
        async with self._upstream.stream(path, body, headers) as batches:
            async for batch in batches:
                for event in batch:
                    done = done or event.data == _DONE
                    if done:
                        break
                    frame = orjson.loads(event.data)
                    reading = self._dialect.read(segment, event.event, frame)
                    if reading.error is not None:
                        raise _stream_error(reading.error)
                    self._account(segment, frame, reading)
                    reason = segment.ended = self._listener.ended(reading) or reason
                    self._sink.write(self.answer.frame(segment, event.event, frame))
                if self._sink.pending:
                    await self._sink.flush()
        if reason is None:
            raise errors.UpstreamFailed("upstream ended its stream too early", retry_after_s=1)
        return reason

    def _account(self, segment: Segment, frame: dict[str, Any], reading: Reading) -> None:
        before = segment.seen
        for event in self._listener.events(segment, frame, reading, self._clock()):
            self._observe(event)
        if self._seat is not None and frame.get("metrics"):
            self._seat.timed(segment.sample, frame["metrics"])
        if segment.seen != before:
            if self.first_token_s is None:
                self.first_token_s = self._clock()
            if self._seat is not None:
                self._seat.grew(segment.sample, segment.seen - before, reading.prompt_tokens)
            self._on_progress(self._chain.prompt_tokens, self._chain.meter.used)


def _cancel_soon(task: asyncio.Task[None]) -> None:
    """Cancel a task, but not at once: one that is cancelled before its first step ends without a word."""
    asyncio.get_running_loop().call_soon(task.cancel)


def _stream_error(error: dict[str, Any]) -> errors.ApiError:
    """An error event of upstream's as the error it would have been with a status of its own."""
    code = error.get("code")
    status = code if isinstance(code, int) else 502
    return refusal(status, orjson.dumps({"error": error}))
