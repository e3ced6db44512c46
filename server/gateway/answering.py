"""What every route that generates does around its work: count it, time it, and make each error an error object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from suffice.server.errors import ApiError, BudgetExhausted, ClientLeft, Overloaded, RateLimited
from suffice.server.gateway.sink import CLIENT_LEFT
from suffice.server.ledger.ledger import LedgerUnavailable

if TYPE_CHECKING:
    from suffice.server.ledger.amounts import Denied
    from suffice.server.telemetry.metrics import Metrics


class Answering(Protocol):
    """One request on its way through.

    Attributes:
        status: Status that it is answered with so far.
        model_label: Its model, for metrics.
    """

    status: int
    model_label: str

    def elapsed(self) -> float:
        """Seconds since it was received."""
        ...

    async def answer(self) -> None:
        """Do everything.

        Raises:
            ApiError: It was refused, or failed before anything was sent.
            ClientLeft: Nobody is there any more.
        """
        ...

    async def refuse(self, error: ApiError) -> None:
        """Send an error."""
        ...


async def answered(request: Answering, route: str, metrics: Metrics) -> None:
    """Answer one request; every error becomes an error object.

    Args:
        request: The request.
        route: Its route, for metrics.
        metrics: Where it is counted.
    """
    metrics.in_flight.inc()
    try:
        await request.answer()
    except ClientLeft as left:
        request.status = CLIENT_LEFT
        metrics.client_disconnects.labels(left.phase).inc()
    except ApiError as error:
        await request.refuse(error)
    except LedgerUnavailable:
        await request.refuse(Overloaded("accounts cannot be kept now", retry_after_s=2, code="ledger_unavailable"))
    finally:
        metrics.in_flight.dec()
        metrics.duration.labels(route).observe(request.elapsed())
        metrics.requests.labels(route, request.model_label, str(request.status)).inc()


def over_budget(denied: Denied, what: str) -> BudgetExhausted | RateLimited:
    """The error that a denied reservation is.

    Args:
        denied: The limit that stands in the way.
        what: What asked: ``request`` or ``batch``.
    """
    who, limit = denied.account.partition(":")[0], denied.limit
    if denied.exhausted:
        return BudgetExhausted(
            f"the {who}'s budget of {limit.limit} {limit.resource.value} per {limit.window.value} has "
            f"{limit.limit - denied.spent} left; this {what} may need {denied.needed}",
            retry_after_s=denied.retry_after_s,
        )
    return RateLimited(
        f"requests in flight hold the rest of the {who}'s budget of {limit.limit} {limit.resource.value}",
        retry_after_s=denied.retry_after_s,
    )
