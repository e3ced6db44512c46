"""Whether the accounts can be opened."""

from __future__ import annotations

import fcntl
import sqlite3
from typing import TYPE_CHECKING

from suffice.server.doctor.patient import failure, ok, warning

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "ledger"
_OPEN = "SELECT count(*) FROM reservations WHERE state = 'open'"


def check(patient: Patient) -> Finding:
    """Open it for reading only: what a dead gateway left open is for the next one to settle."""
    path = patient.data_dir / "ledger.sqlite"
    if not path.exists():
        return ok(NAME, "none yet; it is made at the first start")
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            verdict = database.execute("PRAGMA quick_check").fetchone()[0]
            left_open = database.execute(_OPEN).fetchone()[0]
        finally:
            database.close()
    except sqlite3.Error as error:
        return failure(NAME, f"cannot be read: {error}", "restore it from a backup, or name another --data-dir")
    if verdict != "ok":
        return failure(NAME, f"damaged: {str(verdict).splitlines()[0]}", "restore it from a backup")
    if _in_use(patient):
        return warning(
            NAME, f"sound; a gateway uses it now, {left_open} requests open", "stop it before starting another"
        )
    return ok(NAME, f"sound, {left_open} reservations for the next start to settle")


def _in_use(patient: Patient) -> bool:
    lock = patient.data_dir / "ledger.sqlite.lock"
    if not lock.exists():
        return False
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
