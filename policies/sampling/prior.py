"""What finished votes teach about the next one: a prior on how answers split between leader, second and rest.

``Learner`` takes the counts of full votes and fits a ``Prior``, a small mixture of splits, by expectation
maximisation. Which of two answers was the model's favourite is not known from one vote, so both readings are weighed. A
prior is fitted per model and kind of task, off the path of requests. What must not be here: any decision to stop.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from math import exp, log, log1p
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SHARES = (0.5, 0.52, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.94, 0.97, 0.985, 0.995, 0.999)
_RESTS = (0.002, 0.02, 0.08, 0.2, 0.35, 0.5, 0.7)
_NEGLIGIBLE = 1e-4
_ROUNDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One way in which votes may fall.

    Attributes:
        share: Probability of the favourite among votes for it or its strongest rival, from 0.5 to below 1.
        rest: Probability that a vote is for neither, above 0 and below 1.
        weight: Prior probability of this split.
    """

    share: float
    rest: float
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """A mixture of splits.

    Attributes:
        learned: Full votes that it was fitted on; 0 where it knows nothing.
        splits: The mixture; the weights add up to 1.
    """

    learned: int = 0
    splits: tuple[Split, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The prior as JSON-ready values."""
        splits = [[split.share, split.rest, split.weight] for split in self.splits]
        return {"version": 1, "learned": self.learned, "splits": splits}

    @classmethod
    def from_json(cls, value: Any) -> Prior:
        """The prior that ``to_json`` wrote.

        Raises:
            ValueError: It is not of that shape, or its numbers are out of range.
        """
        try:
            splits = tuple(Split(share=float(s), rest=float(r), weight=float(w)) for s, r, w in value["splits"])
            learned = int(value["learned"])
            known = value["version"] == 1
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("not a prior of votes") from error
        sound = all(0.5 <= s.share < 1 and 0 < s.rest < 1 and 0 < s.weight <= 1 for s in splits)  # noqa: PLR2004
        whole = abs(sum(split.weight for split in splits) - 1) < 1e-6 if learned else not splits  # noqa: PLR2004
        if not (known and sound and whole and learned >= 0):
            raise ValueError("a prior of votes with numbers out of range")
        return cls(learned=learned, splits=splits)


class Learner:
    """Collects finished full votes and fits a prior.

    Only votes that were drawn to the end belong here (an audited share of traffic, or recorded runs). Its state is
    one counter per distinct ``(leader, second, rest)``, so it is bounded by what can occur at a given size of vote.
    """

    def __init__(self) -> None:
        self._votes: Counter[tuple[int, int, int]] = Counter()

    @property
    def learned(self) -> int:
        """Full votes taken in."""
        return self._votes.total()

    def learn(self, counts: Sequence[int], unanswered: int = 0) -> None:
        """Take in one full vote.

        Args:
            counts: Votes by answer class, in any order.
            unanswered: Samples without an answer.
        """
        ordered = sorted((count for count in counts if count > 0), reverse=True)
        if ordered:
            second = ordered[1] if len(ordered) > 1 else 0
            self._votes[ordered[0], second, sum(ordered[2:]) + unanswered] += 1

    def fit(self) -> Prior:
        """The mixture of splits that makes the votes most likely, on a fixed grid. Deterministic.

        Costs some hundred thousand multiplications a hundred distinct votes; not for the path of a request.
        """
        learned = self.learned
        if learned == 0:
            return Prior()
        grid = [(share, rest) for share in _SHARES for rest in _RESTS]
        rows = []
        for vote, times in sorted(self._votes.items()):  # Sorted, so that the same votes give the same prior.
            logs = [_log_likelihood(share, rest, *vote) for share, rest in grid]
            best = max(logs)
            rows.append((times, [exp(one - best) for one in logs]))
        weights = [1 / len(grid)] * len(grid)
        for _ in range(_ROUNDS):
            gathered = [0.0] * len(grid)
            for times, likelihoods in rows:
                joint = [weight * likelihood for weight, likelihood in zip(weights, likelihoods, strict=True)]
                scale = times / sum(joint)
                gathered = [have + scale * one for have, one in zip(gathered, joint, strict=True)]
            weights = [total / learned for total in gathered]
        kept = [(at, weight) for at, weight in zip(grid, weights, strict=True) if weight > _NEGLIGIBLE]
        whole = sum(weight for _, weight in kept)
        return Prior(
            learned=learned,
            splits=tuple(Split(share=share, rest=rest, weight=weight / whole) for (share, rest), weight in kept),
        )

    def to_json(self) -> dict[str, Any]:
        """Everything that was taken in, as JSON-ready values."""
        return {"version": 1, "votes": [[*vote, times] for vote, times in sorted(self._votes.items())]}

    @classmethod
    def from_json(cls, value: Any) -> Learner:
        """The learner that ``to_json`` wrote.

        Raises:
            ValueError: It is not of that shape.
        """
        learner = cls()
        try:
            known = value["version"] == 1
            votes = [(int(lead), int(second), int(rest), int(times)) for lead, second, rest, times in value["votes"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("not a record of votes") from error
        if not known or any(
            not (lead >= second >= 0 < lead and rest >= 0 < times) for lead, second, rest, times in votes
        ):
            raise ValueError("a record of votes with numbers out of range")
        for lead, second, rest, times in votes:
            learner._votes[lead, second, rest] += times
        return learner


def _log_likelihood(share: float, rest: float, lead: int, second: int, others: int) -> float:
    """Log-likelihood of a full vote under a split, up to a term that all splits have in common.

    Leader and runner-up are the favourite and the second, in either order.
    """
    log_share, log_other = log(share), log(1 - share)
    right, wrong = lead * log_share + second * log_other, second * log_share + lead * log_other
    between = max(right, wrong) + log1p(exp(-abs(right - wrong)))
    return others * log(rest) + (lead + second) * log(1 - rest) + between


class Forecast:
    """Chances under a prior in votes of at most ``most`` samples; made once for both, and remembers what it worked out.

    The walks cost about ``4 * most**2`` multiplications a split of the prior.
    """

    def __init__(self, prior: Prior, most: int) -> None:
        self._most = most
        self._splits = prior.splits
        self._walks = [_walk(split, most) for split in prior.splits]
        self._known: dict[tuple[int, int, int], float] = {}

    def chance(self, lead: int, second: int, left: int) -> float:
        """Probability that the leader wins the full vote. A dictionary look-up where it was asked before.

        Args:
            lead: Votes of the leader.
            second: Votes of the runner-up, at most ``lead``.
            left: Votes to come.
        """
        if lead - second >= left:
            return 1.0
        state = (lead, second, left)
        chance = self._known.get(state)
        if chance is None:
            chance = self._known[state] = self._work_out(lead, second, left)
        return chance

    def _work_out(self, lead: int, second: int, left: int) -> float:
        others = max(0, self._most - left - lead - second)
        standing, behind = self._most + 1 + lead - second, self._most - lead + second
        weighed: list[tuple[float, float]] = []
        for split, walk in zip(self._splits, self._walks, strict=True):
            weight = log(split.weight)
            for reading, log_likelihood in _readings(split, lead, second, others):
                # A leader that is the favourite wins or not; one that is the second wins if the favourite, so far
                # behind, does not; one out of the rest is given no chance, which errs on the side of drawing on.
                chance = {"favourite": walk[left][standing], "second": 1 - walk[left][behind], "rest": 0.0}[reading]
                weighed.append((weight + log_likelihood, chance))
        best = max(log_weight for log_weight, _ in weighed)
        won = sum(exp(log_weight - best) * chance for log_weight, chance in weighed)
        return won / sum(exp(log_weight - best) for log_weight, _ in weighed)


def _readings(split: Split, lead: int, second: int, others: int) -> Iterator[tuple[str, float]]:
    """Who the leader may be, with the log-likelihood of the votes so far, up to a term that all readings share.

    The rest is taken as answers of one size, as large as they can be without exceeding the second.
    """
    likely, next_likely = (1 - split.rest) * split.share, (1 - split.rest) * (1 - split.share)
    small = min(split.rest, next_likely)
    ways = log(split.rest / small)
    pairs = (
        ("favourite", likely, next_likely, 0.0),
        ("second", next_likely, likely, 0.0),
        ("favourite", likely, small, ways),
        ("rest", next_likely, small, ways),
        ("rest", small, likely, ways),
        ("rest", small, next_likely, ways),
    )
    for reading, leader, runner, extra in pairs if second else (pairs[0], pairs[1], pairs[4]):
        spare = max(1 - leader - runner, 1e-9) if second else 1.0
        yield reading, extra + lead * log(leader) + second * log(runner) + others * log(spare)


@lru_cache(maxsize=8)
def forecast(prior: Prior, most: int) -> Forecast:
    """The forecast of a prior, shared by all requests with the same."""
    return Forecast(prior, most)


def _walk(split: Split, most: int) -> tuple[tuple[float, ...], ...]:
    """Probability that the favourite of a split wins, by votes to come and where it stands.

    ``walk[left][position]``: positions count up from the favourite's being ``most`` behind, so that ``most - 1`` is
    one behind, ``most`` is level with the tie lost, ``most + 1`` level with the tie won and ``most + 2`` one ahead. A
    random walk over these is exact, ties included, since who was ahead before a tie reached its count first.
    """
    up, down, stay = (1 - split.rest) * split.share, (1 - split.rest) * (1 - split.share), split.rest
    lost, won, size = most, most + 1, 2 * most + 2
    now = [0.0 if position <= lost else 1.0 for position in range(size)]
    rows = [tuple(now)]
    for _ in range(most):
        # One up from "tie lost" and from "tie won" are both "one ahead"; one down are both "one behind".
        above = [*now[1:], 1.0]
        below = [0.0, *now[:-1]]
        above[lost] = now[won + 1]
        below[won] = now[lost - 1]
        # From one behind a level score is a lost tie, from one ahead a won one: that is where the neighbours lie.
        now = [up * a + down * b + stay * c for a, b, c in zip(above, below, now, strict=True)]
        rows.append(tuple(now))
    return tuple(rows)
