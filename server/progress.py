"""Progress on the standard output: one line a step, which tells what is done and for how long.

On a terminal the line changes in place. On anything else lines are added, the first at once and then every few
seconds, so that a log shows that something happens too. Standard library only: ``deploy/environment.py`` shows its
progress by it before anything is installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERY_S = 5.0
_TICK_S = 0.5
_NAME_WIDTH = 12
_TIME_WIDTH = 7
_WIDEST = 96


class Step:
    """One step under way. ``tell`` says what it does now, ``done`` what came of it; the last one wins."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.detail = ""
        self.result: str | None = None
        self._began = time.monotonic()

    def tell(self, detail: str) -> None:
        """Say what is being done."""
        self.detail = detail

    def done(self, result: str) -> None:
        """Say what came of it; shown when the step is left."""
        self.result = result

    def line(self, text: str) -> str:
        """The step's line, fitted to the terminal's width."""
        width = min(shutil.get_terminal_size((_WIDEST, 24)).columns - 1, _WIDEST)
        room = max(width - _NAME_WIDTH - _TIME_WIDTH, 10)
        shown = text if len(text) <= room else f"{text[: room - 1]}…"
        elapsed = f"{time.monotonic() - self._began:.0f} s"
        return f"{self.name:<{_NAME_WIDTH}}{shown:<{room}}{elapsed:>{_TIME_WIDTH}}"


@contextlib.contextmanager
def step(name: str, detail: str) -> Iterator[Step]:
    """Show a step for as long as the context lasts.

    Args:
        name: What it is about, in a word or two.
        detail: What is done first.
    """
    current = Step(name)
    current.tell(detail)
    live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    over = threading.Event()
    show = _in_place if live else _line_by_line
    ticker = threading.Thread(target=show, args=(current, over), daemon=True)
    ticker.start()
    try:
        yield current
    finally:
        over.set()
        ticker.join()
        if live:
            _write("\r\x1b[2K")
        if current.result is not None:
            _write(f"{current.line(current.result)}\n")


def _in_place(current: Step, over: threading.Event) -> None:
    while True:
        _write(f"\r\x1b[2K{current.line(current.detail)}")
        if over.wait(_TICK_S):
            return


def _line_by_line(current: Step, over: threading.Event) -> None:
    while True:
        _write(f"{current.line(current.detail)}\n")
        if over.wait(EVERY_S):
            return


def _write(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more; whoever works goes on
        sys.stdout.write(text)
        sys.stdout.flush()
