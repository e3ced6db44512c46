"""The odds that more votes change a winner, from the counts of the leader and the runner-up.

With a uniform prior on how the votes split between the two, the leader's share is ``Beta(a + 1, b + 1)``; the odds
that the true majority is the other one are the tail of that below one half. For whole numbers the tail is a sum of
binomial coefficients, so it is exact. What must not be here: which sample to draw, at which price.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb


@lru_cache(maxsize=8192)
def flip_probability(leader: int, runner_up: int) -> float:
    """Odds that the runner-up is the true majority: ``P(Beta(leader + 1, runner_up + 1) < 1/2)``.

    Args:
        leader: Votes of the leader.
        runner_up: Votes of the strongest other answer; 0 where there is none.

    Returns:
        A probability of at most one half while the leader leads.
    """
    votes = leader + runner_up + 1
    return sum(comb(votes, heads) for heads in range(leader + 1, votes + 1)) / (1 << votes)


def vote_gain(leader: int, runner_up: int, waiting: int = 0) -> float:
    """What one more vote is worth: the odds that the winner is wrong, over the votes that it takes to turn it.

    Args:
        leader: Votes of the leader.
        runner_up: Votes of the strongest other answer.
        waiting: Votes that are being drawn already; each of them may do the same.
    """
    return flip_probability(leader, runner_up) / (leader - runner_up + 1 + waiting)
