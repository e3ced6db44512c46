"""The one way to vLLM: streams, small JSON calls, and upstream's faults as the gateway's errors.

Closing a stream closes its connection, which is how vLLM learns that nobody wants the rest.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import httpx2
import orjson
from suffice.server import errors
from suffice.server.gateway import sse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from suffice.server.config import UpstreamSection

_OK = 200
_LONGEST_READ = 4000
_LONGEST_MESSAGE = 500
_LONGEST_PARAM = 100
_LARGEST_ERROR = 64 * 1024
_LARGEST_JSON = 64 * 1024 * 1024


class Upstream:
    """A pooled client of one vLLM server.

    Args:
        section: Address and timeouts.
        api_key: Key that upstream wants, already resolved.
        max_connections: Streams open at once.
    """

    def __init__(self, section: UpstreamSection, *, api_key: str | None = None, max_connections: int = 4096) -> None:
        headers = {"accept-encoding": "identity"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self._client = httpx2.AsyncClient(
            base_url=section.url.rstrip("/"),
            headers=headers,
            timeout=httpx2.Timeout(
                connect=section.connect_timeout_s,
                read=section.silence_timeout_s,
                write=30,
                pool=section.silence_timeout_s,
            ),
            limits=httpx2.Limits(max_connections=max_connections, max_keepalive_connections=256),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> AsyncIterator[AsyncIterator[list[sse.ServerSentEvent]]]:
        """Open an event stream; leaving the context closes it, which aborts what is not finished.

        Yields:
            Batches of events, one batch for each piece that the network delivered.

        Raises:
            ApiError: Upstream refused, broke off, fell silent or sent what is no event stream.
        """
        content = orjson.dumps(body)
        headers = {"content-type": "application/json", **headers}
        with _translated():
            async with self._client.stream("POST", path, content=content, headers=headers) as response:
                if response.status_code != _OK:
                    raise refusal(response.status_code, await _read(response, _LARGEST_ERROR))
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    raise errors.UpstreamFailed("upstream did not answer with an event stream")
                yield _events(response)

    async def post_json(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        """Ask for one JSON object.

        Raises:
            ApiError: As for ``stream``.
        """
        status, answer = await self.try_json(path, body, headers)
        if status != _OK:
            raise refusal(status, orjson.dumps(answer))
        return answer

    async def try_json(
        self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Ask for one JSON object and take any status.

        Raises:
            ApiError: Upstream could not be reached or sent no JSON object.
        """
        headers = {"content-type": "application/json", **(headers or {})}
        with _translated():
            async with self._client.stream("POST", path, content=orjson.dumps(body), headers=headers) as response:
                return response.status_code, _object(await _read(response, _LARGEST_JSON))

    async def get_json(self, path: str) -> dict[str, Any]:
        """Fetch one JSON object.

        Raises:
            ApiError: As for ``stream``.
        """
        with _translated():
            response = await self._client.get(path)
            if response.status_code != _OK:
                raise refusal(response.status_code, response.content[:_LARGEST_ERROR])
            return _object(response.content)

    async def get_text(self, path: str) -> str:
        """Fetch a page of text.

        Raises:
            ApiError: As for ``stream``.
        """
        with _translated():
            async with self._client.stream("GET", path) as response:
                content = await _read(response, _LARGEST_JSON)
        if response.status_code != _OK:
            raise refusal(response.status_code, content[:_LARGEST_ERROR])
        return content.decode("utf-8", "replace")


async def _events(response: httpx2.Response) -> AsyncIterator[list[sse.ServerSentEvent]]:
    decoder = sse.Decoder()
    with _translated():
        async for piece in response.aiter_raw():
            events = decoder.feed(piece)
            if events:
                yield events
        if events := decoder.finish():
            yield events


@contextlib.contextmanager
def _translated() -> Any:
    """Transport faults as the gateway's errors; no address or reason of the transport's leaves through them."""
    try:
        yield
    except httpx2.ConnectError as error:
        raise errors.UpstreamFailed(
            "upstream cannot be reached", retry_after_s=1, code="upstream_unreachable"
        ) from error
    except httpx2.PoolTimeout as error:
        raise errors.Overloaded("too many requests are open", retry_after_s=1) from error
    except httpx2.TimeoutException as error:
        raise errors.Timeout("upstream did not answer in time", retry_after_s=1) from error
    except httpx2.HTTPError as error:
        raise errors.UpstreamFailed("upstream broke off", retry_after_s=1) from error
    except sse.EventTooLarge as error:
        raise errors.UpstreamFailed("upstream sent an event that is too large") from error


async def _read(response: httpx2.Response, largest: int) -> bytes:
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > largest:
            raise errors.UpstreamFailed("upstream sent a body that is too large")
    return bytes(body)


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise errors.UpstreamFailed("upstream sent what is not JSON") from error
    if not isinstance(value, dict):
        raise errors.UpstreamFailed("upstream sent what is not a JSON object")
    return value


def refusal(status: int, content: bytes) -> errors.ApiError:
    """Upstream's error answer as the gateway's own; only what concerns the request is passed on."""
    message, param = _message(content)
    match status:
        case 400 | 422:
            if "maximum context length" in message or "maximum model length" in message:
                return errors.ContextExceeded(message, param=param)
            return errors.InvalidRequest(message or "upstream refused the request", param=param)
        case 404 if not message:
            return errors.InvalidRequest("upstream does not offer this")
        case 404:
            return errors.ModelNotFound("the model does not exist", param="model")
        case 413:
            return errors.RequestTooLarge("the request is too large for upstream")
        case 429 | 503:
            return errors.Overloaded("upstream is overloaded", retry_after_s=1)
        case 501 | 405:
            return errors.InvalidRequest("upstream does not offer this")
        case 504 | 408:
            return errors.Timeout("upstream did not answer in time", retry_after_s=1)
        case _:
            return errors.UpstreamFailed("upstream failed", retry_after_s=1)


def _message(content: bytes) -> tuple[str, str | None]:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return "", None
    error = body.get("error", body) if isinstance(body, dict) else {}
    if not isinstance(error, dict):
        return "", None
    message, param = error.get("message"), error.get("param")
    shown = _PRIVATE.sub("...", _ECHO.sub("", message[:_LONGEST_READ])) if isinstance(message, str) else ""
    return shown[:_LONGEST_MESSAGE], param[:_LONGEST_PARAM] if isinstance(param, str) else None


_ECHO = re.compile(r""", 'input': (?:'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?|[^,}]*)""", re.DOTALL)
"""What the client sent, as vLLM quotes it in validation errors."""

_PRIVATE = re.compile(r"\w+://\S+|(?<![\w.])/(?:[\w.@-]+/)*[\w.@-]+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b")
"""URLs, absolute paths and addresses of upstream's machine."""
