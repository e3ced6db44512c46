"""Replay of recorded votes through the very rules that run live.

One recorded question at a time: its samples are launched in a given order and in waves, beside each other and at equal
speed, and their votes reach ``Draw`` as they would from the chain. So what a rule would have spent and answered is
computed by the rule itself. What must not be here: files, randomness, statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from suffice.policies.decisions import DrawSamples, EndRequest
from suffice.policies.events import Voted
from suffice.policies.sampling.draw import Draw
from suffice.policies.sampling.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from suffice.policies.events import Priced
    from suffice.policies.sampling.rule import VoteRule


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSample:
    """One sample of a recorded question.

    Attributes:
        answer: Its answer as a canonical key; None where it has none.
        tokens: Tokens that it generated.
        score: A verifier's reward, where one was recorded.
        confidence: Its own confidence, where it was recorded.
    """

    answer: str | None
    tokens: int
    score: float | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a rule would have done with one question in one order.

    Attributes:
        drawn: Samples launched.
        tokens: Tokens generated, those of samples that were ended early included as far as they had come.
        winner: The winning answer; None where there is none.
        certified: Whether a valid certificate of it was reached.
        stopped_by: The rule that ended the drawing; None where all samples were drawn to their end.
        waves: Times that samples were launched.
        time: Tokens that a sample generates from the first launch to the end: the time taken, at equal speed.
    """

    drawn: int
    tokens: int
    winner: str | None
    certified: bool
    stopped_by: str | None
    waves: int
    time: int


def replay_votes(
    samples: Sequence[RecordedSample],
    make_rule: Callable[[], VoteRule],
    order: Sequence[int],
    *,
    wave: int = 1,
    priced: Priced | None = None,
) -> Outcome:
    """Replay one question.

    The samples of a wave generate a token a step each, so they finish in order of length. A sample that still runs
    when the rule stops has generated as many tokens as steps have gone by since its launch.

    Args:
        samples: What was recorded.
        make_rule: Builds a fresh vote rule for at most ``len(order)`` samples.
        order: The order of launch, as indices of ``samples`` without repetition.
        wave: Samples that may run beside each other; 1 draws one by one.
        priced: The prices in force all along, if any; the prompt's length is not recorded and counts as none.
    """
    draw = Draw(make_rule(), wave=wave, most=len(order))
    if priced is not None:
        draw.observe(priced)
    classes: dict[str, int] = {}
    launched = spent = now = waves = 0
    count = min(draw.first, len(order))
    while count:
        waves += 1
        running = sorted(range(launched, launched + count), key=lambda place: samples[order[place]].tokens)
        launched += count
        count = 0
        begun = now
        for finished, place in enumerate(running):
            sample = samples[order[place]]
            now = begun + sample.tokens
            spent += sample.tokens
            answer = None if sample.answer is None else classes.setdefault(sample.answer, len(classes))
            decision = draw.observe(
                Voted(
                    at=0.0,
                    sample=place,
                    answer=answer,
                    tokens=sample.tokens,
                    score=sample.score,
                    confidence=sample.confidence,
                )
            )
            if isinstance(decision, EndRequest):
                spent += (len(running) - finished - 1) * sample.tokens
                break
            if isinstance(decision, DrawSamples):
                count = decision.count
    winner = draw.winner
    return Outcome(
        drawn=launched,
        tokens=spent,
        winner=None if winner is None else samples[order[winner]].answer,
        certified=draw.certified,
        stopped_by=draw.stopped_by,
        waves=waves,
        time=now,
    )


def full_vote(samples: Sequence[RecordedSample], order: Sequence[int]) -> str | None:
    """The answer of the full vote over all samples in this order; the tie-break is the tally's."""
    tally = Tally()
    classes: dict[str, int] = {}
    for place, index in enumerate(order):
        answer = samples[index].answer
        tally.vote(place, None if answer is None else classes.setdefault(answer, len(classes)))
    return None if tally.winner is None else samples[order[tally.winner]].answer
