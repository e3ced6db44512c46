"""The wheel, built once from a copy of the sources and installed apart from them."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="session")
def project():
    """``pyproject.toml``, and the import name of each directory that it maps."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    mapping = settings["tool"]["setuptools"]["package-dir"]
    return SimpleNamespace(root=ROOT, settings=settings, mapping={name: ROOT / path for name, path in mapping.items()})


def _pip(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def sources(project, tmp_path_factory):
    """A copy of what is built, which keeps what a build leaves behind out of our tree."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        shutil.copy(ROOT / name, copy / name)
    for folder in project.mapping.values():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(folder, copy / folder.relative_to(ROOT), ignore=ignored, dirs_exist_ok=True)
    return copy


@pytest.fixture(scope="session")
def modules(sources):
    """How many Python files there are to be packaged."""
    return len(list(sources.rglob("*.py")))


@pytest.fixture(scope="session")
def wheel(sources, modules, tmp_path_factory):
    """The built wheel; the modules were counted before the build left copies of them."""
    out = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, sources)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """A folder for ``PYTHONPATH`` with the wheel in it; it comes before the editable install."""
    folder = tmp_path_factory.mktemp("installed")
    _pip("install", "--no-deps", "--no-index", "--target", folder, wheel)
    return folder
