import asyncio

import pytest
from suffice.server.ledger.amounts import Account, Amount, Denied, Granted, Limit, Resource, Window
from suffice.server.ledger.ledger import Ledger, LedgerUnavailable

pytestmark = pytest.mark.anyio

TOKENS_PER_DAY = Limit(resource=Resource.TOKENS, limit=1000, window=Window.DAY)
KEY = Account(id="key:a", limits=(TOKENS_PER_DAY,))
TEAM = Account(id="team:t", limits=(Limit(resource=Resource.TOKENS, limit=1500, window=Window.LIFE),))


class Clock:
    now = 1_700_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def ledger(tmp_path, clock):
    ledger = await Ledger.open(tmp_path / "ledger.sqlite", clock=clock, checkpoint_tokens=50)
    yield ledger
    await ledger.close()


async def spent(ledger, account, window=Window.DAY):
    usage = await ledger.usage(account)
    return usage.spent[Resource.TOKENS, window], usage.reserved[Resource.TOKENS]


async def reserve(ledger, name, tokens, *accounts):
    return await ledger.reserve(request_id=name, accounts=accounts or (KEY,), amount=Amount(tokens=tokens, requests=1))


async def test_reserve_then_settle(ledger):
    assert await reserve(ledger, "r", 600) == Granted(request_id="r")
    assert await spent(ledger, "key:a") == (0, 600)
    assert await ledger.settle("r", Amount(tokens=250, requests=1), "completed")
    assert await spent(ledger, "key:a") == (250, 0)


async def test_settling_twice_charges_once(ledger):
    await reserve(ledger, "r", 600)
    assert await ledger.settle("r", Amount(tokens=250), "completed")
    assert not await ledger.settle("r", Amount(tokens=250), "completed")
    assert await spent(ledger, "key:a") == (250, 0)
    assert ledger.stats.duplicates == 1


async def test_what_is_in_flight_counts(ledger):
    await reserve(ledger, "r", 600)
    denied = await reserve(ledger, "s", 500)
    assert isinstance(denied, Denied)
    assert not denied.exhausted
    assert await spent(ledger, "key:a") == (0, 600)


async def test_what_is_spent_exhausts_until_the_window_turns(ledger, clock):
    await reserve(ledger, "r", 600)
    await ledger.settle("r", Amount(tokens=600), "completed")
    denied = await reserve(ledger, "s", 500)
    assert isinstance(denied, Denied)
    assert denied.exhausted
    clock.now += denied.retry_after_s
    assert isinstance(await reserve(ledger, "s", 500), Granted)


async def test_all_accounts_or_none(ledger):
    assert isinstance(await reserve(ledger, "r", 900, KEY, TEAM), Granted)
    other = Account(id="key:b", limits=(TOKENS_PER_DAY,))
    denied = await reserve(ledger, "s", 900, other, TEAM)
    assert isinstance(denied, Denied)
    assert denied.account == "team:t"
    assert await spent(ledger, "key:b") == (0, 0)


async def test_usage_survives_a_change_of_rules(ledger):
    await reserve(ledger, "r", 600)
    await ledger.settle("r", Amount(tokens=600), "completed")
    weekly = Account(id="key:a", limits=(Limit(resource=Resource.TOKENS, limit=700, window=Window.WEEK),))
    denied = await reserve(ledger, "s", 200, weekly)
    assert isinstance(denied, Denied)
    assert denied.spent == 600


async def test_a_thousand_at_once_on_a_budget_for_a_hundred(ledger):
    results = await asyncio.gather(*(reserve(ledger, f"r{i}", 10) for i in range(1000)))
    assert sum(isinstance(result, Granted) for result in results) == 100
    assert await spent(ledger, "key:a") == (0, 1000)


@pytest.mark.parametrize(
    ("checkpoints", "charged"),
    [
        pytest.param([], 50, id="none"),
        pytest.param([10, 100, 120], 150, id="some"),
        pytest.param([590], 600, id="near-the-end"),
    ],
)
async def test_a_crash_charges_the_last_checkpoint_and_one_interval(tmp_path, clock, checkpoints, charged):
    path = tmp_path / "crash.sqlite"
    first = await Ledger.open(path, clock=clock, checkpoint_tokens=50)
    await reserve(first, "r", 600)
    for tokens in checkpoints:
        first.checkpoint("r", tokens)
    await first.close()
    second = await Ledger.open(path, clock=clock, checkpoint_tokens=50)
    assert second.stats.recovered == 1
    assert await spent(second, "key:a") == (charged, 0)
    assert not await second.settle("r", Amount(tokens=600), "completed")
    await second.close()


async def test_two_gateways_cannot_share_a_ledger(tmp_path, ledger):
    with pytest.raises(LedgerUnavailable, match="another gateway"):
        await Ledger.open(tmp_path / "ledger.sqlite")


async def test_a_failing_disk_changes_nothing(tmp_path, clock):
    ledger = await Ledger.open(tmp_path / "full.sqlite", clock=clock)
    await reserve(ledger, "r", 100)
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")
    failed = 0
    for i in range(200):
        try:
            await reserve(ledger, f"s{i}-" + "x" * 400, 1)
        except LedgerUnavailable:
            failed += 1
    assert failed
    held = (await spent(ledger, "key:a"))[1]
    assert held == 100 + 200 - failed
    ledger._db.execute("PRAGMA max_page_count = 1000000")
    assert isinstance(await reserve(ledger, "after", 1), Granted)
    await ledger.close()


async def test_a_newer_schema_is_refused(tmp_path):
    ledger = await Ledger.open(tmp_path / "new.sqlite")
    ledger._db.execute("PRAGMA user_version = 99")
    await ledger.close()
    with pytest.raises(LedgerUnavailable, match="schema 99"):
        await Ledger.open(tmp_path / "new.sqlite")


@pytest.mark.parametrize("window", list(Window))
def test_windows_turn_where_they_say(window):
    now = 1_763_990_000.0
    end = window.end(now)
    if window is Window.LIFE:
        assert end is None
    else:
        assert window.start(now) <= now < end
        assert window.start(end) == end
        assert window.start(end - 1) == window.start(now)
