import stat

import pytest
from suffice.server.ledger.amounts import Resource, Window
from suffice.server.ledger.keys import KeyStore, ensure_local_key, parse_limit
from suffice.server.ledger.ledger import LedgerUnavailable


@pytest.fixture
def keys(tmp_path):
    store = KeyStore(tmp_path)
    yield store
    store.close()


def test_a_key_is_found_by_its_secret_only(keys):
    record, secret = keys.create("app", team="t", limits=(parse_limit("tokens=10/day"),), ceilings={"max_samples": 4})
    found = keys.lookup(secret)
    assert (found.id, found.name, found.team, found.max_samples) == (record.id, "app", "t", 4)
    assert keys.lookup(secret[:-1]) is None
    assert keys.lookup("") is None
    assert keys.lookup("é\udcff") is None


def test_the_secret_is_stored_nowhere(keys, tmp_path):
    _, secret = keys.create("app")
    keys._db.execute("PRAGMA wal_checkpoint")
    for path in tmp_path.iterdir():
        assert secret.encode() not in path.read_bytes()
        assert secret[20:].encode() not in path.read_bytes()


def test_a_revoked_key_is_unknown_at_once(keys):
    record, secret = keys.create("app")
    assert keys.lookup(secret)
    assert keys.revoke(record.id)
    assert keys.lookup(secret) is None
    assert not keys.revoke(record.id)


def test_the_local_key_stays_the_same_until_revoked(keys, tmp_path):
    secret = ensure_local_key(tmp_path, keys)
    assert ensure_local_key(tmp_path, keys) == secret
    assert stat.S_IMODE((tmp_path / "local_key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "pepper").stat().st_mode) == 0o600
    keys.revoke(keys.lookup(secret).id)
    assert ensure_local_key(tmp_path, keys) != secret


def test_a_teams_limits_pay_too(keys):
    keys.set_team("t", (parse_limit("requests=5/hour"),))
    record, _ = keys.create("app", team="t")
    accounts = keys.accounts(keys.lookup(_))
    assert [account.id for account in accounts] == [f"key:{record.id}", "team:t"]
    assert accounts[1].limits[0].resource is Resource.REQUESTS
    assert accounts[1].limits[0].window is Window.HOUR


@pytest.mark.parametrize("text", ["tokens", "tokens=x/day", "coins=1/day", "tokens=1/year", "tokens=-1/day"])
def test_bad_limits_say_what_is_right(text):
    with pytest.raises(ValueError, match=r"RESOURCE=NUMBER/WINDOW|negative"):
        parse_limit(text)


def test_a_key_without_a_team_pays_alone_and_an_unknown_team_has_no_limits(keys):
    alone, _ = keys.create("app", limits=(parse_limit("tokens=1_000"),))
    assert [(account.id, [str(limit) for limit in account.limits]) for account in keys.accounts(alone)] == [
        (f"key:{alone.id}", ["tokens=1000/life"])
    ]
    member, _ = keys.create("app", team="nowhere")
    assert keys.accounts(member)[1].limits == ()


def test_all_keys_are_listed_oldest_first_and_revoked_ones_too(keys):
    made = [keys.create(name)[0].id for name in "abc"]
    keys.revoke(made[1])
    assert [(key.id, key.revoked is not None) for key in keys.all()] == [
        (made[0], False),
        (made[1], True),
        (made[2], False),
    ]


def test_a_look_up_within_the_quarter_second_reads_nothing(keys):
    _, secret = keys.create("app")
    assert keys.lookup(secret)
    keys.close()
    assert keys.lookup(secret)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda keys: keys.create("app"), id="create"),
        pytest.param(lambda keys: keys.set_team("t", ()), id="team"),
        pytest.param(lambda keys: keys.revoke("x"), id="revoke"),
    ],
)
def test_a_database_that_takes_no_changes_says_so(keys, change):
    keys._db.execute("PRAGMA query_only = 1")
    with pytest.raises(LedgerUnavailable, match="cannot be changed"):
        change(keys)


def test_a_database_that_cannot_be_read_says_so(keys):
    keys._db.execute("ALTER TABLE teams RENAME TO lost")
    with pytest.raises(LedgerUnavailable, match="cannot be read"):
        keys.all()


def test_the_pepper_is_made_once_and_its_folder_with_it(tmp_path):
    first = KeyStore(tmp_path / "a" / "b")
    _, secret = first.create("app")
    first.close()
    second = KeyStore(tmp_path / "a" / "b")
    assert second.lookup(secret)
    second.close()
