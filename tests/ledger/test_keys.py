import stat

import pytest
from suffice.server.ledger.amounts import Resource, Window
from suffice.server.ledger.keys import KeyStore, ensure_local_key, parse_limit


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
