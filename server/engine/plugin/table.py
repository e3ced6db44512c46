"""The table of signals: memory that vLLM's front end and its engine processes share, one line a running request.

The front end writes what the gateway decided; the engine reads one word of it a step, and writes beside it what it
did. A line belongs to whoever's nonce stands in it, so that a signal for a request that is gone reaches nobody.
Nothing is ever locked between the two sides: each word has one writer and is written whole, and the word that carries
a signal holds a digest of the nonce that it was meant for.

The file lies in a directory that only its owner can enter. What must not be here: torch, vLLM, HTTP.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
import tempfile
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Self

from suffice.server.engine.plugin.arguments import SLOTS

ENVIRONMENT = "SUFFICE_ENGINE_TABLE"
"""Names the table's file where vLLM's processes cannot agree on one by themselves (several API servers)."""

_MAGIC = int.from_bytes(b"suffice\x01", "little")
_HEADER = 8  # words
_LINE = 16  # words
_OWNER, _COUNTS, _AGREED, _AGREED_CHECK, _CLOSED, _STOPPED, _SIGNAL_NONCE, _SIGNAL = 0, 1, 2, 3, 4, 8, 12, 13
_NAME_BYTES = 24
_LOW = 2**32 - 1
_WORD = 2**64 - 1
_DIGEST = 2**24 - 1


class Action(IntEnum):
    """What a signal asks for; of two for one request the greater stands."""

    CAP = 1
    """From now on the thought may have this many tokens in all; may be raised or lowered while it runs."""
    CLOSE_THOUGHT = 2
    """End the thought at the next token and let the model answer."""
    STOP = 3
    """End the generation at the next token."""


class StaleNonce(Exception):
    """The slot belongs to another request, or to none."""


class NoTable(Exception):
    """The table cannot be made or opened; the message says why and names no path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """What made the engine close a thought or stop.

    Attributes:
        rule: Name of the rule; ``thinking_tokens`` for the cap, ``signal`` for the gateway's own decision.
        at_token: Tokens that the request had generated when it was decided.
    """

    rule: str
    at_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the engine did for one request so far.

    Attributes:
        tokens: Tokens seen.
        thinking: Those of them that belong to the thought.
        closed: What closed the thought; None where nothing has.
        stopped: What stopped the generation; None where nothing has.
    """

    tokens: int
    thinking: int
    closed: Fired | None
    stopped: Fired | None


def default_path(instance: str) -> Path:
    """Where the table of a vLLM instance lies: in memory where the system has such a place."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named)
    shared = Path("/dev/shm")  # noqa: S108 - the directory made in it is the owner's alone
    base = shared if shared.is_dir() else Path(tempfile.gettempdir())
    name = "".join(letter for letter in instance if letter.isalnum() or letter in "-_")
    return base / f"suffice-{os.getuid()}" / f"{name}.signals"


class SignalTable:
    """One mapped table. Its file lives as long as a process has it open; see ``create`` and ``open``."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, _size())
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("Q")

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make the table, or join the processes of the same engine that have made it. Sweeps tables nobody has open.

        Raises:
            NoTable: The directory is not ours alone, or the system refuses.
        """
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            found = path.parent.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise NoTable("the directory of signal tables is open to others")
            _sweep(path)
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if os.fstat(descriptor).st_nlink:
                    break
                os.close(descriptor)  # swept between the two calls
            os.ftruncate(descriptor, _size())
            table = cls(descriptor)
        except OSError as error:
            raise NoTable(f"the signal table could not be made: {error.strerror}") from error
        table._words[0] = _MAGIC
        return table

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a table that the engine has made.

        Raises:
            NoTable: There is none, or it is not one of this version.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise NoTable(f"the signal table could not be opened: {error.strerror}") from error
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        found = os.fstat(descriptor)
        if found.st_size != _size() or found.st_uid != os.getuid():
            os.close(descriptor)
            raise NoTable("the signal table is not of this version")
        table = cls(descriptor)
        if table._words[0] != _MAGIC:
            table.close()
            raise NoTable("the signal table is not of this version")
        return table

    def close(self) -> None:
        """Unmap and forget it."""
        self._words.release()
        self._bytes.release()
        self._map.close()
        os.close(self._descriptor)

    # -- the engine's side

    def claim(self, slot: int, nonce: int) -> None:
        """Make a request the slot's tenant; a former one loses it. Nothing happens where it is that already."""
        base = _base(slot)
        if self._words[base + _OWNER] == nonce:
            return
        self._words[base + _OWNER] = 0
        for word in (_COUNTS, _CLOSED, _STOPPED):
            self._words[base + word] = 0
        self._words[base + _OWNER] = nonce

    def signal(self, slot: int) -> int:
        """The word of the slot's latest signal, to be compared with the last one and then ``decode``d."""
        word: int = self._words[_base(slot) + _SIGNAL]
        return word

    def decode(self, slot: int, nonce: int, word: int) -> tuple[Action, int] | None:
        """What a word asks of the request with this nonce, and its value; None where it is not meant for it."""
        if self._words[_base(slot) + _SIGNAL_NONCE] != nonce:
            return None
        return decode(nonce, word)

    def agree(self, slot: int, word: int, at_token: int) -> None:
        """Tell the other ranks of this engine at which token a signal takes effect."""
        base = _base(slot)
        self._words[base + _AGREED_CHECK] = _check(word, at_token)
        self._words[base + _AGREED] = word

    def agreed(self, slot: int) -> tuple[int, int] | None:
        """The signal that the leading rank took up and the token at which it takes effect."""
        base = _base(slot)
        word, check = self._words[base + _AGREED], self._words[base + _AGREED_CHECK]
        at_token: int = check >> 32
        return (word, at_token) if word and check == _check(word, at_token) else None

    def count(self, slot: int, tokens: int, thinking: int) -> None:
        """Tell how far the request is."""
        self._words[_base(slot) + _COUNTS] = tokens & _LOW | (thinking & _LOW) << 32

    def tell(self, slot: int, fired: Fired, *, stopped: bool) -> None:
        """Tell what closed the thought or stopped the generation."""
        base = _base(slot) + (_STOPPED if stopped else _CLOSED)
        name = fired.rule.encode("ascii", "replace")[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0")
        self._bytes[(base + 1) * 8 : (base + 1) * 8 + _NAME_BYTES] = name
        self._words[base] = (fired.at_token & _LOW) << 1 | 1

    # -- the front end's side

    def post(self, slot: int, nonce: int, action: Action, value: int = 0) -> None:
        """Leave a signal for the slot's tenant; it is read before the next token. A weaker one changes nothing.

        Raises:
            StaleNonce: The request is not there: not started yet, or its slot has another tenant.
        """
        base = _base(slot)
        self._check_owner(base, nonce)
        with self._writing():
            held = decode(nonce, self._words[base + _SIGNAL])
            if held is not None and self._words[base + _SIGNAL_NONCE] == nonce and held[0] > action:
                return
            self._words[base + _SIGNAL_NONCE] = nonce
            self._words[base + _SIGNAL] = encode(nonce, action, value)

    def status(self, slot: int, nonce: int) -> Status:
        """What the engine did for a request; it stands until the slot has another tenant.

        Raises:
            StaleNonce: The request is not there.
        """
        base = _base(slot)
        self._check_owner(base, nonce)
        counts = self._words[base + _COUNTS]
        status = Status(
            tokens=counts & _LOW, thinking=counts >> 32, closed=self._fired(base + _CLOSED),
            stopped=self._fired(base + _STOPPED),
        )  # fmt: skip
        self._check_owner(base, nonce)
        return status

    def _check_owner(self, base: int, nonce: int) -> None:
        if nonce == 0 or self._words[base + _OWNER] != nonce:
            raise StaleNonce("no such request is running in this slot")

    def _fired(self, base: int) -> Fired | None:
        word = self._words[base]
        if not word:
            return None
        name = bytes(self._bytes[(base + 1) * 8 : (base + 1) * 8 + _NAME_BYTES])
        return Fired(rule=name.rstrip(b"\0").decode("ascii", "replace"), at_token=word >> 1)

    @contextlib.contextmanager
    def _writing(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
        """Keeps several API servers from overtaking each other; the engine never waits for it."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


def encode(nonce: int, action: Action, value: int) -> int:
    """A signal in one word."""
    return action | (value & _LOW) << 8 | _digest(nonce) << 40


def decode(nonce: int, word: int) -> tuple[Action, int] | None:
    """What a word asks, or None where its digest is not the nonce's or it asks nothing."""
    action = word & 0xFF
    if word >> 40 != _digest(nonce) or action not in Action.__members__.values():
        return None
    return Action(action), word >> 8 & _LOW


def _digest(nonce: int) -> int:
    return (nonce * 0x9E3779B97F4A7C15 & _WORD) >> 40 & _DIGEST


def _check(word: int, at_token: int) -> int:
    """The token in the upper half; in the lower a digest of both, which tells a half-written pair."""
    at_token &= _LOW
    mixed = (word ^ at_token << 13) * 0x9E3779B97F4A7C15 & _WORD
    return at_token << 32 | mixed >> 32


def _base(slot: int) -> int:
    if not 0 <= slot < SLOTS:
        raise IndexError("no such slot")
    return _HEADER + slot * _LINE


def _size() -> int:
    return (_HEADER + SLOTS * _LINE) * 8


def _sweep(own: Path) -> None:
    """Remove tables of engines that are gone: nobody holds their lock."""
    for path in own.parent.glob("*.signals"):
        if path == own:
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)
