"""The driver: the only place where decisions become I/O.

One object drives one request. Upstream frames become events, events go through the chain, and what the chain returns
is carried out by one ``match``. The driver decides nothing: it does not know why a sample ends or a thought closes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, assert_never

import orjson
from suffice.policies.decisions import Abort, Action, Complete, Open, SampleDone
from suffice.policies.errors import IllegalEvent
from suffice.policies.events import (
    AnyEvent,
    Chunk,
    ClientGone,
    EndReason,
    Phase,
    PromptCounted,
    SegmentEnded,
    Started,
    Tick,
)
from suffice.policies.thought import ThoughtTracker
from suffice.server import errors
from suffice.server.gateway.dialects.base import Reading, Segment
from suffice.server.gateway.upstream import Upstream, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from suffice.policies.chain import Chain
    from suffice.server.gateway.dialects.base import Answer, Call, Dialect
    from suffice.server.gateway.facts import Served
    from suffice.server.gateway.sink import Sink
    from suffice.server.telemetry.metrics import Metrics

_DONE = b"[DONE]"


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
        upstream_headers: Headers that the gateway sets on them; ``x-request-id`` gets the segment appended.
        clock: Seconds since the request was received.
        metrics: Counters.
        on_progress: Called with prompt and generated tokens whenever they grew.
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
        log: list[dict[str, Any]] | None,
        log_chunks: bool,
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
        self._log_chunks = log_chunks
        self._segments: dict[int, Segment] = {}
        self._trackers: dict[int, ThoughtTracker] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._complete = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.error: errors.ApiError | None = None
        self.first_token_s: float | None = None
        self.uncounted_text: list[str] = []

    async def run(self) -> None:
        """Drive until the chain says that the request is complete. Leaves no task behind, however it ends."""
        try:
            self._arm_timer()
            self._observe(Started(at=self._clock()))
            await self._complete.wait()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

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
        if self._log is not None and (self._log_chunks or not isinstance(event, Chunk)):
            self._log.append(event.to_loggable())
            self._log.extend(action.to_loggable() for action in actions)
        for action in actions:
            self._perform(action)

    def _perform(self, action: Action) -> None:
        match action:
            case Open():
                self._open(action)
            case Abort():
                self._tasks[action.sample].cancel()
            case SampleDone():
                self._sink.write(self.answer.sample_done(self._segments[action.sample], action.finish))
            case Complete():
                self._complete.set()
            case _:
                assert_never(action)

    def _open(self, action: Open) -> None:
        segment = self._segments.setdefault(action.sample, Segment(sample=action.sample))
        segment.seen = 0
        if action.segment:
            segment.resumed = True
            self._sink.write(self.answer.reopened(segment, closed_thought=action.close_thought))
        tracker = self._trackers.get(action.sample)
        if tracker is not None and action.close_thought:
            tracker.phase = Phase.ANSWER
        path, body = self._dialect.upstream(self._call, action, segment, self._model)
        body = {"model": self._model.name, **body, **self._fields}
        headers = self._headers | {"x-request-id": f"{self._headers['x-request-id']}-{action.sample}-{action.segment}"}
        self._metrics.upstream_requests.labels("resumed" if action.segment else "fresh").inc()
        self._tasks[action.sample] = asyncio.get_running_loop().create_task(
            self._generate(segment, path, body, headers)
        )

    async def _generate(self, segment: Segment, path: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        """One segment: from opening its stream to reporting its end, exactly once."""
        reason = EndReason.FAILED
        try:
            reason = await self._read(segment, path, body, headers)
        except asyncio.CancelledError:
            reason = EndReason.ABORTED
            self._metrics.upstream_aborts.labels("decision" if self._sink.connected else "client_gone").inc()
        except errors.ApiError as error:
            self._fail(error)
        except IllegalEvent:
            self._fail(errors.UpstreamFailed("upstream generated more than it was allowed"))
        except (KeyError, TypeError, AttributeError, IndexError, ValueError):
            # A frame that is JSON but not of vLLM's shape.
            self._fail(errors.UpstreamFailed("upstream sent what cannot be understood"))
        tracker = self._trackers.get(segment.sample)
        phase = Phase.ANSWER if tracker is None else tracker.phase
        self._observe(SegmentEnded(at=self._clock(), sample=segment.sample, reason=reason, phase=phase))
        if self._sink.connected and not self._complete.is_set():
            await self._sink.flush()

    def _fail(self, error: errors.ApiError) -> None:
        self._metrics.upstream_failures.labels(error.error_code).inc()
        self.error = self.error or error

    async def _read(self, segment: Segment, path: str, body: dict[str, Any], headers: dict[str, str]) -> EndReason:
        reason: EndReason | None = None
        async with self._upstream.stream(path, body, headers) as batches:
            async for batch in batches:
                for event in batch:
                    if event.data == _DONE:
                        break
                    frame = orjson.loads(event.data)
                    reading = self._dialect.read(segment, event.event, frame)
                    if reading.error is not None:
                        raise _stream_error(reading.error)
                    self._account(segment, frame, reading)
                    reason = reading.ended or reason
                    self._sink.write(self.answer.frame(segment, event.event, frame))
                if self._sink.pending:
                    await self._sink.flush()
        if reason is None:
            raise errors.UpstreamFailed("upstream ended its stream too early", retry_after_s=1)
        return reason

    def _account(self, segment: Segment, frame: dict[str, Any], reading: Reading) -> None:
        """Turn what a frame says into events."""
        sample = segment.sample
        if reading.prompt_tokens is not None and not segment.resumed and not segment.prompt_counted:
            segment.prompt_counted = True
            self._read_prompt(segment, frame)
            self._observe(PromptCounted(at=self._clock(), sample=sample, prompt_tokens=reading.prompt_tokens))
        if reading.total is None or reading.total == segment.seen:
            return
        new = reading.total - segment.seen
        segment.seen = reading.total
        at = self._clock()
        if self.first_token_s is None:
            self.first_token_s = at
        tracker = self._tracker(sample)
        if reading.token_ids and tracker is not None:
            segment.token_ids += reading.token_ids
            thinking, _ = tracker.read(reading.token_ids)
            thinking = min(thinking, new)
            if thinking:
                self._observe(Chunk(at=at, sample=sample, tokens=thinking, phase=Phase.THINKING, text=reading.text))
            if new > thinking:
                self._observe(Chunk(at=at, sample=sample, tokens=new - thinking, phase=Phase.ANSWER, text=reading.text))
        else:
            phase = reading.phase or (Phase.ANSWER if tracker is None else tracker.phase)
            if tracker is not None:
                tracker.phase = phase
            self._observe(Chunk(at=at, sample=sample, tokens=new, phase=phase, text=reading.text))
        if not self._dialect.counts_tokens:
            self.uncounted_text.append(reading.text)
        self._on_progress(self._chain.prompt_tokens, self._chain.meter.used)

    def _tracker(self, sample: int) -> ThoughtTracker | None:
        thought = self._model.thought
        if thought is None:
            return None
        tracker = self._trackers.get(sample)
        if tracker is None:
            tracker = self._trackers[sample] = ThoughtTracker(start=thought.start_id, end=thought.end_id)
        return tracker

    def _read_prompt(self, segment: Segment, frame: dict[str, Any]) -> None:
        """Keep the prompt's tokens where upstream tells them, and see whether it left a thought open."""
        tracker = self._tracker(segment.sample)
        if tracker is None:
            return
        choices = frame.get("choices") or [{}]
        ids = frame.get("prompt_token_ids") or choices[0].get("prompt_token_ids")
        if ids:
            segment.prompt_ids = ids
            tracker.read_prompt(ids)


def _stream_error(error: dict[str, Any]) -> errors.ApiError:
    """An error event of upstream's as the error it would have been with a status of its own."""
    code = error.get("code")
    status = code if isinstance(code, int) else 502
    return refusal(status, orjson.dumps({"error": error}))
