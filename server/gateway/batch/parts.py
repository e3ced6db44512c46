"""Objects within a body as strict models, with faults that name their place."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from suffice.server.errors import InvalidRequest
from suffice.server.gateway.field import did_you_mean

Model = TypeVar("Model", bound=BaseModel)

_LONGEST_SHOWN = 64


def checked(kind: type[Model], value: Any, path: str, *deeper: type[BaseModel]) -> Model:
    """A part of the body as its model.

    Args:
        kind: The model.
        value: The part.
        path: Where it stands.
        deeper: The models of objects within it, one a depth, to suggest the nearest key.

    Raises:
        InvalidRequest: It is something else; the message names the place and quotes no value.
    """
    if not isinstance(value, dict):
        raise InvalidRequest(f"{path} must be an object", param=path, code="invalid_type")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
    location = [str(part)[:_LONGEST_SHOWN] for part in fault["loc"]]
    place = ".".join([path, *location])
    if fault["type"] == "extra_forbidden":
        depth = sum(isinstance(part, str) for part in fault["loc"])
        models: tuple[type[BaseModel], ...] = (kind, *deeper)
        known = models[depth - 1].model_fields
        hint = did_you_mean(location[-1], [info.alias or name for name, info in known.items()])
        raise InvalidRequest(f"unknown key {place}{hint}", param=place, code="unknown_parameter")
    raise InvalidRequest(f"{place}: {fault['msg']}", param=place)
