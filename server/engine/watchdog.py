"""Stands between us and a child process: when we end, however we end, the child and all that it started end too.

Run by ``child.Child`` as ``python watchdog.py GRACE_S COMMAND...``, as the leader of a process group of its own. Our
end of its standard input is the sign of life: the kernel closes it even after SIGKILL. Standard library only; nothing
of the package may be imported here, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import Any, NoReturn


class _Told(Exception):
    """We are to end the child."""


def _told(*_: Any) -> NoReturn:
    raise _Told


def _await_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(grace_s: float, command: list[str]) -> int:
    """Run a command until it ends or our standard input closes; then end the whole group.

    Args:
        grace_s: Seconds between SIGTERM and SIGKILL.
        command: What to run.

    Returns:
        The command's exit code, in a shell's way: 128 + N where signal N ended it.
    """
    if os.getpgrp() != os.getpid():
        raise SystemExit("the watchdog must lead a process group, since it ends its group")
    signal.signal(signal.SIGTERM, _told)
    child = None
    try:
        # The thread starts after the child, so that the child inherits no lock that a thread holds.
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - the command of our parent
        threading.Thread(target=_await_parent, daemon=True).start()
        code = child.wait()
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201 - the log of the command
        return 127
    except _Told:
        code = None
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    if code is None:
        if child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(grace_s)
        os.killpg(0, signal.SIGKILL)
    return code if code is not None and code >= 0 else 128 - (code or 0)


if __name__ == "__main__":
    raise SystemExit(main(float(sys.argv[1]), sys.argv[2:]))
