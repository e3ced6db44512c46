"""Odds of two-way votes, computed exactly or to rounding, and the tables that rules look their limits up in.

All tables hold, for each number of votes of the runner-up, the fewest votes with which the leader is safe. They are
staircases (one vote more for the runner-up never lowers what the leader needs), so a walk along the steps builds one,
and an observed vote costs one comparison. What must not be here: any rule.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb, exp, inf, lgamma
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@lru_cache(maxsize=1 << 14)
def chance_of_lead(lead: int, second: int) -> float:
    """Probability that the leader is the more likely answer: ``1 - I_{1/2}(lead + 1, second + 1)``.

    The share of the leader among the two has a uniform prior. For whole numbers of votes it is a binomial sum,
    ``P(Bin(lead + second + 1, 1/2) <= lead)``, here in exact integers. Source: the stopping criterion of
    Adaptive-Consistency (arXiv 2305.11860).
    """
    draws = lead + second + 1
    below = sum(comb(draws, k) for k in range(lead + 1))
    return below / (1 << draws)


@lru_cache(maxsize=256)
def lead_table(most: int, threshold: float) -> tuple[int, ...]:
    """Fewest leader's votes with ``chance_of_lead >= threshold``, by the runner-up's votes, up to ``most`` in all."""
    return _staircase(most, lambda below, draws, _: below / (1 << draws) >= threshold)


def chance_of_staying(lead: int, second: int, left: int, prior: float) -> float:
    """Probability that the leader wins the full vote, if every vote still to come goes to one of the two.

    The leader's share of those votes has the prior Beta(prior, prior) and so, after the votes seen, their number is
    Beta-binomial. A tie is won by who reached the count first; the votes to come being exchangeable, the leader did
    when the last of them was the runner-up's, which has probability ``y / left`` where ``y`` of them are.

    Args:
        lead: Votes of the leader.
        second: Votes of the runner-up, at most ``lead``.
        left: Votes to come.
        prior: Pseudo-votes that each of the two starts with, above 0.

    Returns:
        From 0 to 1, exact to about twelve digits.
    """
    # Walk the leader's gains down from the largest with which it does not win outright.
    gains = (left - (lead - second)) // 2
    if gains < 0 or left == 0:
        return 1.0
    a, b = lead + prior, second + prior
    gain = gains
    term = exp(
        lgamma(left + 1) - lgamma(gain + 1) - lgamma(left - gain + 1)
        + lgamma(a + gain) + lgamma(b + left - gain) - lgamma(a + b + left)
        + lgamma(a + b) - lgamma(a) - lgamma(b)
    )  # fmt: skip
    tie = lead + gain == second + left - gain
    lost = term * gain / left if tie else term
    while gain > 0 and term > lost * 1e-17:
        term *= gain * (b + left - gain) / ((left - gain + 1) * (a + gain - 1))
        gain -= 1
        lost += term
    return max(0.0, 1.0 - lost)


@lru_cache(maxsize=4096)
def staying_row(most: int, left: int, risk: float, prior: float) -> tuple[int, ...]:
    """Fewest leader's votes with ``chance_of_staying >= 1 - risk``, by the runner-up's, with ``left`` to come.

    Rows are made when a vote first needs them and kept; a row costs about ``most * left / 2`` multiplications.
    """
    cast = most - left
    row = []
    lead = 1
    for second in range(cast // 2 + 1):
        lead = max(lead, second)
        while lead + second <= cast and chance_of_staying(lead, second, left, prior) < 1 - risk:
            lead += 1
        if lead + second > cast:
            break
        row.append(lead)
    return tuple(row)


@lru_cache(maxsize=1 << 14)
def evidence(own: int, rival: int) -> float:
    """E-value for "the target is more frequent than the rival" after so many votes for each.

    The uniform mixture over bets: ``2 * int_{1/2}^1 (2 q)^own (2 (1 - q))^rival dq``, which for whole numbers is
    ``own! rival! / (own + rival + 1)! * sum_{k <= own} C(own + rival + 1, k)``.
    """
    draws = own + rival + 1
    below = sum(comb(draws, k) for k in range(own + 1))
    try:
        return below / (draws * comb(own + rival, own))
    except OverflowError:
        return inf


@lru_cache(maxsize=256)
def evidence_table(most: int, level: float) -> tuple[int, ...]:
    """Fewest votes of a target with ``evidence >= 1 / level``, by its strongest rival's, up to ``most`` in all."""
    return _staircase(most, lambda below, draws, ways: below / (draws * ways) >= 1 / level)


def _staircase(most: int, enough: Callable[[int, int, int], bool]) -> tuple[int, ...]:
    """Walk the boundary of a condition that more own votes meet and more of the rival's undo.

    The binomial sums are carried along in exact integers: ``S(m + 1, k) = 2 S(m, k) - C(m, k)``.

    Args:
        most: Votes in all where the walk ends.
        enough: The condition on ``S(m, own)``, ``m`` and ``C(m - 1, own)``, where ``m = own + rival + 1``.
    """
    table = []
    own, draws, below, ways = 0, 1, 1, 1
    while draws <= most + 1:
        below_next = 2 * below - comb(draws, own)
        if enough(below, draws, ways):
            table.append(own)
        else:
            own += 1
            below_next += comb(draws + 1, own)
        below = below_next
        draws += 1
        ways = comb(draws - 1, own)
    return tuple(table)
