"""A thousand requests at once on a budget for a hundred: nothing is overdrawn, and refusals are clean."""

from __future__ import annotations

import asyncio

import pytest
from bench.load import read_books
from bench.race import FITS, fake_upstream, race
from processes import GatewayProcess

MANY = 1000
WHO = pytest.mark.parametrize("team", [False, True], ids=["one-key", "a-team-of-keys"])


def holds(gateway, result, told):
    assert result.other == {}
    assert result.overshoot == 0
    assert result.peak <= result.limit
    assert result.still_reserved == 0
    assert result.spent == result.receipts <= result.limit
    # A refusal means that less than one more worst case fits, so a hundred were let in before the first.
    assert FITS <= result.admitted < MANY
    assert result.admitted + sum(result.refused.values()) == MANY
    assert result.refused.keys() <= {"rate_limit_exceeded", "insufficient_quota"}
    for one in told:
        if one.error == "rate_limit_exceeded":
            assert int(one.headers["retry-after-ms"]) > 0
            assert "x-should-retry" not in one.headers
        elif one.error == "insufficient_quota":
            assert one.headers["x-should-retry"] == "false"
    books = read_books(gateway.data_dir)
    assert all(row.state == "settled" and row.used <= row.reserved for row in books.reservations.values())
    assert all(books.charged(account) == spent for account, spent in books.spent.items())
    assert not any(books.held.values())


@pytest.fixture(scope="module")
def before_the_fake(tmp_path_factory):
    with fake_upstream() as (url, model):
        gateway = GatewayProcess(url, tmp_path_factory.mktemp("gateway"))
        gateway.start()
        yield gateway, model
        gateway.stop()


@WHO
def test_before_the_fake(before_the_fake, team):
    gateway, model = before_the_fake
    holds(gateway, *asyncio.run(race(gateway, model, MANY, team=team)))


@pytest.mark.live
@WHO
def test_before_a_real_engine(live_engine, gateway, team):
    holds(gateway, *asyncio.run(race(gateway, live_engine.model, MANY, team=team)))
