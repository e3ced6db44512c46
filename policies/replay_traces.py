"""A stopping rule on a recorded sample: what it would have done, and what that would have cost and answered.

The rule is the very object that runs live; the recording plays the part of the driver and of the chain, token by
token. What it cannot tell it does not make up: a rule that reopens thoughts asks for tokens that were never generated
and is not replayed. What must not be here: files, and how answers are read or compared.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from suffice.policies.decisions import CloseThought, RuleDecision, StopSample, TakeProbe
from suffice.policies.events import Chunk, EndReason, Phase, Probed, SegmentEnded
from suffice.policies.stopping.family import Need

if TYPE_CHECKING:
    from collections.abc import Iterable

    from suffice.policies.events import Priced
    from suffice.policies.stopping.family import StoppingRule

SECONDS_A_TOKEN = 0.02
"""The recording's clock where nobody names another pace."""

PROBE_TOKENS = 20
"""What the answer after a closed thought is taken to cost where the recording tells no length of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedProbe:
    """What the sample answered when its thought was closed at some place.

    Attributes:
        at: Tokens of the thought at that place.
        answer: The answer, in a form that equals that of equal answers; None where none could be read.
        confidence: Geometric mean of the answer tokens' probabilities.
        entropy: Entropy of the first token after the closed thought (nats).
        tokens: Tokens that the probe generated; None where the recording does not tell.
    """

    at: int
    answer: str | None
    confidence: float | None = None
    entropy: float | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One recorded sample.

    Attributes:
        pieces: Its tokens' texts.
        thought: How many of them are its thought; all of them where none is marked.
        answer: Its answer, in the same form as its probes'.
        finished: Whether it ended by itself.
        probes: What it answered on the way, by place.
        token_ids: Ids of its tokens; equal pieces have equal ids.
        logprobs: Log-probabilities of its tokens; this and all that follow are empty where not recorded.
        confidences: As in ``Chunk``.
        close_logprobs: As in ``Chunk``.
        entropies: As in ``Chunk``.
    """

    pieces: tuple[str, ...]
    thought: int
    answer: str | None
    finished: bool = True
    probes: tuple[RecordedProbe, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    confidences: tuple[float, ...] = ()
    close_logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a rule made of a sample.

    Attributes:
        rule: The rule named in the decision that ended thought or sample; None where it let the sample be.
        position: Tokens of the sample when it did.
        tokens: Tokens of the sample, of all its probes, and of the answer that follows a closed thought.
        probe_tokens: The part of them that probes took.
        probes: Probes taken.
        probes_later: Those of them that were taken later than asked, at the next recorded place.
        answer: The answer; None where there is none or the recording does not tell which it would have been.
        full_tokens: Tokens of the whole recording.
        full_answer: Its answer.
    """

    rule: str | None
    position: int
    tokens: int
    probe_tokens: int
    probes: int
    probes_later: int
    answer: str | None
    full_tokens: int
    full_answer: str | None


def unmet(rule: StoppingRule, traces: Iterable[Trace]) -> frozenset[Need]:
    """What the rule needs and not one of the recordings has."""
    traces = tuple(traces)
    recorded = {
        Need.PROBES: any(trace.probes for trace in traces),
        Need.TOKEN_IDS: any(trace.token_ids for trace in traces),
        Need.LOGPROBS: any(trace.logprobs for trace in traces),
        Need.TOP_LOGPROBS: any(trace.confidences for trace in traces),
        # The rule that looks for it also looks at the text, which every recording has.
        Need.CLOSE_LOGPROB: True,
        Need.ENTROPIES: any(trace.entropies for trace in traces),
        Need.PAUSE_AT_CLOSE: False,
    }
    return frozenset(need for need in rule.needs if not recorded[need])


def replay(
    trace: Trace, rule: StoppingRule, *, seconds_a_token: float = SECONDS_A_TOKEN, priced: Priced | None = None
) -> Outcome:
    """Play a recording to a rule made for it alone.

    A probe is taken where the rule asks if one was recorded there, else at the next recorded place: the thought goes
    on to it, since what a later place would answer is not known before. While one is awaited other asks are dropped,
    as the chain drops them. A probe whose length was not recorded costs all it was allowed.

    A thought that is closed is answered as the recorded probe at that place answered, or the last one before it: never
    by what was thought later. Where there is none the answer is unknown and counts as none. The answer costs what
    followed the recorded thought, or, where no thought is marked, that probe's tokens unless they were paid already.

    Prices, where given, are in force all along; the prompt's length is not recorded and counts as none.
    """
    if priced is not None:
        rule.observe(priced)
    play = _Play(trace, rule, seconds_a_token)
    for index in range(len(trace.pieces)):
        ending = play.token(index)
        if ending is not None:
            return play.ended(ending, index + 1)
    reason = EndReason.STOP if trace.finished else EndReason.LENGTH
    phase = Phase.THINKING if trace.thought == len(trace.pieces) else Phase.ANSWER
    rule.observe(SegmentEnded(at=len(trace.pieces) * seconds_a_token, sample=0, reason=reason, phase=phase))
    return play.ended(None, len(trace.pieces))


class _Play:
    """One replay: the state that the driver and the chain would hold."""

    def __init__(self, trace: Trace, rule: StoppingRule, seconds_a_token: float) -> None:
        self._trace = trace
        self._rule = rule
        self._pace = seconds_a_token
        self._classes: dict[str, int] = {}
        self._awaited: RecordedProbe | None = None
        self._asked_at = 0
        self._allowed = 0
        self._probe_tokens = 0
        self._probes = 0
        self._later = 0
        self._last: RecordedProbe | None = None

    def token(self, index: int) -> CloseThought | StopSample | None:
        """Play one token; what ended thought or sample with it."""
        trace = self._trace
        chunk = Chunk(
            at=(index + 1) * self._pace,
            sample=0,
            tokens=1,
            phase=Phase.THINKING if index < trace.thought else Phase.ANSWER,
            text=trace.pieces[index],
            token_ids=trace.token_ids[index : index + 1],
            logprobs=trace.logprobs[index : index + 1],
            confidences=trace.confidences[index : index + 1],
            close_logprobs=trace.close_logprobs[index : index + 1],
            entropies=trace.entropies[index : index + 1],
        )
        ending = self._decided(self._rule.observe(chunk), index + 1)
        if ending is None and self._awaited is not None and self._awaited.at == index + 1:
            probe, self._awaited = self._awaited, None
            self._later += self._asked_at < probe.at
            ending = self._decided(self._rule.observe(self._probed(probe, index + 1)), index + 1)
        return ending

    def _decided(self, decision: RuleDecision, position: int) -> CloseThought | StopSample | None:
        thinking = position <= self._trace.thought
        match decision:
            case TakeProbe() if thinking and self._awaited is None:
                self._awaited = self._recorded(position)
                self._asked_at = position
                self._allowed = decision.max_tokens
            case CloseThought() if thinking:
                return decision
            case StopSample():
                return decision
        return None

    def _recorded(self, position: int) -> RecordedProbe | None:
        """The first recorded probe at or after a place."""
        probes = self._trace.probes
        index = bisect_left(probes, position, key=lambda probe: probe.at)
        return probes[index] if index < len(probes) else None

    def _probed(self, probe: RecordedProbe, position: int) -> Probed:
        tokens = self._allowed if probe.tokens is None else min(probe.tokens, self._allowed)
        self._probes += 1
        self._probe_tokens += tokens
        self._last = probe
        answer = None if probe.answer is None else self._classes.setdefault(probe.answer, len(self._classes))
        return Probed(
            at=position * self._pace,
            sample=0,
            at_token=position,
            tokens=tokens,
            answer=answer,
            confidence=probe.confidence,
            entropy=probe.entropy,
        )

    def ended(self, decision: CloseThought | StopSample | None, position: int) -> Outcome:
        """What came of it."""
        trace = self._trace
        answer, after = trace.answer, 0
        if isinstance(decision, CloseThought):
            answer, after = self._answer(position)
        elif decision is not None and position < len(trace.pieces):
            answer = None
        return Outcome(
            rule=None if decision is None else decision.rule,
            position=position,
            tokens=position + self._probe_tokens + after,
            probe_tokens=self._probe_tokens,
            probes=self._probes,
            probes_later=self._later,
            answer=answer,
            full_tokens=len(trace.pieces),
            full_answer=trace.answer,
        )

    def _answer(self, position: int) -> tuple[str | None, int]:
        """What the thought, closed here, would have been answered with, and what that costs."""
        trace = self._trace
        after = len(trace.pieces) - trace.thought
        if position == trace.thought:
            return trace.answer, after
        index = bisect_right(trace.probes, position, key=lambda probe: probe.at)
        probe = trace.probes[index - 1] if index else None
        if after == 0 and (probe is None or probe is not self._last):
            after = PROBE_TOKENS if probe is None or probe.tokens is None else probe.tokens
        return None if probe is None else probe.answer, after
