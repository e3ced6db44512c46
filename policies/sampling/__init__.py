"""The vote rules by name: when enough samples of one request are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from suffice.policies.rules import Kind, Parameter, Registry
from suffice.policies.sampling.adaptive_consistency import AdaptiveConsistency
from suffice.policies.sampling.bayesian import Bayesian
from suffice.policies.sampling.best_of_n import BestOfN
from suffice.policies.sampling.certificate import Certificate
from suffice.policies.sampling.confidence import Confidence
from suffice.policies.sampling.curtailment import Curtailment
from suffice.policies.sampling.draw import Draw
from suffice.policies.sampling.draw_all import DrawAll
from suffice.policies.sampling.early_stopping_window import EarlyStoppingWindow
from suffice.policies.sampling.first_finish import FirstFinish
from suffice.policies.sampling.majority_lock import MajorityLock
from suffice.policies.sampling.prior import Learner, Prior
from suffice.policies.sampling.rule import VoteRule
from suffice.policies.sampling.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["RULES", "Draw", "Learner", "Prior", "Tally", "VoteRule"]


def _kind(
    make: Callable[..., VoteRule], what: str, guarantee: str, parameters: Mapping[str, Parameter] | None = None
) -> Kind[VoteRule]:
    """A kind that is built with ``most`` and its parameters, whatever else the family passes."""
    name: str = make.name  # type: ignore[attr-defined]

    def built(*, most: int, prior: Prior | None = None, **values: Any) -> VoteRule:
        if make is Bayesian:
            return make(most=most, prior=prior, **values)
        return make(most=most, **values)

    return Kind(name=name, make=built, parameters=parameters or {}, what=what, guarantee=guarantee)


_DELTA = Parameter(default=0.0155, least=1e-9, most=0.5, what="probability of another winner that is put up with")
_PSEUDO = Parameter(
    default=0.5, least=0.01, most=100, what="pseudo-votes that leader and runner-up start with; 1 is a uniform prior"
)

_KINDS = (
    _kind(
        MajorityLock,
        "stop when nobody can overtake the leader",
        "the winner is always that of the full vote",
    ),
    _kind(
        Curtailment,
        "stop when the leader will very probably win the full vote",
        "at every stop the winner differs from the full vote's with probability at most delta, under the prior",
        {"delta": _DELTA, "pseudo_votes": _PSEUDO},
    ),
    _kind(
        Certificate,
        "stop with a certificate that the leader is the most likely answer",
        "another answer is ever certified with probability at most alpha, however often anybody looks",
        {
            "alpha": Parameter(
                default=0.05, least=1e-9, most=0.5, what="bound on the probability of a false certificate"
            )
        },
    ),
    _kind(
        AdaptiveConsistency,
        "stop when the leader is very probably more likely than the runner-up",
        "none: the posterior is looked at after every vote",
        {
            "threshold": Parameter(
                default=0.95, least=0.51, most=1 - 1e-9, what="posterior probability at which to stop"
            )
        },
    ),
    _kind(
        EarlyStoppingWindow,
        "stop after a window of votes that all agree",
        "none",
        {"window": Parameter(default=5, least=1, most=1000, what="votes a window")},
    ),
    _kind(
        Bayesian,
        "curtailment with a prior learned from finished votes",
        "as curtailment, on traffic like that the prior was learned from; curtailment until 200 votes were learned",
        {"delta": _DELTA, "pseudo_votes": _PSEUDO},
    ),
    _kind(
        Confidence,
        "end samples that lose confidence and weigh the votes of the others by it",
        "none; calibrate it on the model before use",
        {
            "warm_up": Parameter(default=16, least=1, most=1000, what="samples that run to their end"),
            "window": Parameter(default=2048, least=1, most=65536, what="tokens of a group"),
            "eta": Parameter(default=90.0, least=0, most=100, what="percent of warm-up samples the threshold keeps"),
            "top": Parameter(default=5, least=1, most=20, what="most likely tokens that make a token's confidence"),
            "consensus": Parameter(default=0.95, least=0.5, most=1, what="share of the weight at which to stop"),
        },
    ),
    _kind(
        BestOfN,
        "best score wins; stop when one more sample is not worth its tokens",
        "optimal for a known distribution of scores; here its tail is fitted",
        {
            "cost": Parameter(
                default=0.01, least=0, most=1e9, what="price of a thousand tokens, in units of the score"
            ),
            "least": Parameter(default=6, least=1, most=1000, what="scored samples before it may stop"),
            "optimism": Parameter(default=0.2, least=0, most=10, what="standard errors added to the tail's scale"),
        },
    ),
    _kind(
        FirstFinish,
        "the first m samples to finish decide",
        "none about the full vote: what finishes first is shorter than the rest, on purpose",
        {"m": Parameter(default=3, least=1, most=1000, what="answers to wait for")},
    ),
    _kind(DrawAll, "draw all samples and take the majority", "this is the full vote"),
)

RULES: Registry[VoteRule] = Registry("suffice.sampling", {kind.name: kind for kind in _KINDS})
"""Built with ``most`` (samples drawn at most) and, for ``bayesian``, ``prior`` beside the parameters."""
