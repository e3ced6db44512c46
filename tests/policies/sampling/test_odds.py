"""The tables against exact fractions."""

from fractions import Fraction
from math import comb, factorial, isclose

import pytest
from suffice.policies.sampling.odds import (
    chance_of_lead,
    chance_of_staying,
    evidence,
    evidence_table,
    lead_table,
    staying_row,
)

VOTES = [(lead, second) for lead in range(1, 13) for second in range(lead + 1)]


def exact_staying(lead, second, left, prior):
    """Beta-binomial by rising factorials, with ties won where the runner-up cast the last vote of the two."""

    def rising(start, steps):
        product = Fraction(1)
        for step in range(steps):
            product *= start + step
        return product

    total = Fraction(0)
    for gain in range(left + 1):
        chance = (
            comb(left, gain)
            * rising(lead + prior, gain)
            * rising(second + prior, left - gain)
            / rising(lead + second + 2 * prior, left)
        )
        if lead + gain > second + left - gain:
            total += chance
        elif lead + gain == second + left - gain:
            total += chance * (Fraction(left - gain, left) if left else 1)
    return total


def by_enumeration(lead, second, left, prior):
    """Every sequence of votes to come, as an urn draws them."""
    won = Fraction(0)
    pending = [(lead, second, left, True, Fraction(1))]
    while pending:
        a, b, rest, ahead, chance = pending.pop()
        if rest == 0:
            won += chance if ahead else 0
            continue
        up = (a + prior) / (a + b + 2 * prior)
        pending.append((a + 1, b, rest - 1, ahead or a + 1 > b, chance * up))
        pending.append((a, b + 1, rest - 1, ahead and a >= b + 1, chance * (1 - up)))
    return won


@pytest.mark.parametrize("prior", [Fraction(1, 2), Fraction(1), Fraction(3)], ids=str)
@pytest.mark.parametrize("left", [0, 1, 2, 5, 8])
def test_staying_is_exact_ties_included(prior, left):
    for lead, second in VOTES:
        exact = exact_staying(lead, second, left, prior)
        assert isclose(chance_of_staying(lead, second, left, float(prior)), exact, rel_tol=1e-10)
        if lead + second < 8:
            assert by_enumeration(lead, second, left, prior) == exact


def test_staying_with_many_votes_to_come_nears_the_posterior_of_leading():
    for lead, second in VOTES:
        assert abs(chance_of_staying(lead, second, 5000, 1.0) - chance_of_lead(lead, second)) < 2e-3


@pytest.mark.parametrize("prior", [0.5, 1.0], ids=["jeffreys", "uniform"])
@pytest.mark.parametrize("most", [5, 16, 40])
def test_rows_hold_exactly_the_safe_states_and_safety_only_grows(most, prior):
    for left in range(most):
        row, cast = staying_row(most, left, 0.05, prior), most - left
        for second in range(cast // 2 + 1):
            for lead in range(max(1, second), cast - second + 1):
                safe = chance_of_staying(lead, second, left, prior) >= 0.95
                assert safe == (second < len(row) and lead >= row[second])
                if left and safe:
                    assert chance_of_staying(lead, second, left - 1, prior) >= 0.95


@pytest.mark.parametrize("threshold", [0.6, 0.95, 0.999])
def test_lead_table_holds_exactly_the_safe_states(threshold):
    most, table = 40, lead_table(40, threshold)
    for second in range(most):
        for lead in range(second, most - second + 1):
            draws = lead + second + 1
            exact = Fraction(sum(comb(draws, k) for k in range(lead + 1)), 2**draws)
            assert isclose(chance_of_lead(lead, second), exact)
            assert (exact >= threshold) == (second < len(table) and lead >= table[second])


def exact_evidence(own, rival):
    """``2**(x+y) * 2 * B(x+1, y+1) * (1 - I_1/2(x+1, y+1))``."""
    beta = Fraction(factorial(own) * factorial(rival), factorial(own + rival + 1))
    draws = own + rival + 1
    above = Fraction(sum(comb(draws, k) for k in range(own + 1)), 2**draws)
    return 2 ** (own + rival) * 2 * beta * above


def test_evidence_is_the_uniform_mixture_and_fair_on_a_tie():
    for own in range(12):
        for rival in range(12):
            exact = exact_evidence(own, rival)
            assert isclose(evidence(own, rival), exact)
            # Equally likely answers: what is held now is what is to be expected after the next vote.
            assert (exact_evidence(own + 1, rival) + exact_evidence(own, rival + 1)) / 2 == exact
    assert evidence(0, 0) == 1
    assert evidence(3000, 0) == float("inf")
    assert evidence(3000, 3000) < 1


@pytest.mark.parametrize("level", [0.3, 0.045, 0.0025])
@pytest.mark.parametrize("most", [8, 40])
def test_evidence_table_holds_exactly_the_certified_states(level, most):
    table = evidence_table(most, level)
    for rival in range(most):
        for own in range(most - rival + 1):
            certified = exact_evidence(own, rival) >= 1 / Fraction(level)
            assert certified == (rival < len(table) and own >= table[rival])


def test_tables_of_large_votes_are_quick_enough_to_make_on_demand():
    assert lead_table(2000, 0.95)[0] == 4
    assert evidence_table(2000, 0.045)[0] == 7
    assert staying_row(1000, 999, 0.015, 0.5) == ()
