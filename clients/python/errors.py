"""Errors that the gateway answers with, by what the caller can do about them.

Every class is also the ``openai`` exception of its status, so ``except openai.RateLimitError`` keeps working. What
breaks off a stream that has begun is an ``openai.APIError``, as the official client raises it.

SufficeError
|-- InvalidRequestError     openai.BadRequestError        400  mend the request; ``param`` names the field
|-- InvalidKeyError         openai.AuthenticationError    401
|-- AccessDeniedError       openai.PermissionDeniedError  403
|-- ModelNotFoundError      openai.NotFoundError          404
|-- RequestTooLargeError    openai.APIStatusError         413
|-- RateLimitExceededError  openai.RateLimitError         429  try again after ``retry_after``
|-- BudgetExhaustedError    openai.RateLimitError         429  the account is spent: trying again does not help
|-- UpstreamFailedError     openai.InternalServerError    502  the engine broke off or answered nonsense
|-- ServerOverloadedError   openai.InternalServerError    503  try again after ``retry_after``
`-- UpstreamTimeoutError    openai.InternalServerError    504  the engine did not answer in time
    `-- DeadlineExceededError                             504  the request's own deadline passed

The client has tried a retryable error again (``max_retries``) before it raises it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import openai

if TYPE_CHECKING:
    import httpx2


class SufficeError(openai.APIStatusError):
    """Base of what the gateway answers with instead of an answer.

    Attributes:
        status: HTTP status.
        retryable: Whether the same request may succeed later.
    """

    status: ClassVar[int]
    retryable: ClassVar[bool] = False

    @property
    def retry_after(self) -> float | None:
        """Seconds that the gateway asks to wait; None where it names no time."""
        for header, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
            try:
                return float(self.response.headers[header]) / unit
            except (KeyError, ValueError):  # absent, or the form of a date, which the gateway does not use
                continue
        return None


class InvalidRequestError(SufficeError, openai.BadRequestError):
    """The request is malformed or asks for the impossible; ``param`` is the path of the field at fault."""

    status = 400


class InvalidKeyError(SufficeError, openai.AuthenticationError):
    """The key is missing, unknown or revoked."""

    status = 401


class AccessDeniedError(SufficeError, openai.PermissionDeniedError):
    """The key is good, and not for this."""

    status = 403


class ModelNotFoundError(SufficeError, openai.NotFoundError):
    """There is no such model for this key."""

    status = 404
    code = "model_not_found"


class RequestTooLargeError(SufficeError):
    """The body is larger than the gateway reads."""

    status = 413


class RateLimitExceededError(SufficeError, openai.RateLimitError):
    """Too much at once; it passes."""

    status = 429
    code = "rate_limit_exceeded"
    retryable = True


class BudgetExhaustedError(SufficeError, openai.RateLimitError):
    """The budget of the key or its team does not cover this request. It is not tried again."""

    status = 429
    code = "insufficient_quota"


class UpstreamFailedError(SufficeError, openai.InternalServerError):
    """The engine refused the connection, broke off or answered nonsense."""

    status = 502
    code = "upstream_error"
    retryable = True


class ServerOverloadedError(SufficeError, openai.InternalServerError):
    """Shed, so that the requests already running finish."""

    status = 503
    code = "server_overloaded"
    retryable = True


class UpstreamTimeoutError(SufficeError, openai.InternalServerError):
    """The engine did not answer in time."""

    status = 504
    code = "upstream_timeout"
    retryable = True


class DeadlineExceededError(UpstreamTimeoutError):
    """The request's own deadline passed before there was anything to answer. It is not tried again."""

    code = "deadline_exceeded"
    retryable = False


CLASSES: tuple[type[SufficeError], ...] = (
    InvalidRequestError,
    InvalidKeyError,
    AccessDeniedError,
    ModelNotFoundError,
    RequestTooLargeError,
    RateLimitExceededError,
    BudgetExhaustedError,
    UpstreamFailedError,
    ServerOverloadedError,
    UpstreamTimeoutError,
    DeadlineExceededError,
)
"""All that is ever raised. One without a ``code`` of its own stands for every code of its status."""


def specific(error: openai.APIStatusError, message: str, response: httpx2.Response) -> openai.APIStatusError:
    """The class of this tree for an error of the official client, or that error itself where none fits."""
    for kind in CLASSES:
        if kind.status == error.status_code and kind.code in {None, error.code}:
            return kind(message, response=response, body=error.body)
    return error
