"""Keywords of the methods that this client extends: OpenAI's, and ours beside them.

Types only. The official client's own parameter types are reused, so its new parameters are ours as well. What must
not be here: anything that runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params
from suffice._options import OptionParams
from typing_extensions import TypedDict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import httpx2
    import openai


class _RequestParams(OptionParams, total=False):
    """What each ``create`` of the official client takes beside the API's own parameters."""

    extra_headers: Mapping[str, str | openai.Omit] | None
    extra_query: Mapping[str, object] | None
    extra_body: object | None
    timeout: float | openai.Timeout | openai.NotGiven | None


class ChatParams(chat_create_params.CompletionCreateParamsBase, _RequestParams, total=False):
    """Keywords of ``chat.completions.create``, but for ``stream``."""


class CompletionParams(completion_create_params.CompletionCreateParamsBase, _RequestParams, total=False):
    """Keywords of ``completions.create``, but for ``stream``."""


class ResponseParams(response_create_params.ResponseCreateParamsBase, _RequestParams, total=False):
    """Keywords of ``responses.create``, but for ``stream``."""


class _AnyClientParams(OptionParams, total=False):
    organization: str | None
    project: str | None
    webhook_secret: str | None
    base_url: str | httpx2.URL | openai.NotGiven | None
    websocket_base_url: str | httpx2.URL | None
    timeout: float | openai.Timeout | openai.NotGiven | None
    max_retries: int
    default_headers: Mapping[str, str] | None
    default_query: Mapping[str, object] | None


class ClientParams(_AnyClientParams, total=False):
    """Keywords of ``Client``."""

    api_key: str | Callable[[], str] | None
    http_client: httpx2.Client | None


class AsyncClientParams(_AnyClientParams, total=False):
    """Keywords of ``AsyncClient``."""

    api_key: str | Callable[[], Awaitable[str]] | None
    http_client: httpx2.AsyncClient | None


class _CopyParams(TypedDict, total=False):
    set_default_headers: Mapping[str, str] | None
    set_default_query: Mapping[str, object] | None


class CopyParams(ClientParams, _CopyParams, total=False):
    """Keywords of ``Client.with_options``."""


class AsyncCopyParams(AsyncClientParams, _CopyParams, total=False):
    """Keywords of ``AsyncClient.with_options``."""
