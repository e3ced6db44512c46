"""The ``suffice`` command as users run it: a process, its output, and everything that it starts."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from fake_vllm import FakeVLLM

PATIENCE_S = 60


class Command:
    """One run of ``suffice``, its standard output and errors together in a file."""

    def __init__(self, log, *arguments, cwd=None, env=None):
        self._log = log
        with log.open("wb") as output:
            self.process = psutil.Popen(
                [sys.executable, "-m", "suffice.server", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=os.environ | (env or {}),
                start_new_session=True,
            )
        self._seen = {self.process}

    @property
    def output(self):
        return self._log.read_text()

    @property
    def last_line(self):
        return self.output.rstrip().rpartition("\n")[2]

    def family(self):
        """Every process that was seen to belong to the run and is still there."""
        if self.process.is_running():
            self._seen.update(self.process.children(recursive=True))
        return [one for one in self._seen if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    def wait_for(self, text):
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.output:
            self.family()
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)
        return self

    def wait(self):
        """Wait for its end.

        Returns:
            The exit code.
        """
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            self.family()
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)
        return self.process.returncode

    def send(self, number=signal.SIGINT):
        self.family()
        self.process.send_signal(number)
        return self

    def left_behind(self):
        """Processes of the run that are still there; those on their way out get some time."""
        deadline = time.monotonic() + PATIENCE_S
        while (left := self.family()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def end(self):
        for one in self.family():
            one.kill()
        self.process.wait(10)


@pytest.fixture
def suffice(tmp_path):
    """Starts ``suffice`` with arguments; whatever it leaves behind is ended after the test."""
    running = []

    def start(*arguments, **how):
        running.append(Command(tmp_path / f"output-{len(running)}.txt", *arguments, **how))
        return running[-1]

    yield start
    for command in running:
        command.end()


@pytest.fixture
def fake():
    with FakeVLLM() as server:
        yield server
