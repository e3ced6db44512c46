"""Whether the data directory can be written, and has room."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING

from suffice.server.doctor.patient import failure, ok, warning
from suffice.server.quantities import show_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from suffice.server.doctor.patient import Finding, Patient

NAME = "data directory"
ROOMY = 2**30
SCARCE = 64 * 2**20
"""Bytes below which the ledger's next write may be the one that fails."""


def check(patient: Patient) -> Finding:
    """Write a file and remove it; where the directory is not there yet, in the one that it will be made in."""
    place = _existing(patient.data_dir.absolute())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"suffice")
            file.flush()
    except OSError as error:
        return failure(
            NAME, f"cannot be written: {error.strerror}", "name another with --data-dir, or give it to this user"
        )
    free = shutil.disk_usage(place).free
    found = f"writable, {show_bytes(free)} free"
    if free < SCARCE:
        return failure(NAME, found, "make room: the ledger refuses requests that it cannot write down")
    if free < ROOMY:
        return warning(NAME, found, "make room; event logs grow with every request")
    return ok(NAME, found)


def _existing(place: Path) -> Path:
    while not place.exists() and place != place.parent:
        place = place.parent
    return place
