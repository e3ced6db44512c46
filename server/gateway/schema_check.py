"""Whether an answer is JSON that keeps to a schema: the operator's, or the one that the request itself asks for.

Schemas of requests are not to be trusted: patterns are matched in linear time and references to other documents are
not followed. What must not be here: other checks.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NoReturn

import jsonschema_rs
import orjson
from suffice.policies.answer_data import find_json, found

if TYPE_CHECKING:
    from collections.abc import Mapping

    from suffice.server.gateway.dialects.base import Call

_REMEMBERED = 64


class SchemaCheck:
    """Scores an answer 1 where it keeps to the schema, 0 where it does not or is no JSON.

    Args:
        schema: The operator's schema; None for the request's own.

    Raises:
        ValueError: The operator's schema is none.
    """

    def __init__(self, schema: dict[str, Any] | None) -> None:
        self._own = None if schema is None else _validator(orjson.dumps(schema))

    async def score(self, call: Call, answer: str) -> float | None:
        """Check an answer; None where neither the operator nor the request has a schema."""
        own = self._own
        if own is None:
            schema = asked_schema(call.body)
            if schema is None:
                return None
            own = _validator(orjson.dumps(schema))
        value = find_json(answer)
        return float(found(value) and own.is_valid(value))

    async def close(self) -> None:
        """Nothing to let go of."""


def asked_schema(body: Mapping[str, Any]) -> dict[str, Any] | bool | None:
    """The JSON Schema that a request asks its answer to keep to, in any of the APIs' ways; None without one."""
    ways = (
        ("response_format", "json_schema", "schema"),
        ("structured_outputs", "json"),
        ("text", "format", "schema"),
        ("output_config", "format", "schema"),
    )
    for way in ways:
        value: Any = body
        for step in way:
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, dict | bool):
            return value
    return None


@functools.lru_cache(maxsize=_REMEMBERED)
def _validator(schema: bytes) -> Any:
    """A validator of a schema, remembered, since requests of one client ask for the same.

    Raises:
        ValueError: It is no JSON Schema, or one that refers to other documents.
    """
    return jsonschema_rs.validator_for(
        orjson.loads(schema), pattern_options=jsonschema_rs.RegexOptions(), retriever=_refuse
    )


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"a schema may not refer to other documents, such as {uri[:100]}")
