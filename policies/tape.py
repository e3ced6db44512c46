"""A recorded request as a tape: what each sample generated and when, where its thought was closed, what probes found.

Read from the records of an event log, to be played to another policy. What must not be here: that other policy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from suffice.policies.decisions import Abort, Complete, Open, Probe, ReadVote, Signal
from suffice.policies.errors import BadRecord
from suffice.policies.events import (
    Chunk,
    ClientGone,
    Draining,
    EndReason,
    EngineClosed,
    Paused,
    Phase,
    Priced,
    Probed,
    PromptCounted,
    Resumed,
    SegmentEnded,
    Started,
    Voted,
)
from suffice.policies.replay_log import planned_of, steps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from suffice.policies.decisions import Decision
    from suffice.policies.replay_log import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Tokens of one phase that came together, or in a run of chunks.

    Attributes:
        wait: Seconds from the piece before, or from the opening of its segment, to its first tokens.
        span: Seconds from its first tokens to its last.
        tokens: How many.
        chunks: In how many chunks they came.
        phase: Where they stand.
        confidences: As in ``Chunk``, where recorded.
        wants: What rules that see text wanted from its end on.
    """

    wait: float
    span: float
    tokens: int
    chunks: int
    phase: Phase
    confidences: tuple[float, ...] = ()
    wants: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TapedProbe:
    """A probe that was taken.

    Attributes:
        event: What it found.
        allowed: Tokens that it might have generated.
        took: Seconds.
    """

    event: Probed
    allowed: int
    took: float


@dataclass(slots=True, kw_only=True)
class Track:
    """One sample.

    Attributes:
        pieces: What it generated, in order.
        prompt: The prompt's length as upstream told it.
        probes: Probes of its thought, in order.
        closed_at: Tokens of its thought when a rule or a cap ended it; None where it ended by itself or not at all.
        reopened_at: Tokens of its thought wherever it was reopened.
        ended: Whether the sample came to its own end, so that no policy could have had more of it.
        finish: How its last segment ended.
        tail: Seconds from its last tokens to that end.
        paused_at: Tokens of its thought where its stream last paused because the model closed the thought.
        pause: Seconds from the last tokens of its thought to that pause.
        ends: How each of its segments ended, and how long that took: from an abort's decision, else from its last
            tokens, in seconds.
        answer: Class of its answer; None where it has none or none was read.
        vote: Its vote, where it voted.
        vote_took: Seconds from its end to that vote.
    """

    pieces: list[Piece] = field(default_factory=list)
    prompt: PromptCounted | None = None
    probes: list[TapedProbe] = field(default_factory=list)
    closed_at: int | None = None
    reopened_at: list[int] = field(default_factory=list)
    ended: bool = False
    finish: EndReason = EndReason.ABORTED
    tail: float = 0.0
    paused_at: int | None = None
    pause: float = 0.0
    ends: list[tuple[EndReason, float]] = field(default_factory=list)
    answer: int | None = None
    vote: Voted | None = None
    vote_took: float = 0.0

    @property
    def pauses(self) -> int:
        """Times that its stream paused because the model closed the thought."""
        return sum(reason is EndReason.THOUGHT_END for reason, _ in self.ends)

    def tokens(self, phase: Phase) -> int:
        """Tokens of one phase."""
        return sum(piece.tokens for piece in self.pieces if piece.phase is phase)


@dataclass(slots=True, kw_only=True)
class Tape:
    """One request.

    Attributes:
        planned: Its first record.
        tracks: Its samples, in launch order.
        started: Seconds from receipt to its start.
        completed: Seconds from receipt to its end.
        interrupted: The client's leaving or the server's going down, where it came before the end.
        read: Whether the samples' answers were read.
        prices: The prices in force, in the order in which they were told.
        held_up: Whether any of it waited for memory.
        receipt: Its receipt.
    """

    planned: Mapping[str, Any]
    receipt: Mapping[str, Any]
    tracks: list[Track] = field(default_factory=list)
    started: float = 0.0
    completed: float = 0.0
    interrupted: ClientGone | Draining | None = None
    read: bool = False
    prices: list[Priced] = field(default_factory=list)
    held_up: bool = False

    @property
    def tokens(self) -> int:
        """Everything that was generated for it."""
        spent = self.receipt["spent"]
        return int(sum(spent[name] for name in ("completion_tokens", "probe_tokens", "cancelled_tokens")))

    @property
    def winner(self) -> int | None:
        """Class of the answer that won the vote; None where none did."""
        winner = (self.receipt.get("votes") or {}).get("winner")
        return None if winner is None else int(winner)


def tape_of(records: Sequence[Mapping[str, Any]]) -> Tape:
    """Read a request's records, from its plan to its receipt.

    Raises:
        BadRecord: They are not a whole request, or cannot be read.
    """
    planned = planned_of(records)
    settled = records[-1]
    if settled.get("event") != "Settled" or not isinstance(settled.get("receipt"), dict):
        raise BadRecord("the request's records do not end with its receipt")
    reader = _Reader(Tape(planned=planned, receipt=settled["receipt"]))
    for step in steps(records):
        reader.take(step)
    tape = reader.tape
    try:
        answers = settled.get("answers")
        tape.read = answers is not None
        for track, answer in zip(tape.tracks, answers or (), strict=False):
            track.answer = answer
        for stop in tape.receipt["stops"]:
            track = tape.tracks[stop["sample"]]
            if stop["rule"] == "thinking_tokens" and stop["by"] == "engine":
                track.closed_at = track.tokens(Phase.THINKING)
        tape.tokens  # noqa: B018 - whether it can be read
    except (LookupError, TypeError) as error:
        raise BadRecord(f"a receipt cannot be read: {type(error).__name__}") from None
    return tape


class _Reader:
    """Follows the records of one request."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self._last: dict[int, float] = {}
        self._thought: dict[int, int] = {}
        self._left: dict[int, int] = {}
        self._spoke: dict[int, bool] = {}
        """Whether the open segment of a sample has brought a token."""
        self._closing: dict[int, tuple[int, float]] = {}
        """Tokens of the thought where a stream was closed, so that the thought, or the sample, might end; and when."""
        self._reading: dict[int, float] = {}
        """When the reading of a vote began."""
        self._probing: dict[int, tuple[float, int]] = {}

    def take(self, step: Step) -> None:
        """Take in one event and what was decided on it."""
        event = step.event
        match event:
            case Started():
                self.tape.started = event.at
            case PromptCounted():
                self._track(event.sample).prompt = event
            case Chunk():
                self._chunk(event, step.record)
            case SegmentEnded():
                self._ended(event, step)
            case Probed():
                began, allowed = self._probing.pop(event.sample, (event.at, event.tokens))
                probe = TapedProbe(event=event, allowed=allowed, took=max(0.0, event.at - began))
                self._track(event.sample).probes.append(probe)
            case EngineClosed():
                self._track(event.sample).closed_at = self._thought.get(event.sample, 0)
            case Voted():
                track = self._track(event.sample)
                track.vote = event
                track.vote_took = max(0.0, event.at - self._reading.get(event.sample, event.at))
            case Priced():
                self.tape.prices.append(event)
            case Paused() | Resumed():
                self.tape.held_up = self.tape.held_up or bool(step.decided)
            case ClientGone() | Draining() if not self.tape.completed:
                self.tape.interrupted = event
            case _:
                pass
        for decision in step.decided:
            self._decided(decision, event.at)

    def _decided(self, decision: Decision, at: float) -> None:
        match decision:
            case Open():
                self._opened(decision, at)
            case Abort():
                self._closing[decision.sample] = self._thought.get(decision.sample, 0), at
            case Signal():
                self._track(decision.sample).closed_at = self._thought.get(decision.sample, 0)
            case Probe():
                self._probing[decision.sample] = (at, decision.max_tokens)
            case ReadVote():
                self._reading[decision.sample] = at
            case Complete():
                self.tape.completed = at
            case _:
                pass

    def _track(self, sample: int) -> Track:
        while len(self.tape.tracks) <= sample:
            self.tape.tracks.append(Track())
        return self.tape.tracks[sample]

    def _opened(self, opened: Open, at: float) -> None:
        track = self._track(opened.sample)
        self._left[opened.sample] = opened.max_tokens
        if self._spoke.get(opened.sample, True):
            # A segment that was closed before its first token is part of the wait for it.
            self._last[opened.sample] = at
        self._spoke[opened.sample] = False
        if opened.think_on:
            track.reopened_at.append(self._thought.get(opened.sample, 0))

    def _chunk(self, chunk: Chunk, record: Mapping[str, Any]) -> None:
        first = record.get("first", chunk.at)
        piece = Piece(
            wait=max(0.0, first - self._last.get(chunk.sample, first)),
            span=max(0.0, chunk.at - first),
            tokens=chunk.tokens,
            chunks=record.get("chunks", 1),
            phase=chunk.phase,
            confidences=chunk.confidences,
            wants=tuple(record.get("wants", ())),
        )
        self._last[chunk.sample] = chunk.at
        self._spoke[chunk.sample] = True
        self._left[chunk.sample] = self._left.get(chunk.sample, 0) - chunk.tokens
        if chunk.phase is Phase.THINKING:
            self._thought[chunk.sample] = self._thought.get(chunk.sample, 0) + chunk.tokens
        self._track(chunk.sample).pieces.append(piece)

    def _ended(self, event: SegmentEnded, step: Step) -> None:
        track = self._track(event.sample)
        track.finish = event.reason
        track.tail = max(0.0, event.at - self._last.get(event.sample, event.at))
        if event.reason is EndReason.THOUGHT_END:
            track.paused_at, track.pause = self._thought.get(event.sample, 0), track.tail
        resumed = any(isinstance(decision, Open) and decision.close_thought for decision in step.decided)
        cut = event.reason in (EndReason.LENGTH, EndReason.ABORTED, EndReason.REPETITION)
        last = self._last.get(event.sample, event.at)
        place, closed = self._closing.pop(event.sample, (self._thought.get(event.sample, 0), last))
        track.ends.append((event.reason, max(0.0, event.at - (closed if event.reason is EndReason.ABORTED else last))))
        if resumed and cut and event.phase is Phase.THINKING:
            track.closed_at = place
        full = event.reason is EndReason.LENGTH and self._left.get(event.sample, 0) > 0
        track.ended = not resumed and (full or event.reason not in (EndReason.LENGTH, *_CUT))


_CUT = (EndReason.ABORTED, EndReason.FAILED, EndReason.THOUGHT_END)
