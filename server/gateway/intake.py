"""Bytes of a request into one JSON object, with limits; nothing that two parsers could read differently."""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

from suffice.server.errors import ClientLeft, InvalidJson, RequestTooLarge, Timeout

if TYPE_CHECKING:
    from starlette.types import Receive

MAX_DEPTH = 64


async def read_body(receive: Receive, *, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body.

    Raises:
        RequestTooLarge: More than ``max_bytes``.
        Timeout: It did not arrive in time.
        ClientLeft: The client went away.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise RequestTooLarge(f"the body is larger than {max_bytes} bytes")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Timeout("the request body did not arrive in time", code="request_timeout") from None


def parse_object(body: bytes) -> dict[str, Any]:
    """One JSON object without duplicate keys, non-finite numbers, lone surrogates or great depth.

    Raises:
        InvalidJson: It is something else; the message says what, and quotes nothing of it.
    """
    try:
        text = body.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite, parse_int=_integer
        )
        _check_depth(value)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise InvalidJson("the body is not valid UTF-8") from None
    except json.JSONDecodeError as error:
        raise InvalidJson(
            f"the body is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from None
    except RecursionError:
        raise InvalidJson("the body is nested too deeply") from None
    except ValueError:
        # Python refuses to parse integers of thousands of digits.
        raise InvalidJson("the body holds a number that is too long") from None
    if not isinstance(value, dict):
        raise InvalidJson("the body must be a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise InvalidJson("the body has an object with the same key twice")
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise InvalidJson("the body holds a number that is too large")
    return value


def _integer(digits: str) -> int:
    value = int(digits)
    if not -(2**63) <= value < 2**63:
        raise InvalidJson("the body holds a number that is too large")
    return value


def _constant(name: str) -> NoReturn:
    raise InvalidJson(f"the body holds {name}, which is not JSON")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise InvalidJson(f"the body is nested deeper than {MAX_DEPTH} levels")
