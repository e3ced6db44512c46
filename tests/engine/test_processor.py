"""The checks of ``inside``, each as a test. They need torch and vLLM: one process of the engine's Python runs all."""

import ast
import json
import os
import subprocess
from pathlib import Path

import pytest

INSIDE = Path(__file__).with_name("inside")
ENGINE_PYTHON = INSIDE.parents[2] / ".venv-engine" / "bin" / "python"
CHECKS = [
    node.name
    for module in ("loading", "steps", "routes")
    for node in ast.parse((INSIDE / f"{module}.py").read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
]


@pytest.fixture(scope="module")
def results():
    if not ENGINE_PYTHON.exists():
        reason = "there is no engine environment; run: make setup"
        if os.environ.get("SUFFICE_REQUIRE_ENGINE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    done = subprocess.run([ENGINE_PYTHON, INSIDE], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("check", CHECKS)
def test_inside_vllm(check, results):
    assert results[check] is None, results[check]
