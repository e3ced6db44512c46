"""A scheduler is bound to its worker's cores, and nobody else is."""

import os
import subprocess
import sys

import pytest
from suffice.server.engine import cores

ENGINE = """
import ctypes, os, subprocess, sys, time
name = lambda text: ctypes.CDLL(None).prctl(15, text.encode(), 0, 0, 0)
if os.fork() == 0:
    name("VLLM::Worker_TP0")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print("ready", flush=True)
    time.sleep(60)
time.sleep(60)
"""


@pytest.fixture
def engine():
    """A process with a child that has a worker's name and one core; its session is its own."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one core only")
    process = subprocess.Popen([sys.executable, "-c", ENGINE], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b"ready\n"
    yield process
    os.killpg(process.pid, 9)
    process.wait()
    process.stdout.close()


def test_the_scheduler_goes_to_its_workers_core(engine, monkeypatch):
    monkeypatch.setattr(cores, "FEW", 10_000)
    before = os.sched_getaffinity(0)
    assert cores.share_cores(engine.pid) == 1
    assert os.sched_getaffinity(engine.pid) == {min(before)}
    assert os.sched_getaffinity(0) == before
    assert cores.share_cores(engine.pid) == 0


def test_other_sessions_are_left_alone(engine, monkeypatch):
    monkeypatch.setattr(cores, "FEW", 10_000)
    assert cores.share_cores(os.getpid()) == 0
    assert len(os.sched_getaffinity(engine.pid)) > 1


def test_where_there_are_many_cores_nothing_is_bound(engine, monkeypatch):
    monkeypatch.setattr(cores, "FEW", 0)
    assert cores.share_cores(engine.pid) == 0
    assert len(os.sched_getaffinity(engine.pid)) > 1
