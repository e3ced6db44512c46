"""Early exit: end a thought when probes show that thinking on will not change the answer.

One machine for every probing rule. It asks for probes where the schedule says, hands each to the sample's criterion,
and closes the thought once that is satisfied. It asks at most once at each position of the schedule; the chain holds
one probe of a sample at a time and drops an ask while one is out, and the next position asks again, so that neither a
slow nor a refused probe ends the probing. The kinds of rules differ by criterion and schedule alone.

At each probe that ends nothing the thought must be worth its price: what thinking on can bring at most, by the
criterion, against the tokens that are expected to come. Where it is not, it is closed by the name of ``price``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict, Unpack

from suffice.policies.allocation.effort import PRICE
from suffice.policies.decisions import CONTINUE, CloseThought, RuleDecision, TakeProbe
from suffice.policies.events import Chunk, Event, Phase, Priced, Probed, PromptCounted
from suffice.policies.rules import Kind, Parameter
from suffice.policies.stopping.criteria import Confident, Converged, ConvergedAndSure, Criterion, Never, Settled
from suffice.policies.stopping.family import Need, Setting, StoppingRule
from suffice.policies.stopping.hopeless import HOPELESS, HOPELESS_PARAMETERS, Hopeless
from suffice.policies.stopping.price import thinking_pays, tokens_ahead
from suffice.policies.stopping.schedule import (
    GEOMETRIC_PARAMETERS,
    PROBE_TOKENS,
    Even,
    Geometric,
    Schedule,
    useful,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class _Sample:
    """What one sample showed so far."""

    criterion: Criterion
    due: int
    prompt: int = 0
    thought: int = 0
    closed: CloseThought | None = None


class ProbeExit:
    """The probing machine.

    Args:
        name: The rule's name in decisions.
        criterion: Makes the memory of a new sample.
        schedule: Where to probe.
        probe_tokens: Tokens that a probe may generate.
        hopeless: When to give up instead.
        longest: Tokens of the longest thought, beyond which no probe could save its cost.
        usual: Tokens that half of the route's thoughts keep to; None where unknown.

    Attributes:
        usual: The same, for the request's record.
    """

    listens: frozenset[type[Event]] = frozenset({Chunk, Probed, Priced, PromptCounted})
    needs: frozenset[Need] = frozenset({Need.PROBES})

    def __init__(
        self,
        *,
        name: str,
        criterion: Callable[[], Criterion],
        schedule: Schedule,
        probe_tokens: int,
        hopeless: Hopeless,
        longest: int | None,
        usual: int | None = None,
    ) -> None:
        self.name = name
        self._criterion = criterion
        self._schedule = schedule
        self._probe_tokens = probe_tokens
        self._hopeless = hopeless
        self._longest = longest
        self.usual = usual
        self._priced: Priced | None = None
        self._samples: dict[int, _Sample] = {}

    def observe(self, event: Event, /) -> RuleDecision:
        """Count a chunk and probe where one is due; judge a probe. O(1) amortised."""
        match event:
            case Chunk(phase=Phase.THINKING):
                return self._counted(event)
            case Probed():
                return self._judged(event)
            case Priced():
                self._priced = event
            case PromptCounted():
                sample = self._sample(event.sample)
                sample.prompt = sample.prompt or event.prompt_tokens
        return CONTINUE

    def _sample(self, index: int) -> _Sample:
        sample = self._samples.get(index)
        if sample is None:
            sample = self._samples[index] = _Sample(criterion=self._criterion(), due=self._schedule.first)
        return sample

    def _counted(self, chunk: Chunk) -> RuleDecision:
        sample = self._sample(chunk.sample)
        sample.thought += chunk.tokens
        if sample.closed is not None:
            return sample.closed
        if sample.thought < sample.due:
            return CONTINUE
        sample.due = self._schedule.after(sample.due, sample.thought)
        if not useful(sample.thought, self._longest, self._probe_tokens):
            return CONTINUE
        return TakeProbe(sample=chunk.sample, rule=self.name, max_tokens=self._probe_tokens)

    def _judged(self, probe: Probed) -> RuleDecision:
        sample = self._sample(probe.sample)
        if sample.closed is not None:
            return sample.closed
        if sample.criterion.satisfied_by(probe):
            sample.closed = CloseThought(sample=probe.sample, rule=self.name)
        elif self._hopeless.gives_up(probe.at_token, probe.confidence):
            sample.closed = CloseThought(sample=probe.sample, rule=HOPELESS)
        elif not self._pays(sample):
            sample.closed = CloseThought(sample=probe.sample, rule=PRICE)
        return sample.closed or CONTINUE

    def _pays(self, sample: _Sample) -> bool:
        ahead = tokens_ahead(sample.thought, sample.due, self.usual, self._longest)
        return thinking_pays(self._priced, sample.criterion.doubt, sample.prompt + sample.thought, ahead)


class _Shared(TypedDict):
    """What all rules on the geometric schedule take."""

    probe_first: int
    probe_growth: float
    probe_tokens: int
    hopeless: float | None
    hopeless_middle: float
    hopeless_slope: float
    setting: Setting


def _geometric(name: str, criterion: Callable[[], Criterion], shared: _Shared) -> StoppingRule:
    longest = shared["setting"].longest_thought
    return ProbeExit(
        name=name,
        criterion=criterion,
        schedule=Geometric(shared["probe_first"], shared["probe_growth"]),
        probe_tokens=shared["probe_tokens"],
        hopeless=Hopeless(shared["hopeless"], shared["hopeless_middle"], shared["hopeless_slope"], longest),
        longest=longest,
        usual=shared["setting"].usual_thought,
    )


def _convergence(*, window: int, **shared: Unpack[_Shared]) -> StoppingRule:
    return _geometric("convergence", lambda: Converged(window), shared)


def _confidence(*, threshold: float, **shared: Unpack[_Shared]) -> StoppingRule:
    return _geometric("confidence", lambda: Confident(threshold), shared)


def _entropy(*, rate: float, variance: float, least_probes: int, **shared: Unpack[_Shared]) -> StoppingRule:
    return _geometric("entropy", lambda: Settled(rate, variance, least_probes), shared)


def _combined(
    *, window: int, threshold: float, rate: float, variance: float, least_probes: int, **shared: Unpack[_Shared]
) -> StoppingRule:
    def criterion() -> Criterion:
        return ConvergedAndSure(Converged(window), Confident(threshold), Settled(rate, variance, least_probes))

    return _geometric("combined", criterion, shared)


def _give_up(**shared: Unpack[_Shared]) -> StoppingRule:
    return _geometric(HOPELESS, Never, shared)


def _fixed_interval(*, interval: int, window: int, probe_tokens: int, setting: Setting) -> StoppingRule:
    return ProbeExit(
        name="fixed_interval",
        criterion=lambda: Converged(window),
        schedule=Even(interval),
        probe_tokens=probe_tokens,
        hopeless=Hopeless(None, 0.0, 0.0, None),
        longest=setting.longest_thought,
        usual=setting.usual_thought,
    )


_WINDOW = {"window": Parameter(default=2, least=1, most=64, what="equal answers in a row that end the thought")}
_THRESHOLD = {
    "threshold": Parameter(default=0.95, least=0.0, most=1.0, what="geometric mean probability of the answer's tokens")
}
# With a probe every few tokens EAT takes a rate of 0.2 and a variance of 1e-4. A geometric schedule brings a handful
# of probes in all, each after a quarter more thought: half of the weight goes to the newest, and a standard deviation
# of about 0.03 nats counts as calm.
_SETTLED = {
    "rate": Parameter(default=0.5, least=0.01, most=1.0, what="weight of the newest probe's entropy"),
    "variance": Parameter(
        default=1e-3, least=0.0, most=100.0, what="moving variance (nats squared) that counts as calm"
    ),
    "least_probes": Parameter(default=3, least=2, most=1000, what="probes before the variance is believed"),
}
_SHARED = GEOMETRIC_PARAMETERS | HOPELESS_PARAMETERS
_OVERSHOOT = "at most 1 + log(cap / probe_first) / log(probe_growth) probes; overshoots by probe_growth at most"

KINDS: tuple[Kind[StoppingRule], ...] = (
    Kind(
        name="convergence",
        make=_convergence,
        parameters=_WINDOW | _SHARED,
        what="ends the thought when the last probes gave the same answer",
        guarantee=_OVERSHOOT,
    ),
    Kind(
        name="confidence",
        make=_confidence,
        parameters=_THRESHOLD | _SHARED,
        what="ends the thought when a probe's answer is confident enough",
        guarantee=_OVERSHOOT,
    ),
    Kind(
        name="entropy",
        make=_entropy,
        parameters=_SETTLED | _SHARED,
        what="ends the thought when the entropy of the answer's first token has settled",
        guarantee=_OVERSHOOT,
    ),
    Kind(
        name="combined",
        make=_combined,
        parameters=_WINDOW | _THRESHOLD | _SETTLED | _SHARED,
        what="ends the thought when answers are equal, and confident or settled",
        guarantee=_OVERSHOOT,
    ),
    Kind(
        name=HOPELESS,
        make=_give_up,
        parameters=_SHARED | {"hopeless": replace(HOPELESS_PARAMETERS["hopeless"], default=0.2)},
        what="ends no thought for being good, only those whose probes stay too doubtful for their length",
        guarantee=_OVERSHOOT,
    ),
    Kind(
        name="fixed_interval",
        make=_fixed_interval,
        parameters={"interval": Parameter(default=64, least=1, most=1_000_000, what="thinking tokens between probes")}
        | _WINDOW
        | {"probe_tokens": PROBE_TOKENS},
        what="ends the thought when evenly spaced probes gave the same answer; for comparison",
        guarantee="one probe every interval tokens",
    ),
)
