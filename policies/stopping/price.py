"""Whether one more unit of optional work is worth its price.

Every optional unit (a probe, a longer thought) goes ahead by this one comparison; who moves the price, and how gains
are estimated, is told elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.policies.allocation.effort import tokens_cost

if TYPE_CHECKING:
    from suffice.policies.events import Priced


def worth(marginal_gain: float, cost: float, price: float = 1.0) -> bool:
    """Whether a unit's expected gain is more than it costs at the current price.

    Args:
        marginal_gain: Expected gain of the unit, in any unit of value.
        cost: What the unit takes of the resource, such as tokens.
        price: Value of one unit of the resource; 1 where gain and cost are counted in the same resource.

    Returns:
        False at equality, and whenever a value is not a number: work whose worth is unknown is not done.
    """
    return marginal_gain > cost * price


def thinking_pays(priced: Priced | None, doubt: float, held: int, tokens: int) -> bool:
    """Whether thinking on is worth its price; always where it costs nothing.

    Args:
        priced: The prices in force; None where none were told.
        doubt: The most that it can bring: the probability that it changes the answer.
        held: Tokens of the prompt and of the sample so far.
        tokens: Tokens that it is expected to take.
    """
    cost = tokens_cost(priced, held, tokens)
    return not cost > 0 or worth(doubt, cost)


def tokens_ahead(thought: int, due: int, usual: int | None, longest: int | None) -> int:
    """Tokens that a thought is expected to go on for: to its route's usual length, and to its next probe at least.

    Args:
        thought: Its tokens so far.
        due: Where its next probe is due.
        usual: What half of the route's thoughts keep to; None where unknown.
        longest: What it can take at most; None where nothing bounds it.
    """
    end = due if usual is None else max(due, usual)
    return max(0, (end if longest is None else min(end, longest)) - thought)
