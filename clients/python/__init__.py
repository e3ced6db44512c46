"""The light client of suffice: the official ``openai`` client with budgets and receipts as types.

``Client`` is an ``openai.OpenAI``; whatever works there works here. What is added: what a request may spend, as
keywords of ``create``, of ``with_options`` and of the client itself, and what it did spend, as a typed receipt.

    from suffice import Budget, Client, receipt

    client = Client(base_url="http://127.0.0.1:8080/v1", api_key="sk-suffice-...")
    completion = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "What is 17 times 3?"}],
        budget=Budget(total_tokens=512, thinking_tokens=256),
    )
    print(completion.choices[0].message.content, receipt(completion).spent)

What must not be here: anything of the server's. Importing this package brings in ``openai`` and what that needs.
"""

from importlib.metadata import version as _version

from suffice._client import AsyncClient, Client
from suffice._options import Answer, Budget, EarlyExit, Options, Sampling
from suffice._receipt import Limit, NotApplied, Plan, Receipt, Saved, Spent, Stop, Votes, receipt
from suffice._streams import AsyncReceiptStream, ReceiptStream
from suffice.errors import (
    AccessDeniedError,
    BudgetExhaustedError,
    DeadlineExceededError,
    InvalidKeyError,
    InvalidRequestError,
    ModelNotFoundError,
    RateLimitExceededError,
    RequestTooLargeError,
    ServerOverloadedError,
    SufficeError,
    UpstreamFailedError,
    UpstreamTimeoutError,
)

__version__ = _version("suffice")

__all__ = [
    "AccessDeniedError",
    "Answer",
    "AsyncClient",
    "AsyncReceiptStream",
    "Budget",
    "BudgetExhaustedError",
    "Client",
    "DeadlineExceededError",
    "EarlyExit",
    "InvalidKeyError",
    "InvalidRequestError",
    "Limit",
    "ModelNotFoundError",
    "NotApplied",
    "Options",
    "Plan",
    "RateLimitExceededError",
    "Receipt",
    "ReceiptStream",
    "RequestTooLargeError",
    "Sampling",
    "Saved",
    "ServerOverloadedError",
    "Spent",
    "Stop",
    "SufficeError",
    "UpstreamFailedError",
    "UpstreamTimeoutError",
    "Votes",
    "__version__",
    "receipt",
]
