"""suffice's plugin in the fake: its routes, its table, and what a signal or a rule in the engine does to a thought."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from fake_vllm.script import Script
    from fake_vllm.settings import Settings

SLOTS = 4096
MAX_NONCE = 2**53 - 1
ACTIONS = ("cap", "close_thought", "stop")
RULES = {"engine_entropy": "ends the thought, in the engine, when the entropy of its steps stays low"}


@dataclass(slots=True, kw_only=True)
class Steering:
    """What the plugin does to one request.

    Attributes:
        nonce: What tells it from its slot's other tenants; 0 without a slot.
        rule: The rule that the request wants the engine to run.
        exit_at: Tokens of thought after which that rule closes it.
    """

    nonce: int = 0
    rule: str | None = None
    exit_at: int | None = None
    tokens: int = 0
    thinking: int = 0
    closing: str | None = None
    closed: dict[str, Any] | None = None

    def goes_on(self, thought: int) -> bool:
        """Whether a thought of so many tokens may get another one."""
        if self.rule is not None and self.exit_at is not None and thought >= self.exit_at:
            self.closing = self.closing or self.rule
        if self.closing is None:
            return True
        self.closed = self.closed or {"rule": self.closing, "at_token": self.tokens}
        return False

    def counted(self, tokens: int, *, thought: bool) -> None:
        """The request has generated so many tokens; whether the last is one of the thought."""
        self.tokens = tokens
        self.thinking += thought


@dataclass(slots=True)
class Table:
    """The slots of one engine, by their numbers."""

    slots: dict[int, Steering] = field(default_factory=dict)

    def take(self, body: dict[str, Any], script: Script) -> Steering | None:
        """Read what a request asks of the plugin; None where it asks nothing."""
        wants = {name: value for name, value in (body.get("vllm_xargs") or {}).items() if name.startswith("suffice_")}
        if not wants:
            return None
        rule = wants["suffice_rules"].partition(":")[0] if "suffice_rules" in wants else None
        steering = Steering(nonce=wants.get("suffice_nonce", 0), rule=rule, exit_at=script.engine_exit)
        if "suffice_slot" in wants:
            self.slots[wants["suffice_slot"]] = steering
        return steering


class Plugin:
    """The routes.

    Args:
        settings: Whether they are there.
        table: The slots.
    """

    def __init__(self, settings: Settings, table: Table) -> None:
        self.settings = settings
        self.table = table

    def routes(self) -> list[Route]:
        """All routes of this module."""
        return [
            Route("/suffice/v1/plugin", self._plugin, methods=["GET"]),
            Route("/suffice/v1/signal", self._signal, methods=["POST"]),
            Route("/suffice/v1/slots/{slot}", self._slot, methods=["GET"]),
        ]

    async def _plugin(self, request: Request) -> Response:
        if not self.settings.plugin:
            return _missing()
        signals = {"available": True, "reasons": [], "actions": list(ACTIONS), "slots": SLOTS}
        return JSONResponse(
            {
                "version": "0.1.0",
                "runner": "v1",
                "rules": {"available": True, "reasons": [], "remedies": [], "names": RULES},
                "signals": signals | {"max_nonce": MAX_NONCE, "lag_tokens": 0},
                "thought": {"start": [4], "end": [5], "force": [5]},
            }
        )

    async def _signal(self, request: Request) -> Response:
        if not self.settings.plugin:
            return _missing()
        try:
            body = orjson.loads(await request.body())
        except orjson.JSONDecodeError:
            return _refused(400, "invalid_json", "the body must be JSON")
        if not isinstance(body, dict):
            return _refused(400, "invalid_json", "the body must be an object")
        action = body.get("action")
        if action not in ACTIONS:
            return _refused(400, "invalid_value", f"action must be one of {', '.join(ACTIONS)}")
        wanted = {"slot", "nonce", "action"} | ({"value"} if action == "cap" else set())
        if body.keys() != wanted:
            message = f"a {action} signal has exactly {', '.join(sorted(wanted))}"
            return _refused(400, "invalid_value", message)
        steering, refusal = self._find(body["slot"], body["nonce"])
        if steering is None:
            return refusal
        steering.closing = steering.closing or "signal"
        return JSONResponse({"accepted": True})

    async def _slot(self, request: Request) -> Response:
        if not self.settings.plugin:
            return _missing()
        slot, nonce = request.path_params["slot"], request.query_params.get("nonce", "")
        steering, refusal = self._find(*(int(text) if text.isdigit() else None for text in (slot, nonce)))
        if steering is None:
            return refusal
        told = {"tokens": steering.tokens, "thinking_tokens": steering.thinking}
        return JSONResponse({**told, "closed": steering.closed, "stopped": None})

    def _find(self, slot: Any, nonce: Any) -> tuple[Steering | None, Response]:
        for value, name, least, most in ((slot, "slot", 0, SLOTS - 1), (nonce, "nonce", 1, MAX_NONCE)):
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                message = f"{name} must be a whole number from {least} to {most}"
                return None, _refused(400, "invalid_value", message)
        steering = self.table.slots.get(slot)
        if steering is None or steering.nonce != nonce:
            return None, _refused(409, "stale_nonce", "no such request is running in this slot")
        return steering, Response()


def _missing() -> Response:
    return JSONResponse({"detail": "Not Found"}, status_code=404)


def _refused(status: int, code: str, message: str) -> Response:
    detail = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": detail}, status_code=status)
