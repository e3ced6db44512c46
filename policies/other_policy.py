"""What another policy would have done with a recorded request, as far as the record can tell.

A fresh chain with the other policy's plan and rules is driven by a tape in the driver's and upstream's place, in
recorded time: tokens come when they came, beside each other as they did. What was recorded suffices for fewer samples,
for thoughts that end earlier, at a probe that was taken, and for lower limits. Where the policy asks for what never
happened the request is ``Undecidable``: nothing is made up. The same holds of a request that waited for memory,
since how long another would have waited is not in its record, and of a decision at prices that nobody told any more.

What a thought that is closed earlier is answered with is what the last probe at or before that place found, and the
answer is taken to be as long as the recorded one. What must not be here: files, and what the policy is.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from suffice.policies.chain import Chain
from suffice.policies.decisions import Abort, Action, Complete, Open, Probe, ReadVote, SampleDone, Signal
from suffice.policies.errors import IllegalEvent, PolicyError
from suffice.policies.events import Chunk, EndReason, Phase, Priced, Probed, SegmentEnded, Started, Tick, Voted
from suffice.policies.recording import Recalled
from suffice.policies.sampling.draw import Draw

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from suffice.policies.events import AnyEvent
    from suffice.policies.plan import Plan
    from suffice.policies.rule import Rule
    from suffice.policies.tape import Piece, Tape, TapedProbe, Track


class Undecidable(PolicyError):
    """The record does not tell what would have happened; the message says why."""

    status_hint = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What would have come of a request.

    Attributes:
        tokens: Everything that would have been generated for it.
        latency: Seconds from receipt to its end.
        changed: Whether the client's answer would have been another; None where the record does not tell.
    """

    tokens: int
    latency: float
    changed: bool | None


def as_it_was(tape: Tape) -> Verdict:
    """What came of a request."""
    return Verdict(tokens=tape.tokens, latency=tape.completed, changed=False)


def play(tape: Tape, plan: Plan, rules: Sequence[Rule]) -> Verdict:
    """Play a tape to another plan and its rules, which are fresh.

    Raises:
        Undecidable: The policy wants what was not recorded.
    """
    player = _Player(tape, plan, rules)
    try:
        return player.run()
    except IllegalEvent as error:
        raise Undecidable(f"the record does not fit: {error}") from None


@dataclass(slots=True)
class _Sample:
    """Where one sample stands on its track."""

    track: Track
    launched: float
    piece: int = 0
    within: int = 0
    """Tokens of that piece that were played."""
    thought: int = 0
    answered: int = 0
    left: int = 0
    """Tokens of the open segment's allowance."""
    cap: int | None = None
    """Tokens of the thought at which the engine closes it."""
    pauses: bool = False
    signalled: bool = False
    """The engine was told to close the thought where it was told so live."""
    closing: bool = False
    """The thought is over; what comes next is the answer."""
    asking: TapedProbe | None = None
    """A probe of it that is out."""
    asked: float = 0.0
    """When that was sent."""
    reopens: int = 0
    """Times that its thought was reopened."""
    closed_at: int | None = None
    """Tokens of the thought when it was closed before its recorded end."""
    waiting: float = 0.0
    spoke: bool = False
    """Whether the open segment has brought a token."""
    last: float = 0.0
    """When its last token came, or the open segment was opened."""
    segment: int = 0
    aborting: bool = False
    """Its stream is being closed: nothing more comes of the open segment."""
    vote: Voted | None = None
    """Its vote, while that is being read."""
    cut: bool = False
    turn: int = 0
    """Counts up whenever what was to come is called off."""


class _Player:
    """Plays one tape."""

    def __init__(self, tape: Tape, plan: Plan, rules: Sequence[Rule]) -> None:
        self._tape = tape
        self._plan = plan
        self._rules = rules
        self._chain = Chain(plan, rules)
        self._draw = next((rule for rule in rules if isinstance(rule, Draw)), None)
        self._recalled = {rule.name: rule for rule in rules if isinstance(rule, Recalled)}
        self._whole = not any(Chunk in rule.listens for rule in rules)
        self._samples: dict[int, _Sample] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._now = 0.0
        self._end: float | None = None

    def run(self) -> Verdict:
        """Play to the end."""
        if self._tape.held_up:
            raise Undecidable("the request waited for memory; how long another would have is not told")
        for priced in self._tape.prices:
            self._tell(priced)
        self._later(self._tape.started, lambda: self._see(Started(at=self._now)))
        wake = self._chain.wakes_at()
        if wake is not None:
            self._later(max(wake, self._tape.started), lambda: self._see(Tick(at=self._now)))
        gone = self._tape.interrupted
        if gone is not None:
            self._later(gone.at, lambda: self._see(gone))
        # Never empty before the end: of every open sample something is to come, if only that its tape is over.
        while self._end is None:
            self._now, _, act = heapq.heappop(self._queue)
            act()
        return Verdict(tokens=self._chain.meter.used, latency=self._end, changed=self._changed())

    def _tell(self, priced: Priced) -> None:
        """Have the other policy hear of prices when the recorded one did."""
        self._later(priced.at, lambda: self._see(priced))

    def _later(self, at: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (at, self._count, act))

    def _see(self, event: AnyEvent) -> None:
        told = not self._tape.prices or self._now <= self._tape.completed + _HAIR_S
        if isinstance(event, Voted | Probed) and not told and self._chain.listens_to(Priced):
            raise Undecidable("the prices of a time after the recorded end are not told")
        for action in self._chain.observe(event):
            self._perform(action)

    def _perform(self, action: Action) -> None:
        match action:
            case Open():
                self._open(action)
            case Probe():
                self._probe(action)
            case Signal():
                self._signal(self._samples[action.sample])
            case Abort():
                self._abort(action.sample)
            case ReadVote():
                self._vote(action)
            case SampleDone():
                self._give_up(action.sample)
            case Complete():
                self._end = self._now
            case _:
                assert_never(action)

    def _open(self, opened: Open) -> None:
        if opened.segment == 0:
            if opened.sample >= len(self._tape.tracks):
                raise Undecidable("more samples than were recorded")
            track = self._tape.tracks[opened.sample]
            sample = self._samples[opened.sample] = _Sample(track=track, launched=self._now, waiting=self._now)
            if track.prompt is not None:
                self._see(replace(track.prompt, at=self._now))
        sample = self._samples[opened.sample]
        sample.segment = opened.segment
        sample.last = self._now
        sample.aborting = False
        sample.left = opened.max_tokens
        sample.pauses = opened.pause_at_close
        before = 0 if sample.track.prompt is None else sample.track.prompt.thinking or 0
        sample.cap = None if opened.thinking_tokens is None else max(0, opened.thinking_tokens - before)
        sample.cut = False
        if opened.close_thought:
            self._close(sample)
        elif opened.think_on:
            if not self._reopened_here(sample):
                raise Undecidable("a thought that would have gone on was not recorded")
            sample.reopens += 1
        self._next(opened.sample)

    def _signal(self, sample: _Sample) -> None:
        """Have the engine close: where it did so live, with the lag it had; elsewhere at once."""
        if sample.thought == sample.track.closed_at:
            sample.signalled = True
        else:
            self._close(sample)

    def _close(self, sample: _Sample) -> None:
        """The thought is over: skip what is left of it."""
        track = sample.track
        sample.closing = True
        whole = track.tokens(Phase.THINKING)
        if sample.thought < whole and sample.thought != track.closed_at:
            sample.closed_at = sample.thought
        if sample.thought < whole and not track.tokens(Phase.ANSWER):
            raise Undecidable("how long an answer would have been was not recorded")
        while sample.piece < len(track.pieces) and track.pieces[sample.piece].phase is Phase.THINKING:
            sample.piece += 1
            sample.within = 0

    def _next(self, index: int) -> None:
        """Arrange for what the sample does next."""
        sample = self._samples[index]
        if sample.aborting:
            return
        sample.turn += 1
        turn = sample.turn
        at, act = self._upcoming(index, sample)
        self._later(max(at, self._now), lambda: act() if sample.turn == turn else None)

    def _upcoming(self, index: int, sample: _Sample) -> tuple[float, Callable[[], None]]:
        track = sample.track
        piece = track.pieces[sample.piece] if sample.piece < len(track.pieces) else None
        thinking = piece is not None and piece.phase is Phase.THINKING
        whole = track.tokens(Phase.THINKING)
        paused = track.paused_at == sample.thought and sample.reopens < track.pauses
        if not sample.closing and sample.thought == whole and (whole > 0 or paused):
            # The recorded thought is over here, unless its sample was cut in it.
            closed = track.closed_at is None or sample.signalled or self._closes_here(sample)
            if sample.left > 0 and not closed:
                if sample.asking:
                    # What closed it may be a probe that is still out.
                    return self._now, lambda: None
                raise Undecidable("a thought that would have gone on was not recorded")
            open_end = track.closed_at is None and sample.left > 0 and sample.pauses
            if open_end and (paused or piece is not None):
                return self._pause_of(sample), lambda: self._ended(index, EndReason.THOUGHT_END)
            sample.closing = piece is not None and closed
        elif thinking and self._reopened_here(sample):
            if not sample.pauses:
                raise Undecidable("how a thought would have been answered was not recorded")
            return self._pause_of(sample), lambda: self._ended(index, EndReason.THOUGHT_END)
        if thinking and self._closes_here(sample):
            self._close(sample)
            piece = track.pieces[sample.piece] if sample.piece < len(track.pieces) else None
        # The allowance ended with the thought, and an answer without tokens came in a segment of its own.
        went_on = not sample.closing and sample.answered == 0 and sample.segment + 1 < len(track.ends)
        if sample.left == 0 and (piece is not None or went_on):
            lag = self._lag(sample, EndReason.LENGTH)
            return sample.last + lag, lambda: self._ended(index, EndReason.LENGTH)
        if piece is None:
            if not track.ended and sample.left > 0:
                # It ran on when it was cut; something may still cut it here by then.
                return sample.waiting + track.tail + _HAIR_S, self._at_a_loss
            reason = track.finish if track.ended else EndReason.LENGTH
            return sample.waiting + track.tail, lambda: self._ended(index, reason)
        count = self._portion(sample, piece)
        gone = sample.within + count
        pace = piece.span * (gone - piece.tokens / piece.chunks) / max(1.0, piece.tokens - piece.tokens / piece.chunks)
        begun = sample.waiting + piece.wait
        return begun + min(piece.span, max(0.0, pace)), lambda: self._chunk(index, piece, count, begun)

    @staticmethod
    def _lag(sample: _Sample, reason: EndReason, otherwise: float = 0.0) -> float:
        """Seconds that the open segment's end takes, where that segment ended so live."""
        ends = sample.track.ends
        if sample.segment < len(ends) and ends[sample.segment][0] is reason:
            return ends[sample.segment][1]
        return otherwise

    def _pause_of(self, sample: _Sample) -> float:
        """When the stream pauses at the thought's end."""
        return sample.waiting + self._lag(sample, EndReason.THOUGHT_END, sample.track.pause)

    @staticmethod
    def _at_a_loss() -> None:
        raise Undecidable("a sample that would have gone on was not recorded")

    @staticmethod
    def _closes_here(sample: _Sample) -> bool:
        return sample.cap is not None and sample.thought >= sample.cap

    @staticmethod
    def _reopened_here(sample: _Sample) -> bool:
        places = sample.track.reopened_at
        return sample.reopens < len(places) and sample.thought == places[sample.reopens]

    def _portion(self, sample: _Sample, piece: Piece) -> int:
        """Tokens of the next chunk: as they came, but no further than a limit."""
        count = piece.tokens - sample.within
        if not self._whole:
            count = min(count, -(-piece.tokens // piece.chunks))
        if piece.phase is Phase.THINKING and sample.cap is not None:
            count = min(count, max(1, sample.cap - sample.thought))
        return min(count, sample.left)

    def _chunk(self, index: int, piece: Piece, count: int, begun: float) -> None:
        sample = self._samples[index]
        values = piece.confidences[sample.within : sample.within + count]
        sample.within += count
        sample.left -= count
        sample.spoke = True
        sample.last = self._now
        if piece.phase is Phase.THINKING:
            sample.thought += count
        else:
            sample.answered += count
        if sample.within == piece.tokens:
            sample.piece += 1
            sample.within = 0
            sample.waiting = begun + piece.span
            for want in piece.wants:
                rule = self._recalled.get(want["by"])
                if rule is not None:
                    rule.recall(index, want)
        turn = sample.turn
        self._see(Chunk(at=self._now, sample=index, tokens=count, phase=piece.phase, confidences=values))
        if sample.turn == turn:
            self._next(index)

    def _ended(self, index: int, reason: EndReason) -> None:
        sample = self._samples[index]
        sample.turn += 1
        if sample.spoke:
            sample.waiting = self._now
        sample.spoke = False
        pieces = sample.track.pieces
        left = sample.piece < len(pieces)
        # Whatever of a thought is left is skipped if it is closed now; if not, the segment ends the sample.
        sample.cut = reason is EndReason.ABORTED or (reason is EndReason.LENGTH and (left or not sample.track.ended))
        # Where the last token stood; before the first one, where it would have.
        before_any = sample.thought == 0 and left and pieces[sample.piece].phase is Phase.THINKING
        thinking = not sample.closing and sample.answered == 0 and (sample.thought > 0 or before_any)
        phase = Phase.THINKING if thinking or reason is EndReason.THOUGHT_END else Phase.ANSWER
        self._see(SegmentEnded(at=self._now, sample=index, reason=reason, phase=phase))

    def _abort(self, index: int) -> None:
        sample = self._samples[index]
        if sample.vote is not None:
            # What was not told in time is not known.
            lost = replace(sample.vote, answer=None, score=None, judge_tokens=0)
            sample.vote = None
            self._later(self._now, lambda: self._see(replace(lost, at=self._now)))
            return
        sample.turn += 1
        sample.aborting = True
        turn = sample.turn
        # Where all of the request ends nothing hangs on how long its streams take to close.
        lag = 0.0 if self._chain.ending else self._lag(sample, EndReason.ABORTED)
        self._later(self._now + lag, lambda: self._ended(index, EndReason.ABORTED) if sample.turn == turn else None)

    def _probe(self, action: Probe) -> None:
        sample = self._samples[action.sample]
        probes = sample.track.probes
        place = bisect_left(probes, action.at_token, key=lambda probe: probe.event.at_token)
        probe = probes[place] if place < len(probes) else None
        piece = sample.track.pieces[min(sample.piece, len(sample.track.pieces) - 1)]
        if probe is None or probe.event.at_token - action.at_token > -(-piece.tokens // piece.chunks):
            raise Undecidable("a probe that would have been taken was not")
        full = probe.event.tokens >= probe.allowed
        if probe.event.tokens > action.max_tokens or (full and action.max_tokens > probe.allowed):
            raise Undecidable("a probe would have been of another length")
        sample.asking, sample.asked = probe, self._now
        self._later(self._now + probe.took, lambda: self._probed(probe, probe.event))

    def _give_up(self, index: int) -> None:
        """A sample that is done waits for no probe: it is cut, as the driver does, and what it found is lost."""
        sample = self._samples[index]
        probe = sample.asking
        if probe is not None:
            share = min(1.0, (self._now - sample.asked) / probe.took) if probe.took > 0 else 1.0
            tokens = int(probe.event.tokens * share)
            lost = replace(probe.event, tokens=tokens, answer=None, confidence=None, entropy=None)
            self._later(self._now, lambda: self._probed(probe, lost))

    def _probed(self, probe: TapedProbe, found: Probed) -> None:
        sample = self._samples[found.sample]
        if sample.asking is not probe:
            return
        sample.asking = None
        turn = sample.turn
        self._see(replace(found, at=self._now))
        if sample.turn == turn and self._chain.is_open(found.sample):
            self._next(found.sample)

    def _vote(self, action: ReadVote) -> None:
        index = action.sample
        sample = self._samples[index]
        known, answer = self._answer(sample)
        if not known:
            raise Undecidable("how a sample would have voted was not recorded")
        tokens = self._chain.meter.sample_used(index)
        vote = sample.track.vote
        score = None if vote is None or vote.answer != answer else vote.score
        judged = 0 if vote is None else min(vote.judge_tokens, action.judge_tokens)
        voted = Voted(at=self._now, sample=index, answer=answer, tokens=tokens, score=score, judge_tokens=judged)
        if not sample.track.vote_took:
            self._see(voted)
            return
        sample.vote = voted
        self._later(self._now + sample.track.vote_took, lambda: self._voted(sample))

    def _voted(self, sample: _Sample) -> None:
        if sample.vote is not None:
            voted, sample.vote = sample.vote, None
            self._see(replace(voted, at=self._now))

    def _answer(self, sample: _Sample) -> tuple[bool, int | None]:
        """Class of a sample's answer as played, and whether it is known."""
        track = sample.track
        if sample.cut and sample.answered != track.tokens(Phase.ANSWER):
            return sample.answered == 0, None
        if sample.closed_at is None:
            return self._tape.read, track.answer
        place = bisect_right(track.probes, sample.closed_at, key=lambda probe: probe.event.at_token)
        if place == 0:
            return False, None
        return True, track.probes[place - 1].event.answer

    def _same(self, sample: _Sample) -> bool | None:
        """Whether a sample's answer is the recorded one; None where the record does not tell."""
        track = sample.track
        if sample.cut:
            return sample.answered == track.tokens(Phase.ANSWER) and sample.thought == track.tokens(Phase.THINKING)
        if sample.closed_at is None:
            return True
        known, answer = self._answer(sample)
        return answer == track.answer if known and self._tape.read else None

    def _changed(self) -> bool | None:
        draw = self._draw
        if draw is not None:
            won = None if draw.winner is None else self._answer(self._samples[draw.winner])[1]
            if self._tape.planned["plan"].get("votes"):
                return won != self._tape.winner
            return won != self._tape.tracks[0].answer
        if self._tape.planned["plan"].get("votes"):
            won = self._tape.winner
            known, answer = self._answer(self._samples[0]) if self._samples else (True, None)
            return answer != won if known else None
        if len(self._samples) != len(self._tape.tracks):
            return True
        told = [self._same(sample) for sample in self._samples.values()]
        if any(same is False for same in told):
            return True
        return None if None in told else False


_HAIR_S = 1e-6
"""What sums of recorded times may be off by."""
