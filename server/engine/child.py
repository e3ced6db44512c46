"""A child process that does not outlive us: started in a group of its own behind a watchdog, logged to a file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WATCHDOG = Path(__file__).with_name("watchdog.py")
_KILLED_S = 5
"""What the watchdog may take beyond its grace."""
_LONGEST_LINE = 300


class Child:
    """A running command with everything that it starts.

    A group of its own keeps a terminal's Ctrl-C from it: it is ended from here, in order.

    Args:
        command: What to run.
        log: File for its output, emptied first.
        grace_s: Seconds between SIGTERM and SIGKILL.
        errors_only: Throw its standard output away and log standard error only.
        environment: Variables to set where the environment does not set them already.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        grace_s: float = 10,
        errors_only: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        self._grace_s = grace_s
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-I", "-S", str(_WATCHDOG), str(grace_s), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL if errors_only else output,
                stderr=output,
                env=dict(environment or {}) | os.environ,
                start_new_session=True,
            )

    @property
    def session(self) -> int:
        """Session of its processes."""
        return self._process.pid

    def poll(self) -> int | None:
        """Exit code of the command, as a shell would tell it; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the command to end by itself.

        Returns:
            Its exit code, as a shell would tell it.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        return self._process.wait(timeout_s)

    def tail(self, *, lines: int = 30) -> str:
        """The end of its log; of a very long line, its beginning."""
        with contextlib.suppress(OSError):
            found = self.log.read_text(errors="replace").splitlines()[-lines:]
            return "\n".join(line[:_LONGEST_LINE] for line in found)
        return ""

    def stop(self) -> None:
        """End the command and every process that it started. May be called again."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(self._grace_s + _KILLED_S)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also when somebody is in a hurry and interrupts the wait
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
