"""``create`` of chat completions, completions and responses, awaited, with budgets as keywords and receipts on streams.

What must not be here: how keywords become JSON (``_asking``), and what the official resources do themselves.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import openai
from openai.resources import AsyncCompletions as OfficialAsyncCompletions
from openai.resources.chat import AsyncChat as OfficialAsyncChat
from openai.resources.chat import AsyncCompletions as OfficialAsyncChatCompletions
from openai.resources.responses import AsyncResponses as OfficialAsyncResponses
from suffice._asking import ask_for_usage, place_options
from suffice._streams import AsyncReceiptStream

if TYPE_CHECKING:
    from openai.types import Completion
    from openai.types.chat import ChatCompletion, ChatCompletionChunk
    from openai.types.responses import Response, ResponseStreamEvent
    from suffice._params import ChatParams, CompletionParams, ResponseParams


class AsyncChatCompletions(OfficialAsyncChatCompletions):
    """``client.chat.completions``."""

    @overload  # type: ignore[override]  # the official overloads with our keywords; at run time all are passed on
    async def create(self, *, stream: Literal[False] | None = None, **params: Unpack[ChatParams]) -> ChatCompletion: ...

    @overload
    async def create(
        self, *, stream: Literal[True], **params: Unpack[ChatParams]
    ) -> AsyncReceiptStream[ChatCompletionChunk]: ...

    @overload
    async def create(
        self, *, stream: bool, **params: Unpack[ChatParams]
    ) -> ChatCompletion | AsyncReceiptStream[ChatCompletionChunk]: ...

    async def create(self, **params: Any) -> Any:
        """Create an answer within a budget; OpenAI's keywords and those of ``OptionParams``.

        A stream is a ``AsyncReceiptStream``.

        Raises:
            pydantic.ValidationError: One of our keywords has a value of the wrong type; nothing was sent.
        """
        place_options(params)
        hide_usage = ask_for_usage(params)
        answer = await super().create(**params)
        return AsyncReceiptStream(answer, hide_usage=hide_usage) if isinstance(answer, openai.AsyncStream) else answer


class AsyncChat(OfficialAsyncChat):
    """``client.chat``."""

    @cached_property
    def completions(self) -> AsyncChatCompletions:
        """Chat completions within a budget."""
        return AsyncChatCompletions(self._client)


class AsyncCompletions(OfficialAsyncCompletions):
    """``client.completions``."""

    @overload  # type: ignore[override]  # the official overloads with our keywords; at run time all are passed on
    async def create(
        self, *, stream: Literal[False] | None = None, **params: Unpack[CompletionParams]
    ) -> Completion: ...

    @overload
    async def create(
        self, *, stream: Literal[True], **params: Unpack[CompletionParams]
    ) -> AsyncReceiptStream[Completion]: ...

    @overload
    async def create(
        self, *, stream: bool, **params: Unpack[CompletionParams]
    ) -> Completion | AsyncReceiptStream[Completion]: ...

    async def create(self, **params: Any) -> Any:
        """Create an answer within a budget; OpenAI's keywords and those of ``OptionParams``.

        A stream is a ``AsyncReceiptStream``.

        Raises:
            pydantic.ValidationError: One of our keywords has a value of the wrong type; nothing was sent.
        """
        place_options(params)
        hide_usage = ask_for_usage(params)
        answer = await super().create(**params)
        return AsyncReceiptStream(answer, hide_usage=hide_usage) if isinstance(answer, openai.AsyncStream) else answer


class AsyncResponses(OfficialAsyncResponses):
    """``client.responses``."""

    @overload  # type: ignore[override]  # the official overloads with our keywords; at run time all are passed on
    async def create(self, *, stream: Literal[False] | None = None, **params: Unpack[ResponseParams]) -> Response: ...

    @overload
    async def create(
        self, *, stream: Literal[True], **params: Unpack[ResponseParams]
    ) -> AsyncReceiptStream[ResponseStreamEvent]: ...

    @overload
    async def create(
        self, *, stream: bool, **params: Unpack[ResponseParams]
    ) -> Response | AsyncReceiptStream[ResponseStreamEvent]: ...

    async def create(self, **params: Any) -> Any:
        """Create an answer within a budget; OpenAI's keywords and those of ``OptionParams``.

        A stream is a ``AsyncReceiptStream``.

        Raises:
            pydantic.ValidationError: One of our keywords has a value of the wrong type; nothing was sent.
        """
        place_options(params)
        answer = await super().create(**params)
        return AsyncReceiptStream(answer) if isinstance(answer, openai.AsyncStream) else answer
