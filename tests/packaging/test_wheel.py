import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from fake_vllm import FakeVLLM
from suffice.server.engine.local import answers, free_port


def _run(installed, *arguments, cwd, check=True):
    """Run Python on the installed wheel, with the sources out of its sight."""
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": f"{installed}{os.pathsep}{cwd}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_packages_named_are_those_on_disk(project):
    found = set()
    for name, folder in project.mapping.items():
        for file in folder.rglob("*.py"):
            inner = file.parent.relative_to(folder).parts
            found.add(".".join([name, *inner]))

    assert sorted(project.settings["tool"]["setuptools"]["packages"]) == sorted(found)


def test_every_package_has_an_init_file(project):
    folders = {file.parent for folder in project.mapping.values() for file in folder.rglob("*.py")}

    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_wheel_holds_one_name_and_all_of_it(wheel, modules):
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"suffice"}
    assert {"suffice/py.typed", "suffice/policies/py.typed", "suffice/server/py.typed"} <= set(names)
    assert [name for name in names if re.search(r"(?:^|/)(?:tests?|test_.*|fake_vllm)(?:/|\.py$)", name)] == []
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert sum(name.endswith(".py") for name in names) == modules


HEAVY = (
    "accelerate",
    "fastapi",
    "httpx",
    "numpy",
    "rich",
    "starlette",
    "torch",
    "transformers",
    "uvicorn",
    "vllm",
    "yaml",
)
ENGINES = ("accelerate", "gguf", "torch", "transformers", "vllm")


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("suffice", (*HEAVY, "suffice.server", "suffice.policies")),
        ("suffice.policies.chain", (*HEAVY, "suffice.server")),
        ("suffice.server.app", ENGINES),
        ("suffice.server.cli", ENGINES),
    ],
)
def test_an_import_brings_no_more_than_it_needs(installed, tmp_path, module, unwanted):
    script = f"import json, sys, {module}; print(json.dumps([{module.partition('.')[0]}.__file__, *sys.modules]))"
    file, *loaded = json.loads(_run(installed, "-c", script, cwd=tmp_path).stdout)

    assert file.startswith(str(installed))
    assert module in loaded
    assert sorted(set(unwanted) & set(loaded)) == []


def test_the_client_works_without_the_server_extra(installed, project, tmp_path):
    """Everything that only the server wants is hidden; the client and the policies do not notice."""
    requirements = project.settings["project"]["optional-dependencies"]["server"]
    names = [text.partition(">")[0].replace("-", "_") for text in requirements]
    names = ["yaml" if name == "pyyaml" else name for name in names if name not in {"httpx2", "pydantic"}]
    script = f"""
import importlib.abc, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
import suffice, suffice.policies.chain
client = suffice.Client(base_url="http://127.0.0.1:1/v1", api_key="k", budget=suffice.Budget(total_tokens=5))
print(client.defaults.to_wire())
"""
    assert _run(installed, "-c", script, cwd=tmp_path).stdout == "{'budget': {'total_tokens': 5}}\n"


def test_the_policies_pass_their_tests_from_the_wheel(installed, project, tmp_path):
    """The tests move to a folder of their own, so that nothing of the source tree can be imported by accident."""
    tests = project.root / "tests"
    for file in (*(tests / "policies").glob("test_*.py"), tests / "random_runs.py"):
        shutil.copy(file, tmp_path / file.name)
    origin = "import suffice.policies\n\ndef test_origin():\n    assert suffice.policies.__file__.startswith({!r})\n"
    (tmp_path / "test_origin.py").write_text(origin.format(str(installed)))

    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-c", os.devnull, "--rootdir", "."]
    done = _run(installed, "-m", "pytest", *options, ".", cwd=tmp_path)

    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE)


def test_the_server_serves_from_the_wheel(installed, tmp_path):
    port = free_port()
    with FakeVLLM() as fake, (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-P", "-m", "suffice.server", "serve", "--upstream", fake.url]
        process = subprocess.Popen(
            [*command, "--port", str(port), "--metrics-port", "0", "--data-dir", "data"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(installed)},
            stdout=log,
            stderr=log,
        )
        try:
            fake.wait(lambda: process.poll() is not None or answers(f"http://127.0.0.1:{port}/ready"), 60)
            script = f"""
import pathlib, suffice
key = pathlib.Path("data/local_key").read_text().strip()
client = suffice.Client(base_url="http://127.0.0.1:{port}/v1", api_key=key)
answer = client.chat.completions.create(
    model="fake", messages=[{{"role": "user", "content": "a"}}], budget=suffice.Budget(total_tokens=32)
)
print(suffice.receipt(answer).plan.limits["total_tokens"])
"""
            told = _run(installed, "-c", script, cwd=tmp_path).stdout
        finally:
            process.terminate()
            process.wait(60)

    assert told == "Limit(value=32, source='request')\n"
