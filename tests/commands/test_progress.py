import os
import pty
import re
import subprocess
import sys
import time
import tty

import pytest
from suffice.server import progress

SLOW = """
import time
from suffice.server.progress import step
with step("model", "downloading") as one:
    time.sleep(0.3)
    one.tell("converting " + "x" * 200)
    time.sleep(1.2)
    one.done("ready")
"""


def test_a_pipe_gets_plain_lines_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY_S", 0.2)
    with progress.step("model", "downloading") as one:
        time.sleep(0.1)
        one.tell("converting")
        time.sleep(0.5)
        one.done("ready")

    lines = [re.sub(r" {2,}", " ", line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "model downloading 0 s"
    assert lines[1].startswith("model converting")
    assert re.fullmatch(r"model ready \d s", lines[-1])


def test_a_step_that_fails_tells_no_result(capsys):
    with pytest.raises(ZeroDivisionError), progress.step("model", "downloading"):
        raise ZeroDivisionError

    assert capsys.readouterr().out.count("\n") == 1


def test_a_terminal_gets_one_line_that_changes_and_fits():
    reader, writer = pty.openpty()
    tty.setraw(writer)
    environment = os.environ | {"COLUMNS": "40", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", SLOW], stdout=writer, env=environment)
    os.close(writer)
    seen = b""
    while True:
        try:
            piece = os.read(reader, 4096)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(reader)
    assert process.wait(30) == 0

    shown = [part for part in seen.decode().split("\r\x1b[2K") if part]
    assert shown[0].startswith("model       downloading")
    assert any("converting x" in part and "…" in part for part in shown)
    assert all(len(part.rstrip("\n")) < 40 for part in shown)
    assert [part for part in shown if part.endswith("\n")] == [shown[-1]]
    assert shown[-1].startswith("model       ready")


def test_a_reader_that_left_stops_nothing():
    script = f"import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1)\n{SLOW}\nraise SystemExit(7)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)

    assert done.returncode in {7, 120}, done.stderr  # 120: Python could not flush what nobody reads
