"""Whether an answer's code passes the operator's test: it is run, in a process of its own.

Runs only where the operator's file says ``run_untrusted_code: true``. The process gets no environment, an empty
directory that is removed afterwards, no packages beside the standard library, limits on CPU, memory, files and time,
and its process group is killed in the end. It still is this user's process on this machine: it can read what the
gateway can read and reach what the gateway can reach. Whoever cannot trust the code puts the gateway, or an ``http``
verifier, into a container that has nothing to lose. What must not be here: other checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from suffice.policies.answer_data import code_of

if TYPE_CHECKING:
    from suffice.server.config import UnitTestVerifier
    from suffice.server.gateway.dialects.base import Call

_RUNNER = """
import resource, sys
cpu, memory = int(sys.argv[1]), int(sys.argv[2])
for what, most in (
    (resource.RLIMIT_CPU, cpu), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 1 << 20),
    (resource.RLIMIT_NOFILE, 32), (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(what, (most, most))
with open("answer.py", encoding="utf-8") as answer, open("test.py", encoding="utf-8") as test:
    module = {"__name__": "answer"}
    code, tests = answer.read(), test.read()
exec(compile(code, "answer.py", "exec"), module)
exec(compile(tests, "test.py", "exec"), module)
"""


class UnitTestCheck:
    """Scores an answer 1 where its code and the test after it run to their end, else 0.

    Args:
        section: The test and its limits.

    Raises:
        OSError: The test cannot be read.
    """

    def __init__(self, section: UnitTestVerifier) -> None:
        self._section = section
        self._tests = section.tests.read_text(encoding="utf-8")
        self._room = asyncio.Semaphore(section.processes)

    async def score(self, call: Call, answer: str) -> float | None:  # noqa: ARG002 - what every check is given
        """Run an answer's code: the last fenced block, else all of it."""
        async with self._room:
            with tempfile.TemporaryDirectory(prefix="suffice-test-") as folder:
                place = Path(folder)
                (place / "answer.py").write_text(code_of(answer), encoding="utf-8", errors="replace")
                (place / "test.py").write_text(self._tests, encoding="utf-8")
                return float(await self._passes(place))

    async def _passes(self, place: Path) -> bool:
        section = self._section
        nothing = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-B", "-c", _RUNNER, str(section.cpu_s), str(section.memory_mb << 20),
            stdin=nothing, stdout=nothing, stderr=nothing, cwd=place, env={}, start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(section.timeout_s):
                return await process.wait() == 0
        except TimeoutError:
            return False
        finally:
            # The whole group: the code may have started others.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            if process.returncode is None:
                await asyncio.shield(process.wait())

    async def close(self) -> None:
        """Nothing to let go of."""
