"""Routes beside vLLM's own: the gateway's way to a running request, without abort and resume.

    GET  /suffice/v1/plugin                      what the plugin can do in this engine
    POST /suffice/v1/signal                      {"slot", "nonce", "action": "close_thought" | "stop" | "cap", "value"?}
    GET  /suffice/v1/slots/{slot}?nonce=N        what the engine did for a request, and why

vLLM's own check of ``--api-key`` covers only paths that it knows, so these routes ask for the key themselves, by vLLM's
own means. Errors have OpenAI's shape. What must not be here: decisions, and any other way into the engine than the
table.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from suffice.server.engine.plugin import discovery, processor
from suffice.server.engine.plugin.arguments import MAX_NONCE, MAX_TOKENS, SLOTS
from suffice.server.engine.plugin.rules import registry
from suffice.server.engine.plugin.setting import REMEDIES, EngineSetting
from suffice.server.engine.plugin.table import Action, Fired, NoTable, SignalTable, StaleNonce

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from fastapi import FastAPI
    from starlette.datastructures import Headers, State
    from vllm.engine.protocol import EngineClient

_LOG = logging.getLogger("vllm.suffice")
_MAX_BODY = 1024
_ACTIONS = {action.name.lower(): action for action in Action}


class Refused(Exception):
    """A request that is not carried out.

    Attributes:
        status: HTTP status.
        code: For programs.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class SufficeEndpoints:
    """vLLM's endpoint plugin; loaded only where ``VLLM_PLUGINS`` names ``suffice``."""

    name = "suffice"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._setting: EngineSetting | None = None
        self._table: SignalTable | None = None
        self._no_table = "starting"
        self._allowed: Callable[[Headers], bool] = lambda _: False

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes."""
        router = APIRouter()
        router.add_api_route(discovery.PLUGIN_PATH, self._answer(self._plugin), methods=["GET"])
        router.add_api_route(discovery.SIGNAL_PATH, self._answer(self._signal), methods=["POST"])
        router.add_api_route(discovery.SLOT_PATH + "/{slot}", self._answer(self._slot), methods=["GET"])
        app.include_router(router, include_in_schema=False)

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:  # noqa: ARG002 - vLLM's signature
        """Find the engine's table. Called once, when the engine runs."""
        self._allowed = _key_check(args)
        if engine_client is None:
            return
        self._setting = EngineSetting.of(engine_client.vllm_config)
        processor.UNAVAILABLE.clear()
        processor.UNAVAILABLE.update(self._setting.obstacles)
        try:
            self._table = SignalTable.open(self._setting.table)
        except NoTable as error:
            self._no_table = str(error)
            _LOG.warning("suffice: no signals can be passed to the engine: %s", error)

    def _answer(self, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        """A route that checks the key and gives errors their shape."""

        async def route(request: Request) -> JSONResponse:
            try:
                self._check_key(request)
                return JSONResponse(await handler(request))
            except Refused as error:
                kind = "invalid_request_error" if error.status < 500 else "server_error"  # noqa: PLR2004
                body = {"message": str(error), "type": kind, "param": None, "code": error.code}
                return JSONResponse({"error": body}, status_code=error.status)

        route.__annotations__ = {"request": Request}
        return route

    def _check_key(self, request: Request) -> None:
        if not self._allowed(request.headers):
            raise Refused(401, "invalid_api_key", "a valid API key is needed")

    async def _plugin(self, request: Request) -> dict[str, Any]:  # noqa: ARG002 - as every handler
        setting = self._setting
        if setting is None:
            raise Refused(503, "no_engine", "this server has no engine")
        marks = setting.marks
        signal_reasons = [*setting.obstacles, *setting.signal_obstacles]
        if self._table is None and not signal_reasons:
            signal_reasons = [self._no_table]
        return {
            "version": discovery.version(),
            "runner": setting.runner,
            "rules": {
                "available": not setting.obstacles,
                "reasons": list(setting.obstacles),
                "remedies": [REMEDIES[reason] for reason in setting.obstacles if reason in REMEDIES],
                "names": {name: kind.what for name, kind in sorted(registry().kinds.items())},
            },
            "signals": {
                "available": not signal_reasons,
                "reasons": signal_reasons,
                "actions": sorted(_ACTIONS),
                "slots": SLOTS,
                "max_nonce": MAX_NONCE,
                "lag_tokens": 0 if setting.ranks == 1 else processor.AGREEMENT_TOKENS,
            },
            "thought": None
            if marks is None
            else {"start": list(marks.start), "end": list(marks.end), "force": list(marks.force)},
        }

    async def _signal(self, request: Request) -> dict[str, Any]:
        body = await _read(request)
        action = _ACTIONS.get(body["action"]) if isinstance(body.get("action"), str) else None
        if action is None:
            raise Refused(400, "invalid_value", f"action must be one of {', '.join(sorted(_ACTIONS))}")
        wanted = {"slot", "nonce", "action"} | ({"value"} if action is Action.CAP else set())
        if body.keys() != wanted:
            raise Refused(400, "invalid_value", f"a {body['action']} signal has exactly {', '.join(sorted(wanted))}")
        slot = _whole(body["slot"], "slot", 0, SLOTS - 1)
        nonce = _whole(body["nonce"], "nonce", 1, MAX_NONCE)
        value = _whole(body["value"], "value", 0, MAX_TOKENS) if action is Action.CAP else 0
        try:
            self._need_table().post(slot, nonce, action, value)
        except StaleNonce as error:
            raise Refused(409, "stale_nonce", str(error)) from error
        return {"accepted": True}

    async def _slot(self, request: Request) -> dict[str, Any]:
        slot = _whole(_number(request.path_params["slot"]), "slot", 0, SLOTS - 1)
        nonce = _whole(_number(request.query_params.get("nonce", "")), "nonce", 1, MAX_NONCE)
        try:
            status = self._need_table().status(slot, nonce)
        except StaleNonce as error:
            raise Refused(409, "stale_nonce", str(error)) from error
        return {
            "tokens": status.tokens,
            "thinking_tokens": status.thinking,
            "closed": _fired(status.closed),
            "stopped": _fired(status.stopped),
        }

    def _need_table(self) -> SignalTable:
        if self._table is None:
            raise Refused(503, "no_signals", "this engine takes no signals")
        return self._table


def _key_check(args: Namespace) -> Callable[[Headers], bool]:
    """The check that vLLM makes of the key on its own routes; none where vLLM asks for none."""
    from vllm import envs  # noqa: PLC0415 - the front end has it loaded

    keys = [key for key in (args.api_key or [envs.VLLM_API_KEY]) if key]
    if not keys:
        return lambda _: True
    from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware  # noqa: PLC0415

    async def nothing(*_: object) -> None:
        """Stands for the application behind the middleware, which is not called."""

    verify: Callable[[Headers], bool] = AuthenticationMiddleware(nothing, keys).verify_token
    return verify


async def _read(request: Request) -> dict[str, Any]:
    """The JSON object of a small body."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_BODY:
            raise Refused(413, "too_large", "the body is too large")
    try:
        read = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "invalid_json", "the body must be JSON") from error
    if not isinstance(read, dict):
        raise Refused(400, "invalid_json", "the body must be an object")
    return read


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None  # noqa: PLR2004


def _whole(value: object, name: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Refused(400, "invalid_value", f"{name} must be a whole number from {least} to {most}")
    return value


def _fired(fired: Fired | None) -> dict[str, Any] | None:
    return None if fired is None else {"rule": fired.rule, "at_token": fired.at_token}
