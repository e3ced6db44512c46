"""The Makefile and what it makes environments with, as far as nothing needs to be downloaded."""

import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest
from fake_vllm.server import FakeVLLM

OFFLINE = {"PIP_INDEX_URL": "http://127.0.0.1:1", "PIP_RETRIES": "1", "PIP_CONFIG_FILE": os.devnull}


@pytest.fixture
def environment(project, tmp_path):
    """Runs ``deploy/environment.py`` on a lock file of the test's own."""

    def run(lock, **variables):
        (tmp_path / "lock.txt").write_text(lock)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        return subprocess.run(
            [sys.executable, str(project.root / "deploy" / "environment.py"), "--name", "engine", "--folder", "made",
             "--lock", "lock.txt", "--missing", "name an index", "--", "--no-deps"],
            cwd=tmp_path,
            env=inherited | variables,
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip

    return run


def test_an_environment_that_is_cut_short_is_made_anew(environment, tmp_path):
    failed = environment("no-such-package==1\n", PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("failed: name an index; the whole log is made/pip.log")
    assert "No matching distribution" in failed.stderr
    left = tmp_path / "made" / "left-over"
    left.touch()

    made = environment("", PIP_NO_INDEX="1")

    assert made.returncode == 0, made.stderr
    assert not left.exists()
    assert made.stdout.splitlines()[-1].startswith("engine      made is ready, 0 packages")
    assert not (tmp_path / "made" / ".unfinished").exists()


def test_an_index_that_cannot_be_reached_is_told(environment):
    failed = environment("no-such-package==1\n", **OFFLINE)

    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("failed: the package index cannot be reached; is there a network")


@pytest.fixture
def make(project, tmp_path):
    """Runs the Makefile in an empty folder whose environments seem to be there."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(project.root / name, tmp_path / name)
    for name in ("deploy", "server"):
        shutil.copytree(project.root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "suffice").write_text(f'#!/bin/sh\nexec {sys.executable} -m suffice.server "$@"\n')
    (tmp_path / ".venv" / "bin" / "suffice").chmod(0o755)

    def start(*arguments, ready=True):
        if ready:
            for name in (".venv", ".venv-engine"):
                (tmp_path / name).mkdir(exist_ok=True)
                (tmp_path / name / ".done").touch()
        with (tmp_path / "output").open("wb") as output:
            return psutil.Popen(
                ["make", *map(str, arguments)],
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    return start


def test_without_python_the_reason_is_told(make, tmp_path):
    assert make("run", "PYTHON=", ready=False).wait(60) == 2

    assert "failed: Python 3.11 or newer is needed and was not found" in (tmp_path / "output").read_text()


def test_an_upstream_needs_no_engine_environment(make, tmp_path):
    assert make("run", "UPSTREAM=http://127.0.0.1:1", "PORT=1", "--dry-run").wait(60) == 0

    commands = (tmp_path / "output").read_text()
    assert "suffice up --end-with-parent --port 1 " in commands
    assert "venv-engine" not in commands


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_make_run_ends_whole(make, tmp_path, number):
    from suffice.server.engine.local import free_port  # noqa: PLC0415

    with FakeVLLM() as fake:
        process = make("run", f"UPSTREAM={fake.url}", f"PORT={free_port()}", f"METRICS_PORT={free_port()}")
        family = [process]
        try:
            output = tmp_path / "output"
            fake.wait(lambda: process.poll() is not None or "serving; Ctrl-C" in output.read_text(), 60)
            assert "serving; Ctrl-C" in output.read_text(), output.read_text()
            family += process.children(recursive=True)
            assert len(family) == 4, "make, up, the watchdog and the gateway"
            if number == signal.SIGINT:
                os.killpg(process.pid, number)  # a terminal sends it to the whole group
            else:
                process.send_signal(number)
            process.wait(60)
            fake.wait(lambda: not any(_alive(one) for one in family), 60)
            assert "stopped" in output.read_text()
        finally:
            for one in family:
                if _alive(one):
                    one.kill()


def _alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
