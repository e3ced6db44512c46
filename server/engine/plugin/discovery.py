"""The plugin seen from outside: its routes, and what a vLLM can do, asked over HTTP.

Imports the standard library only, so that the gateway, ``suffice doctor`` and scripts can use it. What must not be
here: anything of vLLM.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib.metadata import version as _version
from typing import Any

PLUGIN_PATH = "/suffice/v1/plugin"
SIGNAL_PATH = "/suffice/v1/signal"
SLOT_PATH = "/suffice/v1/slots"
"""Followed by ``/{slot}?nonce={nonce}``."""

_NOT_FOUND, _UNAUTHORIZED = 404, 401
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_MAX_ANSWER = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the plugin can do in one vLLM.

    Attributes:
        installed: Whether its routes answer.
        rules: Names of the rules that run in the engine; empty where none can.
        signals: Whether running requests take signals.
        slots: Slots for requests that take signals.
        lag_tokens: Tokens between the reading of a signal and its effect.
        thought: Whether the engine knows the marks of a thought by itself.
        runner: Which of vLLM's model runners computes: ``v1`` or ``v2``.
        version: The plugin's version.
        why_not: What keeps it from more, in words for an operator; empty where all works.
    """

    installed: bool
    rules: tuple[str, ...] = ()
    signals: bool = False
    slots: int = 0
    lag_tokens: int = 0
    thought: bool = False
    runner: str = ""
    version: str = ""
    why_not: tuple[str, ...] = ()


def version() -> str:
    """Version of the installed plugin."""
    return _version("suffice")


def capabilities(url: str, *, api_key: str | None = None, timeout_s: float = 5) -> Capabilities:
    """Ask a vLLM what the plugin can do in it. Never raises: what cannot be asked is told in ``why_not``.

    Args:
        url: vLLM's base URL, without ``/v1``.
        api_key: Its key, where it has one.
        timeout_s: Longest wait.
    """
    request = urllib.request.Request(url.rstrip("/") + PLUGIN_PATH)  # noqa: S310 - the operator's own URL
    if api_key:
        request.add_header("Authorization", f"Bearer {api_key}")
    try:
        with _NO_PROXY.open(request, timeout=timeout_s) as response:
            told = json.loads(response.read(_MAX_ANSWER))
        return read_capabilities(told)
    except urllib.error.HTTPError as error:
        return Capabilities(installed=False, why_not=(_refusal(error.code),))
    except (OSError, ValueError, http.client.HTTPException):
        return Capabilities(installed=False, why_not=("vLLM does not answer",))


def read_capabilities(told: Any) -> Capabilities:
    """Read the answer of ``GET /suffice/v1/plugin``; what is missing in it counts as not there."""
    rules, signals = _part(told, "rules"), _part(told, "signals")
    why_not = [*_texts(rules.get("reasons")), *_texts(rules.get("remedies"))]
    why_not += [reason for reason in _texts(signals.get("reasons")) if reason not in why_not]
    thought = bool(told.get("thought")) if isinstance(told, dict) else False
    if not thought:
        why_not.append("vLLM does not know the marks of a thought: start it with --reasoning-config")
    return Capabilities(
        installed=bool(rules),
        rules=tuple(sorted(_part(rules, "names"))) if rules.get("available") is True else (),
        signals=signals.get("available") is True,
        slots=_count(signals.get("slots")),
        lag_tokens=_count(signals.get("lag_tokens")),
        thought=thought,
        runner=str(told.get("runner", "")) if isinstance(told, dict) else "",
        version=str(told.get("version", "")) if isinstance(told, dict) else "",
        why_not=tuple(why_not),
    )


def _refusal(status: int) -> str:
    if status == _NOT_FOUND:
        return (
            "the plugin's routes are not loaded: install suffice[vllm] beside vLLM (0.32 or newer) and start it with "
            "VLLM_PLUGINS=suffice"
        )
    if status == _UNAUTHORIZED:
        return "vLLM asks for its API key"
    return f"vLLM answered with status {status}"


def _part(told: Any, key: str) -> dict[str, Any]:
    part = told.get(key) if isinstance(told, dict) else None
    return part if isinstance(part, dict) else {}


def _texts(told: Any) -> list[str]:
    return [text for text in told if isinstance(text, str)] if isinstance(told, list) else []


def _count(told: Any) -> int:
    return told if isinstance(told, int) and not isinstance(told, bool) and told >= 0 else 0
