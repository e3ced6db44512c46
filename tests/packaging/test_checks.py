"""What ``make check`` asks, asked in CI too: layers, types, docstrings, and the shape of the tree."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

LONGEST = 500
BIN = Path(sys.executable).parent


def _check(project, command, **variables):
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=project.root,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_imports_keep_to_the_layers(project, installed):
    told = _check(project, ["lint-imports", "--no-cache"], PYTHONPATH=str(installed))

    contracts = len(project.settings["tool"]["importlinter"]["contracts"])
    assert f"Contracts: {contracts} kept, 0 broken." in told


def test_types_are_strict(project, installed, modules):
    told = _check(project, ["mypy", "-p", "suffice"], MYPYPATH=str(installed))

    assert f"Success: no issues found in {modules} source files" in told


def test_public_names_have_docstrings(project):
    folders = [str(folder) for folder in project.mapping.values()]

    assert "PASSED" in _check(project, ["interrogate", "-c", "pyproject.toml", *folders])


@pytest.mark.parametrize("command", [("check", "."), ("format", "--check", ".")], ids=["lint", "format"])
def test_ruff_has_nothing_to_say(project, command):
    _check(project, ["ruff", *command])


def _imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_policies_import_the_standard_library_and_themselves_only(project):
    """The contract above names what is forbidden; here what is not known is forbidden as well."""
    foreign = {
        f"{file.name}: {name}"
        for file in project.mapping["suffice.policies"].rglob("*.py")
        for name in _imported(ast.parse(file.read_text()))
        if name.partition(".")[0] not in sys.stdlib_module_names and not name.startswith("suffice.policies")
    }

    assert foreign == set()


@pytest.fixture(scope="module")
def texts(project):
    """Every text of the project by its path: what git follows and what it would follow."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=project.root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this tree is no git repository")
    found = {}
    for name in filter(None, listed.stdout.split("\0")):
        path = project.root / name
        if path.is_file() and b"\0" not in (content := path.read_bytes())[:4096]:
            found[name] = content.decode()
    assert "README.md" in found
    return found


def test_a_file_is_one_thought(texts):
    lengths = {name: text.count("\n") for name, text in texts.items() if name.endswith((".py", ".mjs", ".ts", ".html"))}

    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


def test_no_text_names_a_place_on_one_machine(texts):
    # Written in pieces, so that this file does not find itself.
    places = re.compile("/" + "(?:work|home|root|Users)/[a-z]|/" + "opt/pypi")

    assert {name: found[0] for name, text in texts.items() if (found := places.search(text))} == {}
