"""``create`` of chat completions, completions and responses, with budgets as keywords and receipts on streams.

What must not be here: how keywords become JSON (``_asking``), and what the official resources do themselves.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import openai
from openai.resources import Completions as OfficialCompletions
from openai.resources.chat import Chat as OfficialChat
from openai.resources.chat import Completions as OfficialChatCompletions
from openai.resources.responses import Responses as OfficialResponses
from suffice._asking import ask_for_usage, place_options
from suffice._streams import ReceiptStream

if TYPE_CHECKING:
    from openai.types import Completion
    from openai.types.chat import ChatCompletion, ChatCompletionChunk
    from openai.types.responses import Response, ResponseStreamEvent
    from suffice._params import ChatParams, CompletionParams, ResponseParams


class ChatCompletions(OfficialChatCompletions):
    """``client.chat.completions``."""

    @overload  # type: ignore[override]  # the official overloads with our keywords; at run time all are passed on
    def create(self, *, stream: Literal[False] | None = None, **params: Unpack[ChatParams]) -> ChatCompletion: ...

    @overload
    def create(self, *, stream: Literal[True], **params: Unpack[ChatParams]) -> ReceiptStream[ChatCompletionChunk]: ...

    @overload
    def create(
        self, *, stream: bool, **params: Unpack[ChatParams]
    ) -> ChatCompletion | ReceiptStream[ChatCompletionChunk]: ...

    def create(self, **params: Any) -> Any:
        """Create an answer within a budget; OpenAI's keywords and those of ``OptionParams``.

        A stream is a ``ReceiptStream``.

        Raises:
            pydantic.ValidationError: One of our keywords has a value of the wrong type; nothing was sent.
        """
        place_options(params)
        hide_usage = ask_for_usage(params)
        answer = super().create(**params)
        return ReceiptStream(answer, hide_usage=hide_usage) if isinstance(answer, openai.Stream) else answer


class Chat(OfficialChat):
    """``client.chat``."""

    @cached_property
    def completions(self) -> ChatCompletions:
        """Chat completions within a budget."""
        return ChatCompletions(self._client)


class Completions(OfficialCompletions):
    """``client.completions``."""

    @overload  # type: ignore[override]  # the official overloads with our keywords; at run time all are passed on
    def create(self, *, stream: Literal[False] | None = None, **params: Unpack[CompletionParams]) -> Completion: ...

    @overload
    def create(self, *, stream: Literal[True], **params: Unpack[CompletionParams]) -> ReceiptStream[Completion]: ...

    @overload
    def create(self, *, stream: bool, **params: Unpack[CompletionParams]) -> Completion | ReceiptStream[Completion]: ...

    def create(self, **params: Any) -> Any:
        """Create an answer within a budget; OpenAI's keywords and those of ``OptionParams``.

        A stream is a ``ReceiptStream``.

        Raises:
            pydantic.ValidationError: One of our keywords has a value of the wrong type; nothing was sent.
        """
        place_options(params)
        hide_usage = ask_for_usage(params)
        answer = super().create(**params)
        return ReceiptStream(answer, hide_usage=hide_usage) if isinstance(answer, openai.Stream) else answer


class Responses(OfficialResponses):
    """``client.responses``."""

    @overload  # type: ignore[override]  # the official overloads with our keywords; at run time all are passed on
    def create(self, *, stream: Literal[False] | None = None, **params: Unpack[ResponseParams]) -> Response: ...

    @overload
    def create(
        self, *, stream: Literal[True], **params: Unpack[ResponseParams]
    ) -> ReceiptStream[ResponseStreamEvent]: ...

    @overload
    def create(
        self, *, stream: bool, **params: Unpack[ResponseParams]
    ) -> Response | ReceiptStream[ResponseStreamEvent]: ...

    def create(self, **params: Any) -> Any:
        """Create an answer within a budget; OpenAI's keywords and those of ``OptionParams``.

        A stream is a ``ReceiptStream``.

        Raises:
            pydantic.ValidationError: One of our keywords has a value of the wrong type; nothing was sent.
        """
        place_options(params)
        answer = super().create(**params)
        return ReceiptStream(answer) if isinstance(answer, openai.Stream) else answer
