"""How a fake server is set up, and what goes wrong on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FaultKind = Literal[
    "status",  # an answer with an error status instead of the stream
    "hang_before_headers",  # the request is read and nothing comes
    "reset_before_headers",  # the connection breaks before the headers
    "hang",  # the stream falls silent
    "reset",  # the connection breaks between two events
    "reset_in_event",  # the connection breaks within an event
    "end",  # the body ends properly, too early and without [DONE]
    "error_event",  # an error object in the stream, and what vLLM sends after it
    "oversized_event",  # one event of `size` bytes
    "invalid_json",  # an event whose data is cut
    "nan",  # an event whose usage holds NaN, which is not JSON
    "wrong_content_type",  # the right body under text/html
    "after_done",  # content after [DONE]
    "no_done",  # everything but [DONE]
    "no_finish",  # [DONE] in place of the finish and usage frames
]


@dataclass(slots=True, kw_only=True)
class Fault:
    """Something that goes wrong with requests to the generating endpoints.

    Attributes:
        kind: What happens.
        after: Events that are sent before it happens in mid-stream.
        times: Requests that it happens to; None for all from now on.
        path: Only on this path; None for any.
        status: For ``status``, and the code within an ``error_event``.
        message: The error's message.
        headers: Headers that go with ``status``.
        size: For ``oversized_event``, in bytes.
    """

    kind: FaultKind
    after: int = 2
    times: int | None = 1
    path: str | None = None
    status: int = 500
    message: str = "Internal server error"
    headers: dict[str, str] = field(default_factory=dict)
    size: int = 9 * 1024 * 1024


@dataclass(slots=True, kw_only=True)
class Settings:
    """The server's start-up options and its manners on the wire. They may be changed between requests.

    Attributes:
        models: Served names; the first is the base model.
        max_model_len: Context in tokens.
        api_key: Key that is wanted as a bearer token; None for an open server.
        reasoning_parser: ``--reasoning-parser``: thoughts travel apart from the answer.
        reasoning_config: ``--reasoning-config``: ``thinking_token_budget`` works.
        template_opens_thought: The chat template ends in ``<think>``; otherwise the model says it.
        tool_parser: ``--enable-auto-tool-choice`` with a parser.
        prompt_tokens_details: ``--enable-prompt-tokens-details``.
        request_metrics: ``--enable-per-request-metrics``.
        usage: ``asked`` as vLLM does, ``final`` for a server without continuous usage, ``off`` for one without any.
        embeddings: Whether the embeddings route exists; a generating vLLM has none.
        tokens_per_chunk: ``--stream-interval``; the first chunk always holds one token.
        prefill_s: Time to the first token.
        token_s: Time a token.
        split: Bytes per write, or None for one event per write. Chunked coding keeps the cuts apart.
        split_seed: Cut at random places instead, 1 to ``split`` bytes each.
        newline: Line ends of the event stream.
        comments: A comment line before each event.
        kv_cache_usage: What the gauge shows, 0 to 1.
        waiting: What the queue's gauge shows.
        block_size: Tokens in a KV block.
        kv_cache_tokens: Tokens that the KV cache holds.
        health_status: Status of ``/health``.
        plugin: suffice's plugin is loaded: requests take signals, and ``engine_entropy`` runs in the engine.
    """

    models: tuple[str, ...] = ("fake",)
    max_model_len: int = 4096
    api_key: str | None = None
    reasoning_parser: bool = True
    reasoning_config: bool = True
    template_opens_thought: bool = True
    tool_parser: bool = True
    prompt_tokens_details: bool = True
    request_metrics: bool = True
    usage: Literal["asked", "final", "off"] = "asked"
    embeddings: bool = True
    tokens_per_chunk: int = 1
    prefill_s: float = 0.0
    token_s: float = 0.0
    split: int | None = None
    split_seed: int | None = None
    newline: str = "\n"
    comments: bool = False
    kv_cache_usage: float = 0.0
    waiting: int = 0
    block_size: int = 16
    kv_cache_tokens: int = 65536
    health_status: int = 200
    plugin: bool = False
