"""Thresholds with a guarantee: which one keeps the risk below a limit, and when that can no longer be believed.

A loss of a question is a number from 0 to 1: here, the share of its runs that a rule turned from right to wrong. Its
mean over the traffic is the risk. Thresholds are tested on recorded questions, from the most conservative on; what
comes out holds for traffic that is exchangeable with them, and says so with a probability, or is refused.

- ``calibrate``: learn then test (Angelopoulos, Bates, Candes, Jordan, Lei, arXiv 2110.01052). Each threshold is tested
  for "its risk is above the limit" by a Hoeffding-Bentkus p-value; fixed-sequence testing stops at the first that is
  not rejected, so that all together err with probability at most ``delta``, with no correction for their number.
- ``control_expected_risk``: conformal risk control (Angelopoulos et al., arXiv 2208.02814), for losses that only grow
  with the threshold; it bounds the expected risk, not its probability, and asks for fewer questions.
- ``DriftAlarm``: a test by betting against "the risk is still below the limit" (Waudby-Smith and Ramdas 2024), valid at
  every moment at once by Ville's inequality.

What must not be here: how losses come about, files, and what a threshold means to a rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Losses: TypeAlias = "Iterable[tuple[float, Sequence[float]]]"
"""Each threshold, from the most conservative on, with the losses of the same questions in the same order.

It is read up to the first threshold that fails, so that later ones need not be computed.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """What the data say of one threshold.

    Attributes:
        threshold: The threshold.
        risk: Its mean loss on the data.
        p_value: Probability of so small a mean, or a smaller one, if its true risk were above the limit. Conformal
            risk control has none; there it is the bound that is compared with the limit.
    """

    threshold: float
    risk: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A threshold with its evidence, or the reason why there is none.

    Attributes:
        threshold: The most aggressive threshold that may be used; None where the data support none.
        refusal: Why there is none; None where there is one.
        questions: Questions that the losses came from.
        limit: The risk that must not be passed.
        delta: Probability at most of being wrong about it; None where the expected risk is bounded instead.
        tested: The thresholds in order, up to the first that failed.
    """

    threshold: float | None
    refusal: str | None
    questions: int
    limit: float
    delta: float | None
    tested: tuple[Tested, ...]

    @property
    def chosen(self) -> Tested | None:
        """The evidence of the chosen threshold."""
        return next((one for one in self.tested if one.threshold == self.threshold), None)


def hoeffding_bentkus(mean: float, n: int, limit: float) -> float:
    """P-value of "the true mean is above ``limit``", given the mean of ``n`` independent losses from 0 to 1.

    ``min(exp(-n h1(min(mean, limit), limit)), e P(Binomial(n, limit) <= ceil(n mean)))``, where ``h1`` is the relative
    entropy of two coins (Bates et al. 2021, with Hoeffding's and Bentkus's inequalities). O(n limit).
    """
    hoeffding = math.exp(-n * _relative_entropy(min(mean, limit), limit))
    # A sum of many losses may miss a whole number by rounding; it must not be taken for the next.
    bentkus = math.e * _binomial_cdf(math.ceil(n * mean - 1e-9), n, limit)
    return min(1.0, hoeffding, bentkus)


def _relative_entropy(a: float, b: float) -> float:
    first = a * math.log(a / b) if a > 0 else 0.0
    second = (1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0
    return first + second


def _binomial_cdf(k: int, n: int, p: float) -> float:
    if k >= n:
        return 1.0
    log_odds = math.log(p) - math.log1p(-p)
    log_mass = n * math.log1p(-p)
    total = math.exp(log_mass)
    for successes in range(1, k + 1):
        log_mass += math.log((n - successes + 1) / successes) + log_odds
        total += math.exp(log_mass)
    return min(1.0, total)


def questions_needed(limit: float, delta: float) -> int:
    """The fewest questions that can support a claim: with that many and no loss at all, ``(1 - limit)^n <= delta``."""
    return math.ceil(math.log(delta) / math.log1p(-limit) - 1e-9)


def calibrate(losses: Losses, limit: float, delta: float) -> Calibration:
    """Find the most aggressive threshold whose risk is at most ``limit``, with probability at least ``1 - delta``.

    The order is part of the promise: it must be fixed before the losses are looked at.

    Args:
        losses: Thresholds in order, each with its losses.
        limit: The risk that must not be passed, between 0 and 1.
        delta: Probability at most that the chosen threshold's risk is above the limit, between 0 and 1.

    Returns:
        The threshold with its evidence, or a refusal.

    Raises:
        ValueError: A number is out of range, or the thresholds have different numbers of losses.
    """
    _check_share("risk", limit)
    _check_share("delta", delta)
    needed = questions_needed(limit, delta)
    questions = 0
    tested: list[Tested] = []
    for threshold, values in losses:
        questions = _counted(values, questions if tested else None)
        if questions < needed:
            refusal = (
                f"{questions} questions cannot show a risk of at most {limit:g} at delta {delta:g}, even if none is "
                f"lost; at least {needed} are needed"
            )
            return _refused(refusal, questions, limit, delta)
        mean = math.fsum(values) / questions
        p_value = hoeffding_bentkus(mean, questions, limit)
        tested.append(Tested(threshold=threshold, risk=mean, p_value=p_value))
        if p_value > delta:
            break
    return _best(tested, delta, questions, limit, delta)


def calibrate_two_sided(upper: Losses, lower: Losses, limit: float, delta: float) -> tuple[Calibration, Calibration]:
    """Calibrate the threshold that finishes a thought and the one that gives it up, for both at once.

    With both in force a run ends where the earlier of the two ends it, so that its loss is at most the sum of the two.
    Each is calibrated alone at half of the limit and half of ``delta``; together they keep both.

    Args:
        upper: Losses with only the upper threshold in force.
        lower: Losses with only the lower threshold in force.
        limit: As in ``calibrate``, for both together.
        delta: As in ``calibrate``, for both together.
    """
    return calibrate(upper, limit / 2, delta / 2), calibrate(lower, limit / 2, delta / 2)


def control_expected_risk(losses: Losses, limit: float) -> Calibration:
    """Find the most aggressive threshold whose expected risk on the next question is at most ``limit``.

    Conformal risk control asks that each question's loss never falls along the thresholds. Losses are made so by their
    running maximum, which bounds them from above, so that the promise holds for any. The bound is
    ``(n mean + 1) / (n + 1)``.

    Raises:
        ValueError: As in ``calibrate``.
    """
    _check_share("risk", limit)
    questions = 0
    highest: list[float] = []
    tested: list[Tested] = []
    for threshold, values in losses:
        questions = _counted(values, questions if tested else None)
        highest = highest or [0.0] * questions
        highest = [max(pair) for pair in zip(highest, values, strict=True)]
        total = math.fsum(highest)
        bound = (total + 1) / (questions + 1)
        tested.append(Tested(threshold=threshold, risk=total / max(questions, 1), p_value=bound))
        if bound > limit:
            break
    return _best(tested, limit, questions, limit, None)


def _best(tested: Sequence[Tested], most: float, questions: int, limit: float, delta: float | None) -> Calibration:
    passed = [one for one in tested if one.p_value <= most]
    if passed:
        return Calibration(
            threshold=passed[-1].threshold,
            refusal=None,
            questions=questions,
            limit=limit,
            delta=delta,
            tested=tuple(tested),
        )
    if not tested:
        return _refused("no threshold was given", questions, limit, delta)
    first = tested[0]
    what = f"p = {first.p_value:.3g}, not at most {most:g}" if delta is not None else f"bound {first.p_value:.3g}"
    refusal = (
        f"already the most conservative threshold, {first.threshold:g}, loses {first.risk:.4g} of {questions} "
        f"questions ({what}); a risk of at most {limit:g} cannot be claimed"
    )
    return _refused(refusal, questions, limit, delta, tuple(tested))


def _refused(
    why: str, questions: int, limit: float, delta: float | None, tested: tuple[Tested, ...] = ()
) -> Calibration:
    return Calibration(threshold=None, refusal=why, questions=questions, limit=limit, delta=delta, tested=tested)


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"{name} must lie between 0 and 1")


def _counted(values: Sequence[float], before: int | None) -> int:
    """How many questions there are: as many as at the threshold before."""
    if before is not None and len(values) != before:
        raise ValueError("all thresholds must have losses of the same questions")
    if not all(0 <= loss <= 1 for loss in values):
        raise ValueError("losses must lie from 0 to 1")
    return len(values)


_STAKES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Shares of the wealth that are bet on each audit: small ones see small drifts, large ones see large drifts soon."""


@dataclass(slots=True)
class DriftAlarm:
    """Watches audited runs and tells when their risk can no longer be believed to be below the limit.

    An audit lets a run go on to its full budget in spite of the rule, and takes the loss that the rule would have had.
    A stake ``s`` turns wealth ``W`` into ``W (1 - s + s loss / limit)``, which keeps or loses in expectation while the
    risk is at most the limit, whatever the past. So does the mean over the stakes; by Ville's inequality it ever
    reaches ``1 / alpha`` with probability at most ``alpha``. The state is the wealth alone: O(1) time and space.

    Attributes:
        limit: The risk that was promised.
        alpha: Probability at most of ever raising a false alarm.
        audits: Audits so far.
        alarmed: Whether the alarm was raised; it stays.
    """

    limit: float
    alpha: float = 0.01
    audits: int = 0
    alarmed: bool = False
    _log_wealth: list[float] = field(default_factory=lambda: [0.0] * len(_STAKES))

    @property
    def evidence(self) -> float:
        """The mean wealth: an e-value against the promise. The alarm is raised at ``1 / alpha``."""
        return math.fsum(math.exp(min(wealth, 700.0)) for wealth in self._log_wealth) / len(_STAKES)

    def audited(self, loss: float) -> bool:
        """Take in the loss of one audited run.

        Returns:
            Whether the alarm is raised.

        Raises:
            ValueError: The loss is not from 0 to 1; nothing is changed.
        """
        if not 0 <= loss <= 1:
            raise ValueError("a loss must lie from 0 to 1")
        self.audits += 1
        for position, stake in enumerate(_STAKES):
            self._log_wealth[position] += math.log1p(stake * (loss / self.limit - 1))
        self.alarmed = self.alarmed or self.evidence >= 1 / self.alpha
        return self.alarmed

    def to_json(self) -> dict[str, Any]:
        """The state as JSON-ready values."""
        return {
            "limit": self.limit,
            "alpha": self.alpha,
            "audits": self.audits,
            "alarmed": self.alarmed,
            "log_wealth": list(self._log_wealth),
        }

    @classmethod
    def from_json(cls, state: Any) -> DriftAlarm:
        """The alarm that ``to_json`` wrote.

        Raises:
            ValueError: It is not of that shape.
        """
        try:
            wealth = [float(value) for value in state["log_wealth"]]
            alarm = cls(limit=float(state["limit"]), alpha=float(state["alpha"]), audits=int(state["audits"]))
            alarm.alarmed = bool(state["alarmed"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("not the state of an alarm") from error
        if len(wealth) != len(_STAKES) or not 0 < alarm.limit < 1 or not all(map(math.isfinite, wealth)):
            raise ValueError("the state of an alarm with numbers out of range")
        alarm._log_wealth = wealth
        return alarm
