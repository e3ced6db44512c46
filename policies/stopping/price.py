"""Whether one more unit of optional work is worth its price.

Every optional unit (a probe, a sample, a longer thought) goes ahead by this one comparison; who moves the price, and
how gains are estimated, is told elsewhere.
"""

from __future__ import annotations


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
