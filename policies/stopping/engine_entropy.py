"""Early exit inside the engine, where the whole distribution is at hand: no probes, no extra tokens.

While a model works something out, the entropy of its next token moves from step to step; once it is only rephrasing
what it has, it stays low. The rule takes the mean entropy of each step (sentence or line), follows its moving mean and
variance over steps, and closes the thought when both are low. How low is a matter of the model: calibrate before use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from suffice.policies.decisions import CONTINUE, CloseThought, RuleDecision
from suffice.policies.events import Chunk, Event, Phase
from suffice.policies.rules import Kind, Parameter
from suffice.policies.stopping.family import Need, Setting, StoppingRule
from suffice.policies.stopping.moving import MovingMoments


@dataclass(slots=True)
class _Sample:
    steps: MovingMoments
    thought: int = 0
    entropy: float = 0.0
    """Sum over the running step."""
    tokens: int = 0
    """Tokens of the running step."""
    closed: bool = False


class EngineEntropy:
    """Closes a thought when the entropy of its steps stays low.

    A step ends with a token of ``setting.step_ids``, and after ``step_tokens`` tokens at the latest.
    """

    name = "engine_entropy"
    listens: frozenset[type[Event]] = frozenset({Chunk})
    needs: frozenset[Need] = frozenset({Need.ENTROPIES, Need.TOKEN_IDS})

    def __init__(
        self,
        *,
        threshold: float,
        variance: float,
        rate: float,
        least_steps: int,
        least_tokens: int,
        step_tokens: int,
        setting: Setting,
    ) -> None:
        self._threshold = threshold
        self._variance = variance
        self._rate = rate
        self._least_steps = least_steps
        self._least_tokens = least_tokens
        self._step_tokens = step_tokens
        self._step_ids = setting.step_ids
        self._samples: dict[int, _Sample] = {}

    def observe(self, event: Event, /) -> RuleDecision:
        """Follow a chunk of a thought. O(1) a token."""
        if not isinstance(event, Chunk) or event.phase is not Phase.THINKING:
            return CONTINUE
        sample = self._samples.get(event.sample)
        if sample is None:
            sample = self._samples[event.sample] = _Sample(MovingMoments(self._rate))
        for position, entropy in enumerate(event.entropies):
            if sample.closed:
                break
            ends = position < len(event.token_ids) and event.token_ids[position] in self._step_ids
            sample.closed = self._read(sample, entropy, ends=ends)
        return CloseThought(sample=event.sample, rule=self.name) if sample.closed else CONTINUE

    def _read(self, sample: _Sample, entropy: float, *, ends: bool) -> bool:
        """Take in one token; whether the thought is over with it."""
        sample.thought += 1
        if math.isfinite(entropy):
            sample.entropy += entropy
            sample.tokens += 1
        if not sample.tokens or not (ends or sample.tokens >= self._step_tokens):
            return False
        steps = sample.steps
        steps.add(sample.entropy / sample.tokens)
        sample.entropy, sample.tokens = 0.0, 0
        long_enough = sample.thought >= self._least_tokens and steps.count >= self._least_steps
        return long_enough and steps.mean <= self._threshold and steps.variance <= self._variance


KIND: Kind[StoppingRule] = Kind(
    name="engine_entropy",
    make=EngineEntropy,
    parameters={
        "threshold": Parameter(default=0.15, least=0.0, most=20.0, what="moving mean of the steps' entropy (nats)"),
        "variance": Parameter(default=0.01, least=0.0, most=100.0, what="their moving variance (nats squared)"),
        "rate": Parameter(default=0.2, least=0.01, most=1.0, what="weight of the newest step"),
        "least_steps": Parameter(default=6, least=1, most=10_000, what="steps before the rule may close"),
        "least_tokens": Parameter(default=128, least=0, most=1_000_000, what="tokens before the rule may close"),
        "step_tokens": Parameter(default=64, least=1, most=100_000, what="tokens after which a step ends by itself"),
    },
    what="ends the thought, in the engine, when the entropy of its steps stays low",
    guarantee="generates no extra token; closes with no lag, at the end of a step",
)
