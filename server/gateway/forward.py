"""Routes that generate nothing: model list, embeddings, token counts. Metered where they cost, bounded everywhere."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from suffice.server.errors import ApiError, BudgetExhausted, ClientLeft, Overloaded, RateLimited
from suffice.server.gateway.dialects import completions, shape
from suffice.server.gateway.intake import parse_object, read_body
from suffice.server.gateway.planner import TEMPLATE_SLACK, find_model
from suffice.server.gateway.sink import CLIENT_LEFT, Sink
from suffice.server.ledger.amounts import Amount, Denied
from suffice.server.ledger.ledger import LedgerUnavailable

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send
    from suffice.server.gateway.service import Service

EMBEDDING_FIELDS = frozenset({"input", "model", "encoding_format", "dimensions"})
MAX_INPUTS = 2048
"""Texts in one embeddings request, as OpenAI has it."""
COUNT_FIELDS = frozenset(
    {"messages", "model", "system", "tools", "tool_choice", "thinking", "output_config", "chat_template_kwargs"}
)


def list_models(service: Service) -> dict[str, Any]:
    """Upstream's models, without the paths that it shows."""
    kept = ("id", "object", "created", "max_model_len", "parent")
    cards = [
        {name: model.card.get(name) for name in kept} | {"owned_by": "suffice"} for model in service.served.values()
    ]
    return {"object": "list", "data": cards}


class _Forward:
    """A request that upstream answers with one JSON body."""

    name = ""
    path = ""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = time.monotonic()
        request_id = uuid.uuid4().hex
        sink = Sink(send, {"x-request-id": request_id})
        status = 200
        service = self._service
        try:
            service.admit()
            key = service.authenticate(dict(scope["headers"]))
            limits = service.config.server
            raw = await read_body(receive, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s)
            body = self._check(parse_object(raw))
            answer = await self._ask(request_id, key, body)
            await sink.whole(200, answer)
        except ClientLeft:
            status = CLIENT_LEFT
        except (ApiError, LedgerUnavailable) as caught:
            error = (
                caught if isinstance(caught, ApiError) else Overloaded("accounts cannot be kept now", retry_after_s=2)
            )
            status = error.status
            service.metrics.refused.labels(error.error_code).inc()
            await sink.whole(status, self._error(error), error.headers())
        finally:
            service.metrics.duration.labels(self.name).observe(time.monotonic() - began)
            service.metrics.requests.labels(self.name, "none", str(status)).inc()

    def _check(self, body: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    async def _ask(self, request_id: str, key: Any, body: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def _error(self, error: ApiError) -> dict[str, Any]:
        return error.body()


class EmbeddingsEndpoint(_Forward):
    """``/v1/embeddings``: the prompt is metered."""

    name = "embeddings"
    path = "/v1/embeddings"

    def _check(self, body: dict[str, Any]) -> dict[str, Any]:
        kept = shape.allow(body, EMBEDDING_FIELDS)
        completions.prompts(kept.get("input"), name="input", most=MAX_INPUTS)
        find_model(self._service.served, shape.text(kept, "model"))
        return kept

    async def _ask(self, request_id: str, key: Any, body: dict[str, Any]) -> dict[str, Any]:
        service = self._service
        amount = Amount(tokens=shape.weight(body["input"]) + TEMPLATE_SLACK, requests=1)
        accounts = service.keys.accounts(key)
        granted = await service.ledger.reserve(request_id=request_id, accounts=accounts, amount=amount)
        if isinstance(granted, Denied):
            kind = BudgetExhausted if granted.exhausted else RateLimited
            raise kind("the budget does not allow this request", retry_after_s=granted.retry_after_s)
        used = Amount(requests=1)
        try:
            answer = await service.upstream.post_json(self.path, body, {"x-request-id": request_id})
            used = Amount(tokens=int((answer.get("usage") or {}).get("prompt_tokens") or 0), requests=1)
        finally:
            await service.ledger.settle(request_id, used, "completed" if used.tokens else "failed")
        service.metrics.tokens.labels("prompt").inc(used.tokens)
        return answer


class CountTokensEndpoint(_Forward):
    """``/v1/messages/count_tokens``: costs nothing, so nothing is charged."""

    name = "count_tokens"
    path = "/v1/messages/count_tokens"

    def _check(self, body: dict[str, Any]) -> dict[str, Any]:
        kept = shape.allow(body, COUNT_FIELDS)
        kept["model"] = shape.split_model(shape.text(kept, "model"))[0]
        find_model(self._service.served, kept["model"])
        return kept

    async def _ask(self, request_id: str, key: Any, body: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        return await self._service.upstream.post_json(self.path, body, {"x-request-id": request_id})

    def _error(self, error: ApiError) -> dict[str, Any]:
        return error.anthropic_body()
