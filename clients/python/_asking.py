"""From keywords and defaults to the JSON that is sent.

A call's keyword replaces the client's default of the same name and leaves the others; None clears it. What must not
be here: client classes, and the checks of values (they are in ``_options``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import openai
from suffice._options import FIELD, Options, cleared, take_options

if TYPE_CHECKING:
    from openai._models import FinalRequestOptions

BUDGETED_PATHS = frozenset({"/chat/completions", "/completions", "/responses"})
"""Where the client's defaults are sent: the requests that generate."""


def place_options(params: dict[str, Any]) -> None:
    """Move our keywords out of ``params`` and into its ``extra_body``, where a field that is there already stays.

    Raises:
        pydantic.ValidationError: A value has the wrong type.
    """
    changes = cleared(take_options(params))
    if not changes:
        return
    body = dict(params.get("extra_body") or {})
    params["extra_body"] = {**body, FIELD: {**changes, **body.get(FIELD, {})}}


def ask_for_usage(params: dict[str, Any]) -> bool:
    """Ask a stream for its usage chunk, which brings the receipt, unless the caller decided about it.

    Returns:
        Whether it is the client and not the caller who asks.
    """
    if params.get("stream") is not True:
        return False
    given = params.get("stream_options")
    asked = given if isinstance(given, Mapping) else {}
    if "include_usage" in asked:
        return False
    params["stream_options"] = {**asked, "include_usage": True}
    return True


def add_defaults(options: FinalRequestOptions, defaults: Options) -> FinalRequestOptions:
    """Merge the client's defaults and the call's own options into the request's ``suffice`` field.

    Idempotent, since a request that is tried again passes here again.
    """
    if options.method.lower() != "post" or options.url not in BUDGETED_PATHS:
        return options
    extra = options.extra_json or {}
    asked = extra.get(FIELD, {})
    if not isinstance(asked, Mapping):
        raise openai.OpenAIError(f"extra_body[{FIELD!r}] must be a mapping")
    merged = {name: value for name, value in {**defaults.to_wire(), **asked}.items() if value is not None}
    rest = {name: value for name, value in extra.items() if name != FIELD}
    options.extra_json = {**rest, FIELD: merged} if merged else rest or None
    return options
