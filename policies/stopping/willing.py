"""Ends a thought where the model itself was about to end it, instead of letting it check once more.

A model that has its answer and goes on checking passes places at which closing the thought was likely, though another
token was drawn. The rule counts such places and closes at the ``occasions``-th: the first takes the model at its first
word, the second lets it check once. Inside the engine the place is taken exactly; from outside the thought is closed a
few tokens later. The idea of closing by the rank of the closing token is that of soft thinking limits (a closing token
among the likeliest); here it applies from ``least_tokens`` on and not only near a cap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from suffice.policies.decisions import CONTINUE, CloseThought, RuleDecision
from suffice.policies.events import Chunk, Event, Phase
from suffice.policies.rules import Kind, Parameter
from suffice.policies.stopping.family import Need, Setting, StoppingRule


@dataclass(slots=True)
class _Sample:
    thought: int = 0
    places: int = 0
    closed: bool = False


class Willing:
    """Closes a thought at the ``occasions``-th place where closing it had at least ``probability``."""

    name = "willing"
    listens: frozenset[type[Event]] = frozenset({Chunk})
    needs: frozenset[Need] = frozenset({Need.CLOSE_LOGPROB})

    def __init__(self, *, probability: float, occasions: int, least_tokens: int, setting: Setting) -> None:  # noqa: ARG002 - every rule is made alike
        self._logprob = math.log(probability)
        self._occasions = occasions
        self._least = least_tokens
        self._samples: dict[int, _Sample] = {}

    def observe(self, event: Event, /) -> RuleDecision:
        """Follow a chunk of a thought. O(1) a token."""
        if not isinstance(event, Chunk) or event.phase is not Phase.THINKING:
            return CONTINUE
        sample = self._samples.get(event.sample)
        if sample is None:
            sample = self._samples[event.sample] = _Sample()
        for position, logprob in enumerate(event.close_logprobs):
            # The value of a token was known before it was drawn.
            if logprob >= self._logprob and sample.thought + position >= self._least:
                sample.places += 1
        sample.thought += event.tokens
        sample.closed = sample.closed or sample.places >= self._occasions
        return CloseThought(sample=event.sample, rule=self.name) if sample.closed else CONTINUE


KIND: Kind[StoppingRule] = Kind(
    name="willing",
    make=Willing,
    parameters={
        "probability": Parameter(
            default=0.2, least=1e-6, most=1.0, what="probability of the closing token that makes a place count"
        ),
        "occasions": Parameter(default=1, least=1, most=1000, what="such places until the thought is closed"),
        "least_tokens": Parameter(default=0, least=0, most=1_000_000, what="tokens before places count"),
    },
    what="ends the thought where the model was about to end it, at the first such place or a later one",
    guarantee="generates no extra token; inside the engine closes exactly there",
)
