import asyncio

import pytest
from suffice.server.ledger.amounts import Account, Amount, Denied, Granted, Limit, Resource, Window
from suffice.server.ledger.ledger import Ledger, LedgerUnavailable, connect

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


async def test_usage_is_charged_where_its_room_was_found(ledger, clock):
    """However long a request runs, it is charged to the window that granted it; a limit holds in every window."""
    await reserve(ledger, "r", 600)
    granted_at = clock.now
    clock.now = Window.DAY.end(clock.now) + 1
    await ledger.settle("r", Amount(tokens=500), "completed")
    assert await spent(ledger, "key:a") == (0, 0)
    clock.now = granted_at
    assert await spent(ledger, "key:a") == (500, 0)


async def test_an_amended_reservation_gives_the_difference_back(ledger):
    await reserve(ledger, "r", 600)
    ledger.amend("r", 200)
    assert await spent(ledger, "key:a") == (0, 200)
    ledger.amend("r", 900)
    ledger.amend("nobody's", 1)
    assert await spent(ledger, "key:a") == (0, 200)
    await ledger.settle("r", Amount(tokens=150), "completed")
    assert await spent(ledger, "key:a") == (150, 0)


async def test_numbers_that_no_database_holds_fail_alone_and_the_writer_lives_on(ledger):
    with pytest.raises(LedgerUnavailable):
        await ledger.reserve(request_id="big", accounts=(Account(id="key:z"),), amount=Amount(tokens=2**70))
    assert isinstance(await reserve(ledger, "r", 10), Granted)
    assert (ledger.stats.failures, ledger.stats.open) == (1, 1)


async def test_more_than_was_reserved_is_charged_and_counted(ledger):
    await reserve(ledger, "r", 10)
    await ledger.settle("r", Amount(tokens=25), "completed")
    assert ledger.stats.overshoot_tokens == 15
    assert await spent(ledger, "key:a") == (25, 0)


async def test_a_closed_ledger_answers_at_once(tmp_path):
    ledger = await Ledger.open(tmp_path / "closed.sqlite")
    await ledger.close()
    with pytest.raises(LedgerUnavailable, match="closed"):
        await reserve(ledger, "r", 1)


async def test_nobody_waits_for_the_answer_of_a_cancelled_request(ledger):
    waiting = asyncio.ensure_future(reserve(ledger, "r", 10))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await spent(ledger, "key:a") == (0, 10)


@pytest.mark.parametrize("damage", ["no-database", "is-a-folder"])
async def test_a_ledger_that_cannot_be_opened_says_so(tmp_path, damage):
    path = tmp_path / "bad.sqlite"
    if damage == "no-database":
        path.write_bytes(b"this is no database at all" * 100)
    else:
        path.mkdir()
    with pytest.raises(LedgerUnavailable, match="cannot be opened"):
        await Ledger.open(path)


async def test_a_ledger_that_cannot_be_recovered_lets_go_of_its_lock(tmp_path):
    path = tmp_path / "half.sqlite"
    ledger = await Ledger.open(path)
    ledger._db.execute("ALTER TABLE spent RENAME TO lost")
    await ledger.close()
    with pytest.raises(LedgerUnavailable):
        await Ledger.open(path)
    db = connect(path)
    db.execute("ALTER TABLE lost RENAME TO spent")
    db.close()
    await (await Ledger.open(path)).close()


async def test_old_windows_and_settled_reservations_are_forgotten(tmp_path, clock):
    path = tmp_path / "old.sqlite"
    ledger = await Ledger.open(path, clock=clock)
    await reserve(ledger, "r", 10)
    await ledger.settle("r", Amount(tokens=10), "completed")
    await ledger.close()
    clock.now += 1001 * 86400
    ledger = await Ledger.open(path, clock=clock, synchronous="normal")
    assert ledger._db.execute("SELECT count(*) FROM reservations").fetchone() == (0,)
    assert ledger._db.execute("SELECT DISTINCT window FROM spent").fetchall() == [("life",)]
    await ledger.close()


@pytest.mark.parametrize("resource", list(Resource))
def test_an_amount_has_every_resource(resource):
    assert Amount(**{resource.value: 7}).get(resource) == 7


@pytest.mark.parametrize(
    ("window", "start"),
    [
        (Window.MINUTE, 1_763_989_980),
        (Window.HOUR, 1_763_989_200),
        (Window.DAY, 1_763_942_400),
        (Window.WEEK, 1_763_942_400),
        (Window.MONTH, 1_761_955_200),
        (Window.LIFE, 0),
    ],
)
def test_windows_begin_at_utc_boundaries(window, start):
    assert window.start(1_763_990_000.5) == start
