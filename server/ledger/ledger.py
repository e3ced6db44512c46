"""Budgets that hold across requests: reserve the worst case, settle what was used, recover after a crash.

One SQLite database in WAL mode, one writer thread, one transaction for everything that waits (group commit). The truth
is in the database: limits are checked in the transaction that reserves. After every commit, for every account and
every limit it was granted under, ``spent + reserved <= limit``.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import queue
import sqlite3
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from suffice.server.ledger.amounts import Account, Amount, Denied, Granted, Resource, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

T = TypeVar("T")

SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS spent (
    account TEXT NOT NULL, resource TEXT NOT NULL, window TEXT NOT NULL, start INTEGER NOT NULL,
    amount INTEGER NOT NULL, PRIMARY KEY (account, resource, window, start)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reserved (
    account TEXT NOT NULL, resource TEXT NOT NULL, amount INTEGER NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (account, resource)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservations (
    request_id TEXT PRIMARY KEY, state TEXT NOT NULL, accounts TEXT NOT NULL,
    tokens INTEGER NOT NULL, requests INTEGER NOT NULL, kv_block_ms INTEGER NOT NULL,
    used_tokens INTEGER NOT NULL DEFAULT 0, used_kv_block_ms INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL, settled REAL, outcome TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS reservations_open ON reservations (state) WHERE state = 'open';
CREATE INDEX IF NOT EXISTS reservations_settled ON reservations (settled) WHERE state = 'settled';
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, team TEXT, hmac BLOB NOT NULL, limits TEXT NOT NULL,
    ceilings TEXT NOT NULL, created REAL NOT NULL, revoked REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS teams (name TEXT PRIMARY KEY, limits TEXT NOT NULL) WITHOUT ROWID;
"""

KEEP_SETTLED_S = 30 * 86400
KEEP_WINDOWS_S = {
    Window.MINUTE: 3600,
    Window.HOUR: 7 * 86400,
    Window.DAY: 90 * 86400,
    Window.WEEK: 366 * 86400,
    Window.MONTH: 1000 * 86400,
}
RETRY_IN_FLIGHT_S = 0.5
"""When to try again for room that requests in flight hold."""
_BATCH = 512


class LedgerUnavailable(Exception):
    """The database cannot be used now: locked by another gateway, full disk, damaged. Nothing was half-applied."""


@dataclass(slots=True)
class Stats:
    """Running counts for metrics; written by the ledger, read by whoever exports them."""

    granted: int = 0
    denied: int = 0
    settled: int = 0
    duplicates: int = 0
    recovered: int = 0
    commits: int = 0
    operations: int = 0
    failures: int = 0
    overshoot_tokens: int = 0
    open: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an account used and holds.

    Attributes:
        spent: By resource and window, in the windows that are current.
        reserved: By resource, by requests in flight.
    """

    spent: dict[tuple[Resource, Window], int]
    reserved: dict[Resource, int]


def connect(path: Path, *, synchronous: str = "full") -> sqlite3.Connection:
    """A connection with the ledger's settings and schema.

    Raises:
        LedgerUnavailable: The file cannot be opened, is damaged, or was written by a newer version.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    except (sqlite3.Error, OSError) as error:
        raise LedgerUnavailable(f"the ledger cannot be opened: {error}") from error
    try:
        _prepare(db, synchronous)
    except sqlite3.Error as error:
        db.close()
        raise LedgerUnavailable(f"the ledger cannot be opened: {error}") from error
    except LedgerUnavailable:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, synchronous: str) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {'FULL' if synchronous == 'full' else 'NORMAL'}")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise LedgerUnavailable(f"the ledger has schema {version}; this version knows {SCHEMA_VERSION}")
    if version < SCHEMA_VERSION:
        db.executescript(SCHEMA)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


class Ledger:
    """The accounts of one gateway. Open it with ``Ledger.open``."""

    def __init__(
        self, db: sqlite3.Connection, lock: Any, *, checkpoint_tokens: int, clock: Callable[[], float]
    ) -> None:
        self.stats = Stats()
        self._db = db
        self._lock = lock
        self._checkpoint_tokens = checkpoint_tokens
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any] | None] | None] = (
            queue.SimpleQueue()
        )
        self._checkpoints: dict[str, int] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._thread.start()

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        checkpoint_tokens: int = 256,
        clock: Callable[[], float] = time.time,
        synchronous: str = "full",
    ) -> Ledger:
        """Open a ledger for this process alone and settle what a dead process left open.

        A reservation left open is charged its last checkpoint and one checkpoint's tokens more, at most what it had
        reserved: never less than what was reported, and at most one interval too much.

        Raises:
            LedgerUnavailable: Another gateway has it, or the database cannot be used.
        """
        db = connect(path, synchronous=synchronous)
        lock = path.with_name(path.name + ".lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            db.close()
            raise LedgerUnavailable("another gateway uses this ledger") from error
        ledger = cls(db, lock, checkpoint_tokens=checkpoint_tokens, clock=clock)
        try:
            await ledger._submit(ledger._recover)
        except LedgerUnavailable:
            await ledger.close()
            raise
        return ledger

    async def reserve(self, *, request_id: str, accounts: Sequence[Account], amount: Amount) -> Granted | Denied:
        """Reserve for all accounts or for none. Durable when it returns.

        Raises:
            LedgerUnavailable: The database failed; nothing was reserved.
        """
        return await self._submit(lambda: self._reserve(request_id, tuple(accounts), amount))

    def amend(self, request_id: str, tokens: int) -> None:
        """Lower the tokens of an open reservation; a higher number changes nothing. Never waits."""
        self._queue.put((lambda: self._amend(request_id, tokens), None))

    def checkpoint(self, request_id: str, tokens: int) -> None:
        """Note the tokens used so far; written once they grew by a checkpoint's worth. Never waits."""
        last = self._checkpoints.get(request_id)
        if last is not None and tokens - last < self._checkpoint_tokens:
            return
        self._checkpoints[request_id] = tokens
        self._queue.put((lambda: self._checkpoint(request_id, tokens), None))

    async def settle(self, request_id: str, used: Amount, outcome: str) -> bool:
        """Charge what was used and give the rest back. Durable when it returns.

        Returns:
            False if the reservation was settled before; nothing is charged twice.

        Raises:
            LedgerUnavailable: The database failed; the reservation stays open and is recovered at the next start.
        """
        self._checkpoints.pop(request_id, None)
        return await self._submit(lambda: self._settle(request_id, used, outcome))

    async def usage(self, account: str) -> Usage:
        """What an account used in the current windows and holds reserved."""
        return await self._submit(lambda: self._usage(account))

    async def close(self) -> None:
        """Commit what waits and let go of the file."""
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._db.close()
        self._lock.close()

    async def _submit(self, operation: Callable[[], T]) -> T:
        if self._closed:
            raise LedgerUnavailable("the ledger is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((operation, future))
        return await future

    def _write(self) -> None:
        """The writer thread: everything that waits goes into one transaction."""
        stopping = False
        while not stopping:
            batch = [self._queue.get()]
            while len(batch) < _BATCH:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            stopping = None in batch
            work = [item for item in batch if item is not None]
            if not work:
                continue
            outcomes = self._commit([operation for operation, _ in work])
            waiting = [
                (future, outcome) for (_, future), outcome in zip(work, outcomes, strict=True) if future is not None
            ]
            if waiting:
                with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                    self._loop.call_soon_threadsafe(_resolve, waiting)

    def _commit(self, operations: list[Callable[[], Any]]) -> list[Any]:
        before = dataclasses.asdict(self.stats)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            outcomes = [operation() for operation in operations]
            self._db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whatever happened, the writer lives on and everybody hears of it
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            for name, count in before.items():
                setattr(self.stats, name, count)
            self.stats.failures += 1
            return [LedgerUnavailable(f"the ledger cannot be written: {error}")] * len(operations)
        self.stats.commits += 1
        self.stats.operations += len(operations)
        return outcomes

    def _reserve(self, request_id: str, accounts: tuple[Account, ...], amount: Amount) -> Granted | Denied:
        now = self._clock()
        for account in accounts:
            for limit in account.limits:
                needed = amount.get(limit.resource)
                spent = self._spent(account.id, limit.resource, limit.window, now)
                reserved = self._reserved(account.id, limit.resource)
                if spent + reserved + needed > limit.limit:
                    self.stats.denied += 1
                    exhausted = spent + needed > limit.limit
                    end = limit.window.end(now)
                    turn = None if end is None else max(end - now, 0.001)
                    return Denied(
                        account=account.id,
                        limit=limit,
                        spent=spent,
                        reserved=reserved,
                        needed=needed,
                        exhausted=exhausted,
                        retry_after_s=turn if exhausted else RETRY_IN_FLIGHT_S,
                    )
        self._db.execute(
            "INSERT INTO reservations (request_id, state, accounts, tokens, requests, kv_block_ms, created)"
            " VALUES (?, 'open', ?, ?, ?, ?, ?)",
            (request_id, json.dumps([a.id for a in accounts]), amount.tokens, amount.requests, amount.kv_block_ms, now),
        )
        for account in accounts:
            self._hold(account.id, amount, 1)
        self.stats.granted += 1
        self.stats.open += 1
        return Granted(request_id=request_id)

    def _amend(self, request_id: str, tokens: int) -> None:
        row = self._open_row(request_id)
        if row is None or tokens >= row[1]:
            return
        self._db.execute("UPDATE reservations SET tokens = ? WHERE request_id = ?", (tokens, request_id))
        for account in json.loads(row[0]):
            self._hold(account, Amount(tokens=row[1] - tokens), -1)

    def _checkpoint(self, request_id: str, tokens: int) -> None:
        self._db.execute(
            "UPDATE reservations SET used_tokens = max(used_tokens, ?) WHERE request_id = ? AND state = 'open'",
            (tokens, request_id),
        )

    def _settle(self, request_id: str, used: Amount, outcome: str) -> bool:
        row = self._open_row(request_id)
        if row is None:
            self.stats.duplicates += 1
            return False
        now = self._clock()
        held = Amount(tokens=row[1], requests=row[2], kv_block_ms=row[3])
        created = row[4]
        self._db.execute(
            "UPDATE reservations SET state = 'settled', settled = ?, outcome = ?, used_tokens = ?, used_kv_block_ms = ?"
            " WHERE request_id = ?",
            (now, outcome, used.tokens, used.kv_block_ms, request_id),
        )
        for account in json.loads(row[0]):
            self._hold(account, held, -1)
            self._charge(account, used, created)
        self.stats.overshoot_tokens += max(0, used.tokens - held.tokens)
        self.stats.settled += 1
        self.stats.open -= 1
        return True

    def _recover(self) -> None:
        rows = self._db.execute(
            "SELECT request_id, tokens, requests, used_tokens, used_kv_block_ms FROM reservations WHERE state = 'open'"
        ).fetchall()
        self.stats.open = len(rows)
        for request_id, tokens, requests, used_tokens, used_kv in rows:
            used = min(tokens, used_tokens + self._checkpoint_tokens)
            self._settle(request_id, Amount(tokens=used, requests=requests, kv_block_ms=used_kv), "recovered")
        self.stats.recovered = len(rows)
        now = self._clock()
        self._db.execute("DELETE FROM reservations WHERE state = 'settled' AND settled < ?", (now - KEEP_SETTLED_S,))
        for window, age in KEEP_WINDOWS_S.items():
            self._db.execute("DELETE FROM spent WHERE window = ? AND start < ?", (window.value, now - age))

    def _usage(self, account: str) -> Usage:
        now = self._clock()
        return Usage(
            spent={(r, w): self._spent(account, r, w, now) for r in Resource for w in Window},
            reserved={resource: self._reserved(account, resource) for resource in Resource},
        )

    def _open_row(self, request_id: str) -> tuple[str, int, int, int, float] | None:
        row: tuple[str, int, int, int, float] | None = self._db.execute(
            "SELECT accounts, tokens, requests, kv_block_ms, created FROM reservations"
            " WHERE request_id = ? AND state = 'open'",
            (request_id,),
        ).fetchone()
        return row

    def _spent(self, account: str, resource: Resource, window: Window, now: float) -> int:
        row = self._db.execute(
            "SELECT amount FROM spent WHERE account = ? AND resource = ? AND window = ? AND start = ?",
            (account, resource.value, window.value, window.start(now)),
        ).fetchone()
        return row[0] if row else 0

    def _reserved(self, account: str, resource: Resource) -> int:
        row = self._db.execute(
            "SELECT amount FROM reserved WHERE account = ? AND resource = ?", (account, resource.value)
        ).fetchone()
        return row[0] if row else 0

    def _hold(self, account: str, amount: Amount, sign: int) -> None:
        for resource in Resource:
            value = sign * amount.get(resource)
            if value:
                changed = self._db.execute(
                    "UPDATE reserved SET amount = amount + ? WHERE account = ? AND resource = ?",
                    (value, account, resource.value),
                ).rowcount
                if not changed:
                    self._db.execute("INSERT INTO reserved VALUES (?, ?, ?)", (account, resource.value, value))

    def _charge(self, account: str, used: Amount, reserved_at: float) -> None:
        """Count in every window, whatever limits there are now, so that changing a rule never resets usage.

        The windows are those in which the reservation was granted: its room was found there, so a limit holds in each
        window however the clock jumps in between.
        """
        rows = [
            (account, resource.value, window.value, window.start(reserved_at), used.get(resource))
            for resource in Resource
            if used.get(resource)
            for window in Window
        ]
        self._db.executemany(
            "INSERT INTO spent VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (account, resource, window, start) DO UPDATE SET amount = amount + excluded.amount",
            rows,
        )


def _resolve(waiting: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in waiting:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
