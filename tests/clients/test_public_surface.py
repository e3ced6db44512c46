"""What ``import suffice`` offers, and what it must not bring in."""

import importlib.metadata
import inspect
import json
import re
import subprocess
import sys

import openai
import suffice
from suffice import _params


def _modules_after(statement: str) -> set[str]:
    script = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def test_all_is_sorted_and_complete():
    public = {name for name, value in vars(suffice).items() if not name.startswith("_") and not inspect.ismodule(value)}

    assert suffice.__all__ == sorted(suffice.__all__)
    assert set(suffice.__all__) == public | {"__version__"}


def test_every_public_name_is_documented():
    undocumented = [name for name in suffice.__all__ if name != "__version__" and not getattr(suffice, name).__doc__]

    assert undocumented == []


def _with_requirements(distribution: str) -> set[str]:
    """A distribution and all that it installs, by normalised name; extras left out."""
    found: set[str] = set()
    pending = [distribution]
    while pending:
        name = re.split(r"[^\w.-]", pending.pop(), maxsplit=1)[0].lower().replace("_", "-")
        if name in found:
            continue
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another platform or Python
            continue
        found.add(name)
        pending += [line for line in required if "extra ==" not in line]
    return found


def test_import_brings_only_openai_and_what_it_needs():
    homes = importlib.metadata.packages_distributions()
    imported = {name.partition(".")[0] for name in _modules_after("import suffice") - _modules_after("pass")}

    third_party = {home.lower().replace("_", "-") for name in imported for home in homes.get(name, [])}
    assert "pydantic" in third_party
    assert third_party - _with_requirements("openai") <= {"suffice"}


def test_import_brings_no_server_and_no_engine():
    modules = _modules_after("import suffice")
    top_level = {name.partition(".")[0] for name in modules}

    assert not [name for name in modules if name.startswith(("suffice.server", "suffice.policies"))]
    assert not top_level & {"fastapi", "starlette", "uvicorn", "torch", "vllm", "transformers", "numpy"}


def test_client_keywords_are_the_official_ones_and_ours():
    ours = set(suffice.Options.model_fields)
    for kind, params in (
        (openai.OpenAI.__init__, _params.ClientParams),
        (openai.AsyncOpenAI.__init__, _params.AsyncClientParams),
        (openai.OpenAI.copy, _params.CopyParams),
        (openai.AsyncOpenAI.copy, _params.AsyncCopyParams),
    ):
        assert set(params.__annotations__) - ours <= set(inspect.signature(kind).parameters)
        assert ours <= set(params.__annotations__)


def test_clients_are_official_clients():
    assert issubclass(suffice.Client, openai.OpenAI)
    assert issubclass(suffice.AsyncClient, openai.AsyncOpenAI)
