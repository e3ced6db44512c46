"""What vLLM refuses, in its own words, and when: on reading, before generating, or in the engine after the headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import orjson

from fake_vllm import tokenizer

if TYPE_CHECKING:
    from fake_vllm.settings import Settings

MOST_CHOICES = 16384
MOST_LOGPROBS = 20

_INTEGERS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "seed", "top_k", "priority", "min_tokens")
_NUMBERS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")


class Refusal(Exception):
    """A request that is not served.

    Attributes:
        stage: ``reading`` for what fails as the body is read, ``handler`` for what is found before generation,
            ``engine`` for what is found only when a stream's headers are already sent.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "BadRequestError",
        param: str | None = None,
        stage: Literal["reading", "handler", "engine"] = "handler",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param
        self.stage = stage

    def body(self) -> dict[str, Any]:
        """The error object of OpenAI's shape, with vLLM's numeric code."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}}


def _unreadable(kind: str, place: str, message: str, given: str) -> Refusal:
    detail = f"{{'type': '{kind}', 'loc': '{place}', 'msg': '{message}', 'input': {given}}}"
    return Refusal(f"1 validation error:\n  {detail}", kind="Bad Request", param=place, stage="reading")


def _invalid(message: str, param: str, value: Any = None) -> Refusal:
    hint = f"(parameter={param})" if value is None else f"(parameter={param}, value={value})"
    return Refusal(f"{message} {hint}", param=param)


def read(raw: bytes, headers: dict[str, str]) -> dict[str, Any]:
    """The body as an object.

    Raises:
        Refusal: Wrong media type, no JSON, or no object.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _unreadable("json_invalid", f"body.{error.pos}", "JSON decode error", "'<dict of 0 items>'") from error
    if headers.get("content-type", "").split(";")[0].lower() != "application/json":
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise Refusal(message, kind="Bad Request", stage="reading")
    if not isinstance(body, dict):
        raise _unreadable("model_attributes_type", "body", "Input should be a valid dictionary", "'?'")
    return body


def types(body: dict[str, Any], *required: tuple[str, tuple[type, ...]]) -> None:
    """Required fields and the types of the common ones.

    Raises:
        Refusal: A field is missing or cannot be read as its type.
    """
    for name, kinds in required:
        if name not in body:
            raise _unreadable("missing", f"body.{name}", "Field required", f"'<dict of {len(body)} items>'")
        if not isinstance(body[name], kinds):
            raise _unreadable(f"{kinds[0].__name__}_type", f"body.{name}", "Input should be valid", f"'{body[name]}'")
    for names, kind, reader in ((_INTEGERS, "int_parsing", int), (_NUMBERS, "float_parsing", float)):
        for name in names:
            value = body.get(name)
            try:
                if value is not None:
                    reader(value)
            except (TypeError, ValueError) as error:
                raise _unreadable(kind, f"body.{name}", "Input should be a valid number", f"'{value}'") from error


def positive(body: dict[str, Any], name: str) -> None:
    """A length that is checked as the body is read.

    Raises:
        Refusal: It is not above 0.
    """
    if body[name] <= 0:
        raise _unreadable("value_error", f"body.{name}", "Value error, must be positive", f"'{body[name]}'")


def fields(body: dict[str, Any]) -> None:
    """What chat and completions check of a body by itself.

    Raises:
        Refusal: A value or a combination of fields that vLLM does not take.
    """
    budget = body.get("thinking_token_budget")
    if budget is not None and (not isinstance(budget, int) or budget < -1):
        message = "`thinking_token_budget` must be a non-negative integer or -1 for unlimited."
        raise _invalid(message, "thinking_token_budget", budget)
    if body.get("stream_options") and not body.get("stream"):
        raise _invalid("Stream options can only be defined when `stream=True`.", "stream_options")
    if body.get("cache_salt") == "":
        raise _invalid("Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt")
    choice = body.get("tool_choice")
    if choice not in (None, "none") and not body.get("tools"):
        raise _invalid("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if (body.get("top_logprobs") or 0) > 0 and not body.get("logprobs"):
        raise _invalid("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")


def model(body: dict[str, Any], settings: Settings) -> str:
    """The model that answers; no name means the base model.

    Raises:
        Refusal: A name that is not served.
    """
    name = body.get("model")
    if not name:
        return settings.models[0]
    if name not in settings.models:
        message = f"The model `{name}` does not exist. Valid aliases: {settings.models[0]}."
        raise Refusal(message, status=404, kind="NotFoundError", param="model")
    return str(name)


def tools(body: dict[str, Any], settings: Settings) -> None:
    """Whether tools can be parsed here.

    Raises:
        Refusal: The server was started without a tool parser.
    """
    if not body.get("tools") or settings.tool_parser or body.get("tool_choice") == "none":
        return
    if body.get("tool_choice") == "required":
        raise Refusal('tool_choice="required" requires --tool-call-parser to be set')
    raise Refusal('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')


def room(prompt: list[int], asked: int | None, param: str, settings: Settings) -> int:
    """Tokens that a choice may have: what was asked for, cut to the context.

    Raises:
        Refusal: The prompt fills the context, or the limit is impossible.
    """
    longest = settings.max_model_len
    if asked is not None and asked > longest:
        message = f"{param}={asked} cannot be greater than max_model_len={longest}. Please request fewer output tokens."
        raise _invalid(message, param, asked)
    if len(prompt) > longest:
        message = (
            f"This model's maximum context length is {longest} tokens. However, your prompt contains {len(prompt)} "
            "input tokens, which exceeds this limit even without any output tokens. "
            "Please reduce the length of the input prompt."
        )
        raise _invalid(message, "input_tokens", len(prompt))
    most = longest - len(prompt) if asked is None else min(asked, longest - len(prompt))
    if most < 1:
        raise _invalid(f"max_tokens must be at least 1, got {most}.", "max_tokens", most)
    return most


def choices(body: dict[str, Any]) -> int:
    """The number of choices a prompt.

    Raises:
        Refusal: Fewer than one or too many.
    """
    count = 1 if body.get("n") is None else int(body["n"])
    if count < 1:
        raise Refusal(f"n must be at least 1, got {count}.")
    if count > MOST_CHOICES:
        more = "To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable."
        raise Refusal(f"n must be at most {MOST_CHOICES}, got {count}. {more}")
    if (body.get("temperature") or 0) < 0:
        value = float(body["temperature"])
        raise _invalid(f"temperature must be non-negative, got {value}.", "temperature", value)
    if count > 1 and body.get("temperature") == 0:
        raise Refusal(f"n must be 1 when using greedy sampling, got {count}.")
    return count


def engine(body: dict[str, Any], prompts: list[list[int]], logprobs: int | None, settings: Settings) -> None:
    """What only the engine finds.

    Raises:
        Refusal: At stage ``engine``.
    """
    if body.get("thinking_token_budget") not in (None, -1) and not settings.reasoning_config:
        message = (
            "thinking_token_budget is set but reasoning_config is not configured. "
            "Please set --reasoning-parser and/or --reasoning-config to use thinking_token_budget."
        )
        raise Refusal(message, stage="engine")
    for number in (number for prompt in prompts for number in prompt if number >= tokenizer.VOCABULARY):
        raise Refusal(f"Token id {number} is out of vocabulary", stage="engine")
    if (logprobs or 0) > MOST_LOGPROBS:
        message = f"Requested sample logprobs of {logprobs}, which is greater than max allowed: {MOST_LOGPROBS} "
        message += f"(parameter=logprobs, value={logprobs})"
        raise Refusal(message, param="logprobs", stage="engine")
    form = body.get("response_format") or {}
    kind = ((form.get("json_schema") or {}).get("schema") or {}).get("type", "object")
    if kind not in ("object", "array", "string", "integer", "number", "boolean", "null"):
        raise Refusal(f"Grammar error: Invalid type: {kind}", stage="engine")
