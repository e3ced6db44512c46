"""Writes the tables of README.md that can be read off the code: metrics, errors, configuration. ``make docs`` runs it.

A table stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; the rest of the file is not touched.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import types
import typing
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from suffice.policies import sampling, stopping
from suffice.policies.answers import READERS
from suffice.policies.budget import LIMIT_NAMES
from suffice.server import errors
from suffice.server.config import Ceilings, Config
from suffice.server.telemetry.metrics import Metrics

SERVER = Path(errors.__file__).parent
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def metrics() -> str:
    """Every metric as it is exposed."""
    rows = []
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase):
            kind = metric._type
            name = metric._name + ("_total" if kind == "counter" else "")
            rows.append([f"`{name}`", kind, ", ".join(metric._labelnames), metric._documentation])
    return table(["metric", "kind", "labels", "meaning"], sorted(rows))


def _finer_codes() -> dict[str, set[str]]:
    """Codes that single places in the server give to an error instead of its class's own."""
    found: dict[str, set[str]] = {}
    for path in SERVER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
                for keyword in node.keywords:
                    if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                        found.setdefault(str(name), set()).add(str(keyword.value.value))
    return found


def _tree(kind: type[errors.ApiError]) -> list[type[errors.ApiError]]:
    return [one for child in kind.__subclasses__() for one in (child, *_tree(child))]


def error_codes() -> str:
    """Every error that a client can meet."""
    finer = _finer_codes()
    rows = []
    for kind in sorted(_tree(errors.ApiError), key=lambda kind: (kind.status, kind.code)):
        codes = [kind.code, *sorted(finer.get(kind.__name__, set()) - {kind.code})]
        meaning = (kind.__doc__ or "").strip().partition("\n")[0].replace("``", "`")
        shown = ", ".join(f"`{code}`" for code in codes)
        rows.append([str(kind.status), shown, "yes" if kind.retryable else "no", meaning])
    return table(["status", "code", "try again", "when"], rows)


def _default(value: object, *, required: bool) -> str:
    if required:
        return "required"
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    return f"`{json.dumps(value, default=str)}`"


def _section(annotation: object) -> tuple[str, type[BaseModel]] | None:
    """The model within an annotation, and how its place is written in a key."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "", annotation
    if origin is tuple and isinstance(arguments[0], type) and issubclass(arguments[0], BaseModel):
        return "[]", arguments[0]
    if origin is dict and isinstance(arguments[1], type) and issubclass(arguments[1], BaseModel):
        return ".NAME", arguments[1]
    return None


def _keys(model: type[BaseModel], prefix: str = "") -> list[list[str]]:
    rows = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        inner = None if isinstance(field.annotation, types.UnionType) else _section(field.annotation)
        if inner is None:
            default = None if field.default is PydanticUndefined else field.default
            shown = _default(default, required=field.is_required())
            rows.append([f"`{key}`", shown, field.description or ""])
        elif inner[1] is Ceilings:
            rows.append([f"`{key}{inner[0]}`", "", f"Limits: {', '.join(LIMIT_NAMES)}."])
        elif inner[1].model_config.get("extra") == "allow":
            rows.append([f"`{key}{inner[0]}`", "", field.description or ""])
        else:
            rows += _keys(inner[1], f"{key}{inner[0]}.")
    return rows


def configuration() -> str:
    """Every key of the operator's file."""
    return table(["key", "default", "meaning"], _keys(Config))


def rules() -> str:
    """Every rule with what it does, what it promises and what can be set."""
    rows = []
    for field, registry in (
        ("suffice.sampling", sampling.RULES),
        ("suffice.early_exit", stopping.RULES),
        ("policies.guards", stopping.GUARDS),
        ("suffice.answer", READERS),
    ):
        for name, kind in registry.kinds.items():
            given = ", ".join(f"`{key}` {parameter.default}" for key, parameter in kind.parameters.items())
            rows.append([f"`{field}`", f"`{name}`", kind.what, kind.guarantee, given])
    return table(["field", "name", "what it does", "what it promises", "parameters and defaults"], rows)


TABLES = {"metrics": metrics, "errors": error_codes, "configuration": configuration, "rules": rules}


def rewritten(text: str) -> str:
    """The text with every generated table as it should be now."""
    return BLOCK.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}{match[3]}", text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")
