import json
import sqlite3
import stat

import pytest
from suffice.server.cli import app
from suffice.server.ledger.amounts import Limit, Resource, Window
from suffice.server.ledger.keys import PREFIX, KeyStore
from typer.testing import CliRunner


@pytest.fixture
def keys(tmp_path):
    """Runs ``suffice keys`` on a data directory of its own."""

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, ["keys", *map(str, arguments), "--data-dir", str(tmp_path)])
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def store(tmp_path):
    store = KeyStore(tmp_path)
    yield store
    store.close()


def test_a_created_key_is_shown_once_and_works(keys, store):
    lines = keys("create", "ada").stdout.splitlines()

    assert lines[0].startswith(PREFIX)
    assert store.lookup(lines[0]).name == "ada"
    assert lines[1] == f"Keep it now: it cannot be shown again. Its id is {store.lookup(lines[0]).id}."
    secret = lines[0].removeprefix(PREFIX).partition("-")[2]
    assert secret not in keys("list").stdout
    assert secret not in keys("list", "--json").stdout


def test_a_secret_is_nowhere_in_the_data_directory(keys, tmp_path):
    whole = keys("create", "ada").stdout.splitlines()[0]
    secret = whole.removeprefix(PREFIX).partition("-")[2]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]

    assert (tmp_path / "ledger.sqlite") in files
    for path in files:
        content = path.read_bytes()
        assert secret.encode() not in content, path.name
        assert whole.encode() not in content, path.name


def test_what_is_kept_is_an_hmac_under_a_private_pepper(keys, tmp_path):
    keys("create", "ada")
    with sqlite3.connect(tmp_path / "ledger.sqlite") as database:
        (digest,) = database.execute("SELECT hmac FROM keys").fetchone()
    database.close()

    assert len(digest) == 32
    assert stat.S_IMODE((tmp_path / "pepper").stat().st_mode) == 0o600


def test_json_names_everything_and_is_the_only_output(keys, store):
    made = json.loads(
        keys(
            "create", "ada", "--team", "research", "--limit", "tokens=1_000_000/day", "--limit", "requests=60/minute",
            "--max-total-tokens", 4096, "--max-thinking-tokens", 0, "--max-samples", 8, "--max-deadline-ms", 60_000,
            "--json",
        ).stdout
    )  # fmt: skip
    secret = made.pop("key")

    assert json.loads(keys("list", "--json").stdout) == [made]
    assert made["limits"] == ["tokens=1000000/day", "requests=60/minute"]
    assert made["revoked"] is None
    record = store.lookup(secret)
    assert (record.id, record.name, record.team) == (made["id"], "ada", "research")
    assert record.limits == (
        Limit(resource=Resource.TOKENS, limit=1_000_000, window=Window.DAY),
        Limit(resource=Resource.REQUESTS, limit=60, window=Window.MINUTE),
    )
    assert (record.max_total_tokens, record.max_thinking_tokens, record.max_samples, record.max_deadline_ms) == (
        4096,
        0,
        8,
        60_000,
    )


def test_the_table_tells_who_is_active(keys):
    keys("create", "ada", "--limit", "tokens=5")
    bob = json.loads(keys("create", "bob", "--json").stdout)
    keys("revoke", bob["id"])

    rows = {line.split("│")[2].strip(): line for line in keys("list").stdout.splitlines() if line.startswith("│")}
    assert "active" in rows["ada"]
    assert "tokens=5/life" in rows["ada"]
    assert "revoked" in rows["bob"]


def test_a_revoked_key_no_longer_works_and_cannot_be_revoked_again(keys, store):
    made = json.loads(keys("create", "ada", "--json").stdout)
    assert store.lookup(made["key"]) is not None

    assert keys("revoke", made["id"]).stdout == f"revoked {made['id']}\n"

    assert store.all()[0].revoked is not None
    assert store.lookup(made["key"]) is None
    assert keys("revoke", made["id"], code=1).stderr == f"no active key has the id {made['id']}\n"


def test_revoking_what_does_not_exist_fails_in_json_too(keys):
    result = keys("revoke", "nobody", "--json", code=1)

    assert json.loads(result.stdout) == {"id": "nobody", "revoked": False}


@pytest.mark.parametrize(
    "limit",
    ["tokens", "tokens=many/day", "tokens=1/fortnight", "money=1/day", "tokens=-1/day", "=1/day", ""],
    ids=["no-number", "word", "window", "resource", "negative", "nameless", "empty"],
)
def test_a_bad_limit_is_refused_and_makes_no_key(keys, limit):
    result = keys("create", "ada", f"--limit={limit}", code=2)

    assert "limit" in result.stderr
    assert "Traceback" not in result.output
    assert json.loads(keys("list", "--json").stdout) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [("--max-total-tokens", 0), ("--max-thinking-tokens", -1), ("--max-samples", 0), ("--max-deadline-ms", 0)],
)
def test_a_ceiling_that_allows_nothing_is_refused(keys, option, value):
    keys("create", "ada", option, value, code=2)

    assert json.loads(keys("list", "--json").stdout) == []


def test_a_damaged_database_is_told_in_one_line(keys, tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"this is no database" * 100)

    result = keys("list", code=2)

    assert result.stderr.startswith("the ledger cannot be opened")
    assert result.stderr.count("\n") == 1
