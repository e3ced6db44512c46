"""``Client`` and ``AsyncClient``: the official clients with budgets as options and the gateway's errors as types.

Four seams of the official client are used: its constructor, ``copy``, the hook that sees each request's options and
the one that makes errors. What must not be here: request bodies (``_asking``) and ``create`` (``_resources``).
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, Unpack

import openai
from suffice import errors
from suffice._asking import add_defaults
from suffice._async_resources import AsyncChat, AsyncCompletions, AsyncResponses
from suffice._options import Options, take_options
from suffice._resources import Chat, Completions, Responses

if TYPE_CHECKING:
    import httpx2
    from openai._models import FinalRequestOptions
    from suffice._params import AsyncClientParams, AsyncCopyParams, ClientParams, CopyParams


def _with_environment(settings: dict[str, Any]) -> dict[str, Any]:
    """Fill in address and key: what was passed, else ``SUFFICE_*``, else ``OPENAI_*``.

    Raises:
        openai.OpenAIError: No address is known. The official client would turn to OpenAI; a gateway's client must
            not.
    """
    base_url = settings.get("base_url")
    if base_url is None or isinstance(base_url, openai.NotGiven):
        base_url = os.environ.get("SUFFICE_BASE_URL") or os.environ.get("OPENAI_BASE_URL")
    if not base_url:
        raise openai.OpenAIError(
            "The gateway's address is unknown: pass base_url, or set SUFFICE_BASE_URL or OPENAI_BASE_URL"
        )
    api_key = settings.get("api_key")
    if api_key is None:
        api_key = os.environ.get("SUFFICE_API_KEY") or os.environ.get("OPENAI_API_KEY")
    return {**settings, "base_url": base_url, "api_key": api_key}


class Client(openai.OpenAI):
    """The official client, towards a suffice gateway.

    Takes the keywords of ``openai.OpenAI`` and, as defaults for each request that generates, those of
    ``OptionParams``: ``budget``, ``preset``, ``sampling``, ``early_exit``, ``answer``, ``class_`` and ``train``. The
    address is ``base_url``, else ``SUFFICE_BASE_URL``, else ``OPENAI_BASE_URL``; the key likewise.

    Raises:
        openai.OpenAIError: Address or key is missing.
        pydantic.ValidationError: A default has a value of the wrong type.
    """

    defaults: Options
    """What is asked for in each request that does not say otherwise."""

    def __init__(self, **params: Unpack[ClientParams]) -> None:
        settings: dict[str, Any] = dict(params)
        self.defaults = Options().updated(take_options(settings))
        super().__init__(**_with_environment(settings))

    def copy(self, **params: Unpack[CopyParams]) -> Self:  # type: ignore[override]  # ours are added
        """A client that shares the connections and differs in what is named.

        A keyword of ours replaces that default and leaves the others; None clears it.
        """
        settings: dict[str, Any] = dict(params)
        defaults = self.defaults.updated(take_options(settings))
        twin = super().copy(**settings)
        twin.defaults = defaults
        return twin

    with_options = copy  # type: ignore[assignment]  # likewise

    @cached_property
    def chat(self) -> Chat:
        """Chat completions within a budget."""
        return Chat(self)

    @cached_property
    def completions(self) -> Completions:
        """Completions within a budget."""
        return Completions(self)

    @cached_property
    def responses(self) -> Responses:
        """Responses within a budget."""
        return Responses(self)

    def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
        return add_defaults(super()._prepare_options(options), self.defaults)

    def _make_status_error(self, err_msg: str, *, body: object, response: httpx2.Response) -> openai.APIStatusError:
        error = super()._make_status_error(err_msg, body=body, response=response)
        return errors.specific(error, err_msg, response)


class AsyncClient(openai.AsyncOpenAI):
    """The official asynchronous client, towards a suffice gateway; see ``Client``."""

    defaults: Options
    """What is asked for in each request that does not say otherwise."""

    def __init__(self, **params: Unpack[AsyncClientParams]) -> None:
        settings: dict[str, Any] = dict(params)
        self.defaults = Options().updated(take_options(settings))
        super().__init__(**_with_environment(settings))

    def copy(self, **params: Unpack[AsyncCopyParams]) -> Self:  # type: ignore[override]  # ours are added
        """A client that shares the connections and differs in what is named.

        A keyword of ours replaces that default and leaves the others; None clears it.
        """
        settings: dict[str, Any] = dict(params)
        defaults = self.defaults.updated(take_options(settings))
        twin = super().copy(**settings)
        twin.defaults = defaults
        return twin

    with_options = copy  # type: ignore[assignment]  # likewise

    @cached_property
    def chat(self) -> AsyncChat:
        """Chat completions within a budget."""
        return AsyncChat(self)

    @cached_property
    def completions(self) -> AsyncCompletions:
        """Completions within a budget."""
        return AsyncCompletions(self)

    @cached_property
    def responses(self) -> AsyncResponses:
        """Responses within a budget."""
        return AsyncResponses(self)

    async def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
        return add_defaults(await super()._prepare_options(options), self.defaults)

    def _make_status_error(self, err_msg: str, *, body: object, response: httpx2.Response) -> openai.APIStatusError:
        error = super()._make_status_error(err_msg, body=body, response=response)
        return errors.specific(error, err_msg, response)
