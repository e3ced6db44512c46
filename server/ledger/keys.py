"""API keys: 256 random bits, shown once, kept as an HMAC; with the team, the limits and the ceilings they carry."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suffice.server.ledger.amounts import Account, Limit, Resource, Window
from suffice.server.ledger.ledger import LedgerUnavailable, connect

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PREFIX = "sk-suffice-"
_ID_LENGTH = 8
_RECHECK_S = 0.25
CEILINGS = ("max_total_tokens", "max_thinking_tokens", "max_samples", "max_deadline_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What is known of a key; its secret is not.

    The ceilings bound any one request of the key; ``limits`` bound its account.
    """

    id: str
    name: str
    team: str | None = None
    limits: tuple[Limit, ...] = ()
    created: float = 0.0
    revoked: float | None = None
    max_total_tokens: int | None = None
    max_thinking_tokens: int | None = None
    max_samples: int | None = None
    max_deadline_ms: int | None = None


def parse_limit(text: str) -> Limit:
    """``tokens=100000/day`` as a limit.

    Raises:
        ValueError: It has another form; the message says which.
    """
    try:
        name, _, rest = text.partition("=")
        amount, _, window = rest.partition("/")
        limit = Limit(resource=Resource(name), limit=int(amount.replace("_", "")), window=Window(window or "life"))
    except ValueError:
        raise ValueError(
            f"{text!r} is no limit; write RESOURCE=NUMBER/WINDOW with a resource of "
            f"{', '.join(Resource)} and a window of {', '.join(Window)}"
        ) from None
    if limit.limit < 0:
        raise ValueError(f"{text!r}: a limit cannot be negative")
    return limit


class KeyStore:
    """Keys and teams in the ledger's database; commands in other processes may change them at any time."""

    def __init__(self, data_dir: Path) -> None:
        self._db = connect(data_dir / "ledger.sqlite")
        self._pepper = _pepper(data_dir / "pepper")
        self._cache: dict[str, tuple[bytes, KeyRecord]] = {}
        self._teams: dict[str, tuple[Limit, ...]] = {}
        self._checked = 0.0

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def create(
        self,
        name: str,
        *,
        team: str | None = None,
        limits: Sequence[Limit] = (),
        ceilings: dict[str, int] | None = None,
    ) -> tuple[KeyRecord, str]:
        """A new key and its secret, which nothing can show again."""
        key_id = "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(_ID_LENGTH))
        secret = f"{PREFIX}{key_id}-{secrets.token_urlsafe(32)}"
        kept = {field: value for field, value in (ceilings or {}).items() if value is not None}
        record = KeyRecord(id=key_id, name=name, team=team, limits=tuple(limits), created=time.time(), **kept)
        self._change(
            "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
            (key_id, name, team, self._digest(secret), _dump(limits), json.dumps(kept), record.created),
        )
        return record, secret

    def set_team(self, name: str, limits: Sequence[Limit]) -> None:
        """Create a team or change its limits; its usage stays."""
        self._change(
            "INSERT INTO teams VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET limits = excluded.limits",
            (name, _dump(limits)),
        )

    def all(self) -> list[KeyRecord]:
        """All keys, revoked ones included, oldest first."""
        self._refresh(force=True)
        return sorted((record for _, record in self._cache.values()), key=lambda record: record.created)

    def revoke(self, key_id: str) -> bool:
        """Revoke a key.

        Returns:
            False if there is no such key or it was revoked before.
        """
        return self._change("UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", (time.time(), key_id)) > 0

    def lookup(self, secret: str) -> KeyRecord | None:
        """The key of a secret, unless it is unknown or revoked. The same work is done for any secret."""
        self._refresh()
        key_id = secret[len(PREFIX) : len(PREFIX) + _ID_LENGTH]
        digest, record = self._cache.get(key_id, (bytes(32), None))
        matches = hmac.compare_digest(digest, self._digest(secret))
        if not matches or record is None or record.revoked is not None:
            return None
        return record

    def accounts(self, key: KeyRecord) -> tuple[Account, ...]:
        """The accounts that pay for a key's requests: its own and its team's."""
        own = Account(id=f"key:{key.id}", limits=key.limits)
        if key.team is None:
            return (own,)
        return own, Account(id=f"team:{key.team}", limits=self._teams.get(key.team, ()))

    def _change(self, statement: str, values: tuple[Any, ...]) -> int:
        try:
            changed = self._db.execute(statement, values).rowcount
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"keys cannot be changed: {error}") from error
        self._checked = 0.0
        return changed

    def _digest(self, secret: str) -> bytes:
        return hmac.digest(self._pepper, secret.encode("utf-8", "surrogateescape"), hashlib.sha256)

    def _refresh(self, *, force: bool = False) -> None:
        """Read the tables again if any process changed the database; looks at most every quarter of a second."""
        now = time.monotonic()
        if not force and now - self._checked < _RECHECK_S and self._checked:
            return
        self._checked = now
        cache: dict[str, tuple[bytes, KeyRecord]] = {}
        columns = "id, name, team, hmac, limits, ceilings, created, revoked"
        try:
            rows = self._db.execute(f"SELECT {columns} FROM keys").fetchall()  # noqa: S608 - constant text
            teams = self._db.execute("SELECT name, limits FROM teams").fetchall()
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"keys cannot be read: {error}") from error
        for key_id, name, team, digest, limits, ceilings, created, revoked in rows:
            record = KeyRecord(
                id=key_id,
                name=name,
                team=team,
                limits=_load(limits),
                created=created,
                revoked=revoked,
                **json.loads(ceilings),
            )
            cache[key_id] = (digest, record)
        self._cache = cache
        self._teams = {name: _load(limits) for name, limits in teams}


def ensure_local_key(data_dir: Path, keys: KeyStore) -> str:
    """The key of a gateway without a configuration: made once, kept in ``<data-dir>/local_key`` for the owner only."""
    path = data_dir / "local_key"
    if path.exists():
        secret = path.read_text(encoding="ascii").strip()
        if keys.lookup(secret) is not None:
            return secret
    _, secret = keys.create("local")
    _write_private(path, secret.encode() + b"\n")
    return secret


def _pepper(path: Path) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_private(path, secrets.token_bytes(32))
    return path.read_bytes()


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _dump(limits: Sequence[Limit]) -> str:
    return json.dumps([str(limit) for limit in limits])


def _load(text: str) -> tuple[Limit, ...]:
    return tuple(parse_limit(item) for item in json.loads(text))
