"""The ASGI application: an allowlist of routes, and the life of what they share. Everything else is a 404."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from suffice.server.config import Config, ConfigError
from suffice.server.errors import ApiError, InternalError, MethodNotAllowed, Overloaded, RouteNotFound
from suffice.server.gateway.batch.endpoint import BatchEndpoint
from suffice.server.gateway.dialects import DIALECTS
from suffice.server.gateway.experience import Experience
from suffice.server.gateway.forward import CountTokensEndpoint, EmbeddingsEndpoint, list_models
from suffice.server.gateway.generate import GenerateEndpoint
from suffice.server.gateway.hindsight import show_alarms
from suffice.server.gateway.service import Service
from suffice.server.gateway.upstream import Upstream
from suffice.server.gateway.verifying import Verifiers
from suffice.server.ledger.keys import KeyStore
from suffice.server.ledger.ledger import Ledger, LedgerUnavailable
from suffice.server.telemetry.eventlog import EventLog
from suffice.server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

VERSION = importlib.metadata.version("suffice")


def create_app(config: Config, data_dir: Path) -> FastAPI:
    """Build the application. Its parts are made when it starts and ended when it stops.

    Args:
        config: What the operator set; at least one upstream.
        data_dir: Where ledger, keys and event log live; made if missing.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        """The shared parts live as long as the application does."""
        service = await _start(config, data_dir)
        app.state.service = service
        _add_routes(app, service)
        watching = (service.watch_upstream(), service.watch_loop(), service.experience.watch(), service.keeper.watch())
        watchers = [asyncio.create_task(watch) for watch in watching]
        try:
            yield
        finally:
            await service.drain()
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            service.experience.save()
            await service.verifiers.close()
            await service.upstream.close()
            await service.ledger.close()
            service.keys.close()
            if service.event_log is not None:
                service.event_log.close()

    app = FastAPI(title="suffice", version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.router.routes.clear()
    app.add_exception_handler(404, _not_found)
    app.add_exception_handler(405, _not_allowed)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(LedgerUnavailable, _no_accounts)
    app.add_exception_handler(Exception, _crash)
    return app


async def _start(config: Config, data_dir: Path) -> Service:
    section = config.upstreams[0]
    keys = KeyStore(data_dir)  # makes the directory where there is none
    metrics = Metrics()
    ledger = await Ledger.open(
        data_dir / "ledger.sqlite",
        checkpoint_tokens=config.ledger.checkpoint_tokens,
        synchronous=config.ledger.synchronous,
    )
    metrics.ledger_settles.labels("recovered").inc(ledger.stats.recovered)
    upstream = Upstream(section, api_key=_secret(section.api_key), max_connections=config.server.max_connections)
    experience = Experience(data_dir, audit_risk=config.policies.audit_risk)
    show_alarms(experience, metrics)
    return Service(
        config=config,
        upstream=upstream,
        experience=experience,
        verifiers=_verifiers(config, upstream, metrics),
        ledger=ledger,
        keys=keys,
        metrics=metrics,
        event_log=EventLog(data_dir / "events.jsonl") if config.telemetry.event_log else None,
        salt_key=hashlib.sha256(b"cache salt" + (data_dir / "pepper").read_bytes()).digest(),
    )


def _verifiers(config: Config, upstream: Upstream, metrics: Metrics) -> Verifiers:
    try:
        return Verifiers(config.policies.verifiers, upstream, metrics, _secret)
    except (OSError, ValueError) as error:
        raise ConfigError(f"policies.verifiers: {error}") from error


def _secret(reference: str | None) -> str | None:
    """Resolve ``env:NAME`` or ``file:PATH``.

    Raises:
        ConfigError: It is neither, or there is nothing there.
    """
    if reference is None:
        return None
    kind, _, name = reference.partition(":")
    match kind:
        case "env" if name in os.environ:
            return os.environ[name]
        case "file" if Path(name).is_file():
            return Path(name).read_text(encoding="utf-8").strip()
        case _:
            raise ConfigError("a secret must be env:NAME or file:PATH, and be there")


def _add_routes(app: FastAPI, service: Service) -> None:
    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        up = bool(service.served) and not service.draining
        return JSONResponse({"status": "ready" if up else "not ready"}, 200 if up else 503)

    async def version(_: Request) -> Response:
        return JSONResponse({"version": VERSION, "policy_version": service.version})

    async def models(request: Request) -> Response:
        service.authenticate(dict(request.scope["headers"]))
        return JSONResponse(list_models(service))

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    routes: list[Route] = [
        Route("/health", health),
        Route("/ready", ready),
        Route("/version", version),
        Route("/v1/models", models),
        Route("/v1/embeddings", EmbeddingsEndpoint(service), methods=["POST"]),
        Route("/v1/messages/count_tokens", CountTokensEndpoint(service), methods=["POST"]),
        Route(BatchEndpoint.path, BatchEndpoint(service), methods=["POST"]),
        *(Route(dialect.path, GenerateEndpoint(service, dialect), methods=["POST"]) for dialect in DIALECTS),
    ]
    if service.config.server.metrics_port is None:
        routes.append(Route("/metrics", metrics))
    app.router.routes.extend(routes)


async def _not_found(_: Request, __: Exception) -> Response:
    return _answer(RouteNotFound("there is no such route"))


async def _not_allowed(_: Request, __: Exception) -> Response:
    return _answer(MethodNotAllowed("this route takes another method"))


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for this class
    return _answer(error)


async def _no_accounts(_: Request, __: Exception) -> Response:
    return _answer(Overloaded("accounts cannot be kept now", retry_after_s=2, code="ledger_unavailable"))


async def _crash(_: Request, __: Exception) -> Response:
    return _answer(InternalError("the gateway failed"))


def _answer(error: ApiError) -> Response:
    body: dict[str, Any] = error.body()
    return JSONResponse(body, error.status, headers=error.headers())
