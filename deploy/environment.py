"""Makes one virtual environment and installs a lock file into it, with progress. The Makefile runs it.

Needs Python and its standard library only. pip's own words go to ``pip.log`` in the environment; what is shown is one
line, and on failure the end of that log and a last line that says what to do. An environment that an earlier run did
not finish is made anew.
"""
# ruff: noqa: INP001, T201 - a script, and it prints

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "server"))

from progress import Step, step

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGE = re.compile(r" *(Collecting|Processing|Downloading) (\S+)(?: \((\S+ [kMG]B)\))?")
"""A line of pip's about one package, with its size where it is downloaded."""

UNREACHABLE = (
    "NewConnectionError",
    "Temporary failure in name resolution",
    "ConnectTimeoutError",
    "ProxyError",
    "Network is unreachable",
)


def main() -> int:
    """Make the environment; the exit code is 0, 1 for a failure, or 128 + N after signal N."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", required=True, help="what the progress line calls it")
    parser.add_argument("--folder", required=True, type=Path, help="the virtual environment")
    parser.add_argument("--lock", required=True, type=Path, help="file of requirements")
    parser.add_argument("--project", action="store_true", help="install this project too, editable")
    parser.add_argument("--isolated-build", action="store_true", help="build the project apart from the environment")
    parser.add_argument("--missing", default="", help="what to do when a release cannot be found")
    parser.add_argument("pip", nargs="*", help="more options of pip install")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _make(options)
    except _Failed as failure:
        print(f"{failure.log}\nfailed: {failure}".lstrip(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the next run makes this environment anew", file=sys.stderr)
        return 130
    return 0


class _Failed(Exception):
    """A step failed; the message says what to do about it."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _make(options: argparse.Namespace) -> None:
    folder: Path = options.folder
    unfinished = folder / ".unfinished"
    python = folder / "bin" / "python"
    with step(options.name, f"making {folder}") as progress:
        if unfinished.exists():
            shutil.rmtree(folder)
        if not python.exists():
            folder.mkdir(parents=True, exist_ok=True)
            unfinished.touch()
            _run([sys.executable, "-m", "venv", str(folder)], folder / "venv.log", progress, "", 0)
        unfinished.touch()
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off"]
        total = sum(line[:1].isalnum() for line in options.lock.read_text(encoding="utf-8").splitlines())
        _run([*pip, *options.pip, "-r", str(options.lock)], folder / "pip.log", progress, options.missing, total)
        if options.project:
            progress.tell("installing suffice itself")
            build = () if options.isolated_build else ("--no-build-isolation",)
            _run([*pip, "--no-deps", *build, "-e", "."], folder / "project.log", progress, "", 0)
        unfinished.unlink()
        progress.done(f"{folder} is ready, {total} packages")


def _run(command: list[str], log: Path, progress: Step, missing: str, total: int) -> None:
    """Run a command, its output into a log, and tell of the packages that pip names in it.

    Raises:
        _Failed: It ended with another code than 0.
    """
    process = subprocess.Popen(  # noqa: S603 - our own command
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None  # noqa: S101 - it is a pipe, for the type checker
    reader = threading.Thread(target=_follow, args=(process.stdout, log, progress, total))
    reader.start()
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    finally:
        reader.join()
    if code:
        text = log.read_text(encoding="utf-8", errors="replace")
        raise _Failed(f"{_reason(text, missing)}; the whole log is {log}", "\n".join(text.splitlines()[-15:]))


def _follow(output: Iterable[str], log: Path, progress: Step, total: int) -> None:
    seen = 0
    with log.open("w", encoding="utf-8") as file:
        for line in output:
            file.write(line)
            file.flush()
            if line.startswith(("Collecting ", "Processing ", "Ignoring ", "Requirement already satisfied")):
                seen += 1
            if total and (
                found := re.match(r" *(Collecting|Processing|Downloading) (\S+)(?: \((\S+ [kMG]B)\))?", line)
            ):
                name = os.path.basename(found[2]).partition("-")[0].partition("=")[0]  # noqa: PTH119 - a URL or a path
                size = f" ({found[3]})" if found[3] else ""
                progress.tell(f"{found[1].lower()} {name}{size}, {seen} of {total}")
            elif line.startswith("Installing collected packages"):
                progress.tell(f"installing {total} packages")


def _reason(log: str, missing: str) -> str:
    if "ensurepip is not" in log:
        return "this Python cannot make virtual environments; install your system's package for venv"
    if any(sign in log for sign in UNREACHABLE):
        return "the package index cannot be reached; is there a network, or a pip configuration that names a mirror?"
    if missing and "No matching distribution found" in log:
        return missing
    if "No space left on device" in log:
        return "the disk is full"
    return "packages could not be installed"


if __name__ == "__main__":
    raise SystemExit(main())
