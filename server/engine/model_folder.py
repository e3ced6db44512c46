"""What a model's folder says before any engine has read it: its configuration and the bytes of its weights.

Weights are counted from the headers of the safetensors files, which tell every tensor's extent, so nothing large is
read. What must not be here: KV arithmetic, downloads.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_LONGEST_HEADER = 100 << 20
"""Bytes; the format's own bound on a header."""


class ModelFolderError(Exception):
    """A folder does not hold what was looked for; the message says what and where."""


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's ``config.json``; the file itself may be named too.

    Raises:
        ModelFolderError: There is none, or it is not a JSON object.
    """
    path = folder if folder.is_file() else folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelFolderError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ModelFolderError(f"{path}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelFolderError(f"{path}: not a model's configuration")
    return config


def weight_bytes(folder: Path) -> int | None:
    """Bytes of the weights: of the safetensors files, else as their index tells; None where the folder holds neither.

    Raises:
        ModelFolderError: A file is broken.
    """
    if not folder.is_dir():
        return None
    index = folder / "model.safetensors.index.json"
    listed = _listed(index) if index.is_file() else None
    names = listed[1] if listed is not None else {path.name for path in folder.glob("*.safetensors")}
    files = [folder / name for name in sorted(names)]
    if files and all(path.is_file() for path in files):
        return sum(map(_tensor_bytes, files))
    return None if listed is None else listed[0]


def _listed(index: Path) -> tuple[int | None, set[str]]:
    """The total size and the files that an index names."""
    try:
        content = json.loads(index.read_text("utf-8"))
        total = content.get("metadata", {}).get("total_size")
        return (None if total is None else int(total)), {str(name) for name in content["weight_map"].values()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise ModelFolderError(f"{index}: not an index of safetensors files") from None


def _tensor_bytes(path: Path) -> int:
    """Bytes of all tensors of one file, from its header."""
    broken = ModelFolderError(f"{path}: not a safetensors file")
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            if length > _LONGEST_HEADER:
                raise broken
            header = json.loads(file.read(length))
        extents = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        return sum(int(end) - int(start) for start, end in extents)
    except OSError as error:
        raise ModelFolderError(f"{path}: {error.strerror or error}") from None
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise broken from None
