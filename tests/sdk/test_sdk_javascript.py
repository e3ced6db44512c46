"""The official openai client for JavaScript, through the gateway against real vLLM.

``clients/javascript/conformance.mjs`` drives it and prints what it saw; the expectations stand here.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.live

SOURCE = Path(__file__).parents[2] / "clients" / "javascript"
REQUIRED = os.environ.get("SUFFICE_REQUIRE_ENGINE") == "1"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the JavaScript package with what its lock file names, installed once."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        assert not REQUIRED, "node and npm are required here and missing"
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("javascript")
    for name in ("package.json", "package-lock.json", "conformance.mjs"):
        shutil.copy(SOURCE / name, folder / name)
    done = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def seen(package, gateway):
    """What the JavaScript client saw, by case."""
    environment = {
        "PATH": os.environ["PATH"],
        "OPENAI_BASE_URL": f"{gateway.url}/v1",
        "OPENAI_API_KEY": gateway.key,
        "SUFFICE_MODEL": gateway.model,
    }
    done = subprocess.run(
        ["node", "conformance.mjs"],
        cwd=package,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _agrees(told, usage, total):
    spent = told["spent"]
    assert told["request_id"]
    assert told["plan"]["limits"]["total_tokens"][0] == total
    assert spent["completion_tokens"] + spent["probe_tokens"] + spent["cancelled_tokens"] == usage["completion_tokens"]
    assert 0 < usage["completion_tokens"] <= total


def test_the_official_javascript_client_works(seen):
    """One run of the script, since each case of it is a request and node's start is most of the time."""
    total = seen["total_tokens"]

    whole = seen["chat"]
    assert whole["said"]
    assert whole["finish_reason"] in {"stop", "length"}
    _agrees(whole["suffice"], whole["usage"], total)

    stream = seen["chat_stream"]
    assert stream["said"]
    assert stream["chunks_with_receipt"] == [stream["chunks"] - 1], "the last chunk, and no other"
    assert stream["last_choices"] == 0
    _agrees(stream["suffice"], stream["usage"], total)

    assert seen["chat_stream_without_usage"] == {"chunks_with_usage": 0, "chunks_without_choices": 0}

    assert seen["two_samples"]["indices"] == [0, 1]
    _agrees(seen["two_samples"]["suffice"], seen["two_samples"]["usage"], total)
    assert seen["two_samples"]["suffice"]["spent"]["samples"] == 2
    assert seen["two_samples_stream"]["ended"] == [0, 1]

    for case in ("tools", "tools_stream"):
        assert seen[case]["name"] == "weather"
        assert json.loads(seen[case]["arguments"])["unit"] in {"celsius", "kelvin"}
    assert json.loads(seen["json_schema"]["content"])["unit"] in {"celsius", "kelvin"}

    assert seen["completion"]["usage"]["completion_tokens"] <= 32
    assert seen["response"]["usage"]["output_tokens"] <= 64
    assert seen["response_stream"]["types"][0] == "response.created"
    assert seen["response_stream"]["types"][-1] in {"response.completed", "response.incomplete"}
    assert seen["models"]["listed"]

    expected = {
        "unknown_model": ("NotFoundError", 404, "model_not_found"),
        "bad_key": ("AuthenticationError", 401, "invalid_api_key"),
        "unknown_key": ("BadRequestError", 400, "unknown_parameter"),
        "unknown_key_stream": ("BadRequestError", 400, "unknown_parameter"),
    }
    for case, (name, status, code) in expected.items():
        error = seen["errors"][case]
        assert (error["name"], error["status"], error["code"]) == (name, status, code), case
    assert seen["errors"]["unknown_key"]["param"] == "suffice.budgit"
    assert 400 <= seen["errors"]["embeddings"]["status"] < 500
