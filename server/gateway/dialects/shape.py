"""Checks of a request's shape that several APIs share: allowlists, integers, limits in the standard fields, parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from suffice.server.errors import InvalidRequest
from suffice.server.gateway.field import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = frozenset({"cache_salt", "priority", "request_id", "vllm_xargs", "session_id"})
"""Fields of vLLM's that the gateway sets itself."""

UNSAFE = frozenset(
    {
        "chat_template",
        "documents",
        "ec_transfer_params",
        "kv_transfer_params",
        "logits_processors",
        "media_io_kwargs",
        "mm_processor_kwargs",
        "prompt_logprobs",
        "truncate_prompt_tokens",
        "use_beam_search",
    }
)
"""Fields of vLLM's that a tenant must not reach: they run templates, skip caches or address memory of others."""

IGNORED = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
"""Fields of OpenAI's that mean nothing to vLLM: accepted, so that clients work unchanged, and dropped."""

TEXT_PARTS = frozenset(
    {
        "text", "refusal", "thinking", "redacted_thinking", "tool_use", "tool_result", "tool_reference",
        "input_text", "output_text", "reasoning", "reasoning_text", "summary_text",
        "message", "function_call", "function_call_output", "item_reference", "function", "custom",
    }
)  # fmt: skip
"""Kinds of content parts that are text; all others load media and are refused unless the operator allows them."""

TEMPLATE_SWITCHES = frozenset({"enable_thinking", "thinking", "reasoning_effort"})
"""Keys of chat_template_kwargs that only switch what a template offers."""


KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(
        ("frequency_penalty", "min_p", "presence_penalty", "repetition_penalty", "temperature", "top_p"),
        ((int, float), "a number"),
    ),
    **dict.fromkeys(("max_tool_calls", "min_tokens", "seed", "top_k", "top_logprobs"), (int, "an integer")),
    **dict.fromkeys(
        (
            "add_generation_prompt", "add_special_tokens", "background", "continue_final_message", "echo", "ignore_eos",
            "include_reasoning", "include_stop_str_in_output", "parallel_tool_calls", "return_tokens_as_token_ids",
            "skip_special_tokens", "spaces_between_special_tokens",
        ),
        (bool, "true or false"),
    ),
    **dict.fromkeys(
        (
            "allowed_token_ids", "bad_words", "include", "logprob_token_ids", "stop_sequences", "stop_token_ids",
            "tools",
        ),
        (list, "an array"),
    ),
    **dict.fromkeys(
        ("logit_bias", "output_config", "reasoning", "response_format", "structured_outputs", "text"),
        (dict, "an object"),
    ),
    **dict.fromkeys(("instructions", "truncation"), (str, "a text")),
    "logprobs": ((bool, int), "true, false or an integer"),
    "stop": ((str, list), "a text or an array of texts"),
    "system": ((str, list), "a text or an array of parts"),
    "tool_choice": ((str, dict), "a text or an object"),
}  # fmt: skip
"""Kinds of fields that go upstream as they are; checked here, so that nothing is reserved for what cannot be served."""

_LONGEST_NAME = 64


def allow(body: dict[str, Any], allowed: frozenset[str]) -> dict[str, Any]:
    """Keep the allowed fields of a request; drop those that are known to mean nothing; refuse the rest.

    Raises:
        InvalidRequest: A field that is forbidden or unknown.
    """
    kept: dict[str, Any] = {}
    for name, value in body.items():
        if name in allowed:
            if value is not None:
                kept[name] = value
        elif name in OURS:
            raise InvalidRequest(f"{name} is set by the gateway", param=name, code="forbidden_parameter")
        elif name in UNSAFE:
            raise InvalidRequest(f"{name} is not available through the gateway", param=name, code="forbidden_parameter")
        elif name not in IGNORED and name != "suffice":
            name = name[:_LONGEST_NAME]  # noqa: PLW2901 - what is quoted is bounded
            hint = did_you_mean(name, sorted(allowed)) if name else ""
            hint = hint if hint.startswith("; did") else ""
            raise InvalidRequest(f"unknown parameter {name!r}{hint}", param=name, code="unknown_parameter")
    for name, value in kept.items():
        _check_kind(name, value)
    switches = kept.get("chat_template_kwargs")
    if switches is not None and (not isinstance(switches, dict) or not switches.keys() <= TEMPLATE_SWITCHES):
        raise InvalidRequest(
            f"chat_template_kwargs may hold {', '.join(sorted(TEMPLATE_SWITCHES))}",
            param="chat_template_kwargs",
            code="forbidden_parameter",
        )
    return kept


def _check_kind(name: str, value: Any) -> None:
    kinds, words = KINDS.get(name, (object, ""))
    wrong = not isinstance(value, kinds)
    if isinstance(value, bool):
        wrong = kinds is not object and bool not in (kinds if isinstance(kinds, tuple) else (kinds,))
    if wrong:
        raise InvalidRequest(f"{name} must be {words}", param=name, code="invalid_type")


def text(body: dict[str, Any], name: str) -> str:
    """A required string.

    Raises:
        InvalidRequest: Missing or of another type.
    """
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{name} must be a non-empty string", param=name, code="invalid_type")
    return value


MAX_TOKENS = 2**31 - 1
"""Largest length that a standard field may name; far beyond any context, and safe to multiply by samples."""

MAX_SAMPLES = 128
"""Largest ``n``, as OpenAI has it: each sample is an upstream stream of its own."""


def whole(body: dict[str, Any], name: str, *, least: int = 1, most: int = MAX_TOKENS) -> int | None:
    """An optional integer from ``least`` to ``most``.

    Raises:
        InvalidRequest: Of another type, or out of range.
    """
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{name} must be an integer", param=name, code="invalid_type")
    if not least <= value <= most:
        raise InvalidRequest(f"{name} must be from {least} to {most}, not {value}", param=name)
    return value


def flag(body: dict[str, Any], name: str) -> bool:
    """An optional boolean, false when absent.

    Raises:
        InvalidRequest: Of another type.
    """
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false", param=name, code="invalid_type")
    return bool(value)


def split_model(name: str) -> tuple[str, str | None]:
    """``model@preset`` into its halves."""
    model, at, preset = name.rpartition("@")
    return (model, preset) if at else (name, None)


def refuse_media(value: Any, *, param: str) -> None:
    """Refuse content parts that are not text.

    Raises:
        InvalidRequest: Naming the kind of part.
    """
    for part in _parts(value):
        kind = part.get("type")
        if isinstance(kind, str) and kind not in TEXT_PARTS:
            raise InvalidRequest(
                f"content of type {kind[:64]!r} is not allowed here", param=param, code="media_refused"
            )


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in message content, at the depths where the APIs put parts."""
    stack = [value]
    while stack:
        current = stack.pop()
        if isinstance(current, list):
            stack.extend(current)
        elif isinstance(current, dict):
            yield current
            content = current.get("content")
            if isinstance(content, list | dict):
                stack.append(content)


def weight(value: Any) -> int:
    """Bytes of all text in a JSON value, plus a little for each message's own marks.

    An upper estimate of its tokens: byte-level tokenisers make at least one byte into each token.
    """
    total = 0
    stack = [value]
    while stack:
        current = stack.pop()
        if isinstance(current, str):
            total += len(current.encode("utf-8", "surrogatepass"))
        elif isinstance(current, list):
            total += 2 * len(current)
            stack.extend(current)
        elif isinstance(current, dict):
            total += _MARKS
            stack.extend(current.keys())
            stack.extend(current.values())
        else:
            total += 24
    return total


_MARKS = 8
"""Tokens of markup that a template may put around one object."""
