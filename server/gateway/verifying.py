"""Verifiers: who says what an answer is worth. Named in the operator's file, chosen by name in a request.

A verifier that fails, is slow or says no number leaves the answer without a score and is counted; it never fails a
request. What must not be here: what a score is used for.
"""

from __future__ import annotations

import asyncio
import math
import urllib.parse
from typing import TYPE_CHECKING, Any, Protocol, assert_never

from suffice.server.config import HttpVerifier, SchemaVerifier, ScoreVerifier, UnitTestVerifier, UpstreamSection
from suffice.server.errors import ApiError
from suffice.server.gateway.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from suffice.server.config import Verifier
    from suffice.server.gateway.dialects.base import Call
    from suffice.server.telemetry.metrics import Metrics

_OK = 200
_LONGEST = 600.0
"""Seconds that a client waits for its server at most; a verifier's own time limit is shorter."""


class Check(Protocol):
    """One way to score an answer."""

    async def score(self, call: Call, answer: str) -> float | None:
        """The reward of an answer to a request; None where it cannot be told. May raise ``ApiError`` or time out."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class HttpCheck:
    """Asks a server of the operator's.

    Args:
        section: Where it is.
        api_key: Its bearer token, already resolved.
    """

    def __init__(self, section: HttpVerifier, api_key: str | None) -> None:
        parts = urllib.parse.urlsplit(section.url)
        self._path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        self._server = _client(f"{parts.scheme}://{parts.netloc}", api_key)

    async def score(self, call: Call, answer: str) -> float | None:
        """Send request and answer, read ``score``."""
        status, told = await self._server.try_json(self._path, {"request": call.body, "answer": answer})
        return _number(told.get("score")) if status == _OK else None

    async def close(self) -> None:
        """Close its connections."""
        await self._server.close()


class ScoreCheck:
    """Asks vLLM's score API how well the answer goes with the question.

    Args:
        section: Model and path.
        api_key: The server's key, already resolved.
        upstream: The upstream itself, where the section names no other server.
    """

    def __init__(self, section: ScoreVerifier, api_key: str | None, upstream: Upstream) -> None:
        self._section = section
        self._own = None if section.url is None else _client(section.url, api_key)
        self._server = self._own or upstream

    async def score(self, call: Call, answer: str) -> float | None:
        """Send question and answer as a pair, read the pair's score."""
        body = {"model": self._section.model, "queries": question(call.body), "documents": answer}
        status, told = await self._server.try_json(self._section.path, body)
        if status != _OK:
            return None
        try:
            return _number(told["data"][0]["score"])
        except (LookupError, TypeError):
            return None

    async def close(self) -> None:
        """Close its connections, where it has its own."""
        if self._own is not None:
            await self._own.close()


class Verifiers:
    """All verifiers of a gateway, each within its time.

    Args:
        sections: The operator's verifiers by name.
        upstream: The gateway's upstream.
        metrics: Counters.
        secret: Resolves references to secrets.
    """

    def __init__(
        self,
        sections: Mapping[str, Verifier],
        upstream: Upstream,
        metrics: Metrics,
        secret: Callable[[str | None], str | None],
    ) -> None:
        self._metrics = metrics
        self._checks = {name: _check(section, upstream, secret) for name, section in sections.items()}
        self._times = {name: _time(section) for name, section in sections.items()}

    async def score(self, name: str, call: Call, answer: str) -> float | None:
        """What a verifier says of an answer; None where it says nothing in time. Never raises but when cancelled."""
        outcome = "failed"
        score = None
        try:
            async with asyncio.timeout(self._times[name]):
                score = await self._checks[name].score(call, answer)
            outcome = "unscored" if score is None else "scored"
        except TimeoutError:
            outcome = "late"
        except ApiError as error:
            outcome = "late" if error.error_code == "upstream_timeout" else "failed"
        except (OSError, ValueError):
            outcome = "failed"
        self._metrics.verified.labels(name, outcome).inc()
        return score

    async def close(self) -> None:
        """Let go of all connections."""
        for check in self._checks.values():
            await check.close()


def _check(section: Verifier, upstream: Upstream, secret: Callable[[str | None], str | None]) -> Check:
    match section:
        case HttpVerifier():
            return HttpCheck(section, secret(section.api_key))
        case ScoreVerifier():
            return ScoreCheck(section, secret(section.api_key), upstream)
        case SchemaVerifier():
            from suffice.server.gateway.schema_check import SchemaCheck  # noqa: PLC0415 - loads a library for it alone

            return SchemaCheck(section.form)
        case UnitTestVerifier():
            from suffice.server.gateway.unit_test_check import UnitTestCheck  # noqa: PLC0415 - used by few

            return UnitTestCheck(section)
        case _:
            assert_never(section)


def _time(section: Verifier) -> float:
    match section:
        case SchemaVerifier():
            return _LONGEST
        case UnitTestVerifier():
            # Half of it is for waiting until the runs before are through; a run limits itself.
            return 2 * section.timeout_s
        case _:
            return section.timeout_s


def _client(url: str, api_key: str | None) -> Upstream:
    section = UpstreamSection(url=url, silence_timeout_s=_LONGEST)
    return Upstream(section, api_key=api_key, max_connections=256)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def question(body: Mapping[str, Any]) -> str:
    """What was asked, as one text: the last message of the user's, or the prompt."""
    turns = body.get("messages") or body.get("input") or body.get("prompt") or ""
    if isinstance(turns, str):
        return turns
    for turn in reversed(turns):
        if isinstance(turn, dict) and turn.get("role") == "user":
            return _text(turn.get("content"))
    return ""


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))
