"""The errors a client can meet, as one tree, each with its HTTP status, OpenAI type and code.

    ApiError
    |-- InvalidRequest          400  invalid_request_error  (code names the field's fault)
    |   |-- UnknownSufficeKey   400  unknown_parameter
    |   |-- InvalidJson         400  invalid_json
    |   `-- ContextExceeded     400  context_length_exceeded
    |-- InvalidApiKey           401  invalid_api_key
    |-- PermissionDenied        403  permission_denied
    |-- RouteNotFound           404  route_not_found
    |-- ModelNotFound           404  model_not_found
    |-- MethodNotAllowed        405  method_not_allowed
    |-- RequestTooLarge         413  request_too_large
    |-- RateLimited             429  rate_limit_exceeded    retryable: the budget is held by requests in flight
    |-- BudgetExhausted         429  insufficient_quota     not before the window turns or the budget is raised
    |-- InternalError           500  internal_error
    |-- UpstreamFailed          502  upstream_error         retryable
    |-- Overloaded              503  server_overloaded      retryable
    |   `-- DeadlineUnreachable 503  deadline_unreachable   retryable: later the wait may be shorter
    `-- Timeout                 504  upstream_timeout       retryable
        `-- DeadlineExceeded    504  deadline_exceeded      not retryable: the deadline was the caller's

Messages name fields and limits, never a path, an address, an upstream host, or anything a user wrote but a key.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar


class ApiError(Exception):
    """Base of everything that becomes an OpenAI error object."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.error_code = code or self.code

    def body(self) -> dict[str, Any]:
        """The error as OpenAI clients expect it."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.error_code,
            }
        }

    def anthropic_body(self) -> dict[str, Any]:
        """The error as Anthropic clients expect it."""
        kind = _ANTHROPIC_TYPES.get(self.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": self.message, "code": self.error_code}}

    def headers(self) -> dict[str, str]:
        """Headers that tell official SDKs whether and when to try again."""
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(math.ceil(self.retry_after_s))
            headers["retry-after-ms"] = str(math.ceil(self.retry_after_s * 1000))
        if not self.retryable and self.status in _RETRIED_BY_SDKS:
            headers["x-should-retry"] = "false"
        return headers


_RETRIED_BY_SDKS = frozenset({408, 409, 429, 500, 502, 503, 504})

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class InvalidRequest(ApiError):
    """The request is wrong and would be wrong again."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class UnknownSufficeKey(InvalidRequest):
    """A key of the ``suffice`` field that does not exist."""

    code = "unknown_parameter"


class InvalidJson(InvalidRequest):
    """The body is not one JSON object."""

    code = "invalid_json"


class ContextExceeded(InvalidRequest):
    """The prompt and the answer do not fit into the model's context."""

    code = "context_length_exceeded"


class InvalidApiKey(ApiError):
    """No key, an unknown one or a revoked one."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class PermissionDenied(ApiError):
    """The key may not do this."""

    status = 403
    type = "invalid_request_error"
    code = "permission_denied"


class RouteNotFound(ApiError):
    """A path that the gateway does not serve; upstream was not asked."""

    status = 404
    type = "invalid_request_error"
    code = "route_not_found"


class ModelNotFound(ApiError):
    """A model that no upstream serves, or that the key may not use."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class MethodNotAllowed(ApiError):
    """A path that exists, asked with another method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class RequestTooLarge(ApiError):
    """The body is larger, deeper or more detailed than allowed."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class RateLimited(ApiError):
    """The budget would suffice but for what requests in flight hold reserved."""

    status = 429
    type = "rate_limit_exceeded"
    code = "rate_limit_exceeded"
    retryable = True


class BudgetExhausted(ApiError):
    """The account's budget is spent."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"


class InternalError(ApiError):
    """A fault of the gateway's own."""


class UpstreamFailed(ApiError):
    """Upstream answered nonsense, refused the connection or broke off."""

    status = 502
    code = "upstream_error"
    retryable = True


class Overloaded(ApiError):
    """The gateway or upstream cannot take more now."""

    status = 503
    code = "server_overloaded"
    retryable = True


class DeadlineUnreachable(Overloaded):
    """The wait leaves no time to answer by the deadline that the request names."""

    code = "deadline_unreachable"


class Timeout(ApiError):
    """Upstream did not answer in time."""

    status = 504
    code = "upstream_timeout"
    retryable = True


class DeadlineExceeded(Timeout):
    """The request's own deadline passed before there was anything to answer."""

    code = "deadline_exceeded"
    retryable = False


class ClientLeft(Exception):
    """The client closed its connection before its request was complete.

    Args:
        phase: What the request was at: ``receiving`` or ``queued``.
    """

    def __init__(self, phase: str = "receiving") -> None:
        super().__init__(phase)
        self.phase = phase
