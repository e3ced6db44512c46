"""Lengths of texts by upstream's tokeniser, remembered by digest, so that a growing conversation is counted once.

No text is kept. Digests are keyed by tenant: how fast an answer comes tells nobody what another tenant has asked.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

from suffice.server.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from suffice.server.gateway.upstream import Upstream

_OK = 200


class TextLengths:
    """Counts tokens, and forgets the lengths that were not asked for longest.

    Args:
        upstream: Whose tokeniser counts.
        most: Lengths that are remembered.
        at_once: Texts that are counted beside each other, over all requests.
    """

    def __init__(self, upstream: Upstream, *, most: int = 65_536, at_once: int = 32) -> None:
        self._upstream = upstream
        self._most = most
        self._gate = asyncio.Semaphore(at_once)
        self._held: OrderedDict[bytes, int] = OrderedDict()

    async def count(self, text: str, *, model: str, tenant: str) -> int | None:
        """Tokens of one text; None where upstream does not tell.

        Args:
            text: The text, without any template around it.
            model: The model whose tokeniser counts.
            tenant: A secret of the tenant's, at most 64 bytes.
        """
        if not text:
            return 0
        name = hashlib.blake2b(f"{model}\0{text}".encode(), digest_size=16, key=tenant.encode()).digest()
        held = self._held.get(name)
        if held is not None:
            self._held.move_to_end(name)
            return held
        async with self._gate:
            count = await self._ask(text, model)
        if count is not None:
            self._held[name] = count
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        return count

    async def count_all(self, texts: Sequence[str], *, model: str, tenant: str) -> list[int] | None:
        """Tokens of each text; None where upstream does not tell of all of them."""
        # The longest goes first and alone, so that an upstream that cannot count is asked once and not for each text.
        if await self.count(max(texts, key=len, default=""), model=model, tenant=tenant) is None:
            return None
        counts = await asyncio.gather(*(self.count(text, model=model, tenant=tenant) for text in texts))
        known = [count for count in counts if count is not None]
        return known if len(known) == len(counts) else None

    async def _ask(self, text: str, model: str) -> int | None:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        try:
            status, answer = await self._upstream.try_json("/tokenize", body)
        except ApiError:
            return None
        count = answer.get("count")
        return count if status == _OK and isinstance(count, int) else None
