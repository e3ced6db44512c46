import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from suffice.server.engine.child import Child


@pytest.fixture
def start(tmp_path):
    children = []

    def run(script, **options):
        children.append(Child(["sh", "-c", script], log=tmp_path / "log", **options))
        return children[-1]

    yield run
    for child in children:
        child.stop()


def _await(condition):
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def _gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 128 + signal.SIGKILL)],
    ids=["ok", "failed", "killed"],
)
def test_the_exit_code_is_the_commands(start, script, code):
    assert start(script).wait(120) == code


def test_a_command_that_does_not_exist_is_127_and_told_in_the_log(tmp_path):
    child = Child([str(tmp_path / "nothing")], log=tmp_path / "log")

    assert child.wait(120) == 127
    assert child.tail().endswith("nothing: No such file or directory")
    child.stop()


def test_output_goes_to_the_log_and_the_tail_is_its_end(start):
    child = start("echo one; echo two >&2; echo three")
    child.wait(120)

    assert child.tail() == "one\ntwo\nthree"
    assert child.tail(lines=1) == "three"


def test_the_tail_of_a_very_long_line_is_its_beginning(start):
    child = start("printf 'begin%0900d' 0")
    child.wait(120)

    assert child.tail().startswith("begin000")
    assert len(child.tail()) == 300


def test_standard_output_can_be_kept_out_of_the_log(start):
    child = start("echo secret; echo told >&2", errors_only=True)
    child.wait(120)

    assert child.tail() == "told"


def test_the_environment_wins_over_what_is_set_for_the_command(start, monkeypatch):
    monkeypatch.setenv("SUFFICE_TEST_A", "theirs")
    child = start(
        "echo $SUFFICE_TEST_A $SUFFICE_TEST_B", environment={"SUFFICE_TEST_A": "ours", "SUFFICE_TEST_B": "ours"}
    )
    child.wait(120)

    assert child.tail() == "theirs ours"


def test_stop_ends_what_the_command_started_in_order(start):
    child = start("trap 'echo bye; exit' TERM; sleep 600 & echo $!; wait", grace_s=20)
    inner = int(_await(child.tail))

    child.stop()

    assert child.tail().endswith("bye")
    assert _gone(inner)
    child.stop()  # once more does nothing


def test_stop_ends_what_does_not_listen(start):
    child = start("trap '' TERM; sleep 600 & echo $!; wait; sleep 600", grace_s=0.2)
    inner = int(_await(child.tail))

    child.stop()

    assert _gone(inner)
    assert child.poll() is not None


def test_what_a_command_leaves_when_it_ends_by_itself_ends_too(start):
    child = start("sleep 600 & echo $!; exit 4")

    assert child.wait(120) == 4
    inner = int(child.tail())
    child.stop()
    _await(lambda: _gone(inner))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_the_command_ends_when_its_parent_does(tmp_path, number):
    script = (
        "import pathlib, sys, time\n"
        "from suffice.server.engine.child import Child\n"
        "Child(['sh', '-c', 'sleep 600 & echo $! $$; wait'], log=pathlib.Path(sys.argv[1]), grace_s=1)\n"
        "time.sleep(600)\n"
    )
    log = tmp_path / "log"
    parent = subprocess.Popen([sys.executable, "-c", script, str(log)])
    pids = _await(lambda: log.exists() and log.read_text().split())

    parent.send_signal(number)
    parent.wait(10)

    _await(lambda: all(_gone(int(pid)) for pid in pids))


def test_a_watchdog_that_leads_no_group_refuses_to_run():
    """It would end the group of whoever started it."""
    from suffice.server.engine import watchdog  # noqa: PLC0415

    done = subprocess.run(
        [sys.executable, watchdog.__file__, "1", "true"],
        capture_output=True,
        text=True,
        check=False,
        process_group=os.getpgrp(),
    )

    assert done.returncode == 1
    assert "must lead a process group" in done.stderr
