"""Upstream frames into events: what a frame says of one sample, in the chain's words.

Keeps what must be remembered from frame to frame: counts seen, token ids, where the thought stands. What must not be
here: any reaction to an event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from suffice.policies.events import Chunk, EndReason, Phase, PromptCounted
from suffice.policies.thought import ThoughtTracker
from suffice.server.gateway.signals import NOTHING, Signals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from suffice.policies.decisions import Open
    from suffice.server.gateway.dialects.base import Reading, Segment
    from suffice.server.gateway.facts import Served
    from suffice.server.gateway.voting import Ballots


class Listener:
    """Reads the streams of all samples of one request.

    Args:
        model: What generates.
        signals: Token-wise data that the rules live on.
        ballots: Hears the answers, where samples vote.
        counts_tokens: Whether the API's stream tells running counts.

    Attributes:
        uncounted: Text of a stream without running counts, until it tells its exact count.
    """

    def __init__(self, model: Served, signals: Signals, ballots: Ballots | None, *, counts_tokens: bool) -> None:
        self._thought = model.thought
        self._signals = signals
        self._ballots = ballots
        self._counts_tokens = counts_tokens
        self._trackers: dict[int, ThoughtTracker] = {}
        self.uncounted: list[str] = []

    def phase(self, sample: int) -> Phase:
        """Where a sample's last token stood."""
        tracker = self._trackers.get(sample)
        return Phase.ANSWER if tracker is None else tracker.phase

    def resumed(self, segment: Segment, opened: Open) -> None:
        """A sample goes on in another segment, its thought closed or reopened by the gateway."""
        segment.resumed = True
        tracker = self._tracker(segment.sample)
        if tracker is not None and (opened.close_thought or opened.think_on):
            tracker.phase = Phase.ANSWER if opened.close_thought else Phase.THINKING
        segment.thinking = self.phase(segment.sample) is Phase.THINKING

    def events(
        self, segment: Segment, frame: dict[str, Any], reading: Reading, at: float
    ) -> Iterator[PromptCounted | Chunk]:
        """What a frame says: the prompt's length once, then its tokens, one event a phase, thought first."""
        sample = segment.sample
        if self._ballots is not None:
            self._ballots.hear(sample, reading)
        if reading.prompt_tokens is not None and not segment.resumed and not segment.prompt_counted:
            segment.prompt_counted = True
            within = self._read_prompt(segment, frame)
            yield PromptCounted(at=at, sample=sample, prompt_tokens=reading.prompt_tokens, thinking=within)
        if reading.total is None or reading.total == segment.seen:
            return
        new = reading.total - segment.seen
        segment.seen = reading.total
        if not self._counts_tokens:
            self.uncounted.append(reading.text)
        thinking = self._thinking(segment, reading, new)
        data = self._signals.read(reading.choice) if self._signals and reading.choice else NOTHING
        ids = tuple(reading.token_ids or ())
        first, rest = data.split(thinking)
        for phase, count, part, own in (
            (Phase.THINKING, thinking, first, ids[:thinking]),
            (Phase.ANSWER, new - thinking, rest, ids[thinking:]),
        ):
            if count:
                yield Chunk(
                    at=at,
                    sample=sample,
                    tokens=count,
                    phase=phase,
                    text=reading.text,
                    token_ids=own,
                    logprobs=part.logprobs,
                    confidences=part.confidences,
                    close_logprobs=part.close_logprobs,
                )

    def ended(self, reading: Reading) -> EndReason | None:
        """Why the segment ended, on its last frame; a stop at the closing token is a pause."""
        thought = self._thought
        if reading.ended is EndReason.STOP and thought is not None and reading.stop_reason == thought.end_id:
            return EndReason.THOUGHT_END
        return reading.ended

    def _thinking(self, segment: Segment, reading: Reading, new: int) -> int:
        """How many of the new tokens belong to the thought: by their ids where told, else by the frame's fields."""
        tracker = self._tracker(segment.sample)
        segment.token_ids += reading.token_ids or ()
        if reading.token_ids and tracker is not None:
            return min(tracker.read(reading.token_ids)[0], new)
        phase = reading.phase or self.phase(segment.sample)
        if tracker is not None:
            tracker.phase = phase
        return new if phase is Phase.THINKING else 0

    def _tracker(self, sample: int) -> ThoughtTracker | None:
        if self._thought is None:
            return None
        tracker = self._trackers.get(sample)
        if tracker is None:
            tracker = ThoughtTracker(start=self._thought.start_id, end=self._thought.end_id)
            self._trackers[sample] = tracker
        return tracker

    def _read_prompt(self, segment: Segment, frame: dict[str, Any]) -> int | None:
        """Keep the prompt's tokens where upstream tells them, and see how much of an open thought stands in them."""
        tracker = self._tracker(segment.sample)
        choices = frame.get("choices") or [{}]
        segment.prompt_ids = frame.get("prompt_token_ids") or choices[0].get("prompt_token_ids") or []
        return tracker.read_prompt(segment.prompt_ids) if tracker is not None and segment.prompt_ids else None
