"""Streams that keep the receipt which their last chunk brings.

Both are ``openai`` streams in every other respect. What must not be here: how a stream is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import openai
from openai.types import CompletionUsage
from suffice._receipt import Receipt, raw_receipt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

_T = TypeVar("_T")


class _Observer:
    """Remembers what a stream's items say beside their text."""

    def __init__(self, *, hide_usage: bool) -> None:
        self.found: Mapping[str, Any] | None = None
        self.usage: CompletionUsage | None = None
        self._hide_usage = hide_usage

    def hides(self, item: object) -> bool:
        """Note the receipt and usage of an item, and say whether to keep it from the caller."""
        found = raw_receipt(item)
        if found is not None:
            self.found = found
        usage = getattr(item, "usage", None)
        if not isinstance(usage, CompletionUsage):
            return False
        self.usage = usage
        return self._hide_usage and not getattr(item, "choices", None)

    def receipt(self) -> Receipt | None:
        return None if self.found is None else Receipt.model_validate(self.found)


class ReceiptStream(openai.Stream[_T]):
    """An ``openai.Stream`` with the receipt on it, once it has been read to its end.

        with client.chat.completions.create(..., stream=True) as stream:
            for chunk in stream:
                ...
        print(stream.receipt)

    Wraps any stream of the official client; it takes over the stream it is given.

    Args:
        stream: The stream to read.
        hide_usage: Keep the chunk that has usage and no choices to itself: callers that did not ask for usage do
            not expect a chunk without choices.
    """

    def __init__(self, stream: openai.Stream[_T], *, hide_usage: bool = False) -> None:
        vars(self).update(vars(stream))
        self._observer = _Observer(hide_usage=hide_usage)

    @property
    def receipt(self) -> Receipt | None:
        """The receipt; None until the stream's last chunk has been read, or if it brought none."""
        return self._observer.receipt()

    @property
    def usage(self) -> CompletionUsage | None:
        """Usage as last reported; None for a stream that reports none."""
        return self._observer.usage

    def __next__(self) -> _T:
        item = super().__next__()
        while self._observer.hides(item):
            item = super().__next__()
        return item

    def __iter__(self) -> Iterator[_T]:
        for item in super().__iter__():
            if not self._observer.hides(item):
                yield item


class AsyncReceiptStream(openai.AsyncStream[_T]):
    """An ``openai.AsyncStream`` with the receipt on it, once it has been read to its end; see ``ReceiptStream``."""

    def __init__(self, stream: openai.AsyncStream[_T], *, hide_usage: bool = False) -> None:
        vars(self).update(vars(stream))
        self._observer = _Observer(hide_usage=hide_usage)

    @property
    def receipt(self) -> Receipt | None:
        """The receipt; None until the stream's last chunk has been read, or if it brought none."""
        return self._observer.receipt()

    @property
    def usage(self) -> CompletionUsage | None:
        """Usage as last reported; None for a stream that reports none."""
        return self._observer.usage

    async def __anext__(self) -> _T:
        item = await super().__anext__()
        while self._observer.hides(item):
            item = await super().__anext__()
        return item

    async def __aiter__(self) -> AsyncIterator[_T]:
        async for item in super().__aiter__():
            if not self._observer.hides(item):
                yield item
