"""Checks of the processor that need torch and vLLM: run by the engine's Python, collected by ``test_processor``.

Prints one JSON object: each check's name with its traceback, or null. vLLM's own objects are used wherever they can be
made without a GPU: its loaders, its configuration, batch updates, the state and context of its second runner on the
CPU, its endpoint wiring and its key check. One process runs them all: vLLM takes longer to import than they to run.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("VLLM_PLUGINS", None)
os.environ["SUFFICE_ENGINE_TABLE"] = str(Path(tempfile.mkdtemp()) / "tables" / "one.signals")

import loading
import routes
import steps


def main():
    results = {}
    for module in (loading, steps, routes):
        for name, check in list(vars(module).items()):
            if name.startswith("check_"):
                try:
                    check()
                except Exception:  # noqa: BLE001 - each failure is reported as its own test
                    results[name] = traceback.format_exc()
                else:
                    results[name] = None
    sys.stdout.write("\n" + json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
