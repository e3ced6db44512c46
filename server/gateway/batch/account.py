"""The key's account for one batch: the worst case reserved before anything is drawn, what was used charged once.

Every sample is an upstream request of its own, so each is charged its prompt beside what it generated. The worst case
is therefore each question's prompt as often as it may be drawn, with all the tokens that are left of the budget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.server.gateway.answering import over_budget
from suffice.server.ledger.amounts import Amount, Denied

if TYPE_CHECKING:
    from collections.abc import Iterable

    from suffice.server.gateway.service import Service
    from suffice.server.ledger.amounts import Account


class BatchAccount:
    """One reservation and what is used of it.

    Args:
        service: The ledger and its metrics.
        batch_id: The reservation's name.
    """

    def __init__(self, service: Service, batch_id: str) -> None:
        self._service = service
        self._id = batch_id
        self._most = 0
        self._prompts: dict[int, tuple[int, int]] = {}
        self._told: dict[str, tuple[int, int]] = {}
        self.block_seconds = 0.0
        self.prompt_tokens = 0
        self.generated = 0

    async def reserve(self, accounts: tuple[Account, ...], prompts: Iterable[tuple[int, int]], tokens: int) -> None:
        """Reserve the worst case.

        Args:
            accounts: Who pays.
            prompts: Of each question, the upper estimate of its prompt, and how often it may be drawn.
            tokens: All that may be generated.

        Raises:
            BudgetExhausted: What is spent leaves no room.
            RateLimited: Requests in flight hold the room.
        """
        self._prompts = dict(enumerate(prompts))
        self._most = tokens + sum(estimate * times for estimate, times in self._prompts.values())
        amount = Amount(tokens=self._most, requests=1)
        metrics = self._service.metrics
        with metrics.ledger_wait.labels("reserve").time():
            granted = await self._service.ledger.reserve(request_id=self._id, accounts=accounts, amount=amount)
        metrics.ledger_reserves.labels("denied" if isinstance(granted, Denied) else "granted").inc()
        if not isinstance(granted, Denied):
            metrics.reserved.inc(amount.tokens)
            return
        raise over_budget(granted, "batch")

    def prompt_known(self, question: int, tokens: int) -> None:
        """Give back what a question's prompt was estimated too long, for all its samples. Idempotent."""
        estimate, times = self._prompts[question]
        if tokens < estimate:
            self._lower(question, (tokens, times))

    def closed(self, question: int, charged: int) -> None:
        """Give back the prompts of samples that a question will not draw any more. Idempotent.

        Args:
            question: Its number.
            charged: Samples that are charged their prompt.
        """
        tokens, times = self._prompts[question]
        if charged < times:
            self._lower(question, (tokens, charged))

    def _lower(self, question: int, now: tuple[int, int]) -> None:
        before = self._prompts[question]
        self._prompts[question] = now
        self._most -= before[0] * before[1] - now[0] * now[1]
        self._service.ledger.amend(self._id, self._most)

    def progress(self, sample: str, prompt_tokens: int, generated: int) -> None:
        """Note what a sample used so far; the last word on it counts."""
        before = self._told.get(sample, (0, 0))
        self._told[sample] = (prompt_tokens, generated)
        self.prompt_tokens += prompt_tokens - before[0]
        self.generated += generated - before[1]
        self._service.ledger.checkpoint(self._id, self.prompt_tokens + self.generated)

    async def settle(self, outcome: str) -> None:
        """Charge what was used and give the rest back."""
        used = Amount(
            tokens=self.prompt_tokens + self.generated, requests=1, kv_block_ms=round(self.block_seconds * 1000)
        )
        metrics = self._service.metrics
        with metrics.ledger_wait.labels("settle").time():
            first = await self._service.ledger.settle(self._id, used, outcome)
        metrics.ledger_settles.labels("first" if first else "duplicate").inc()
