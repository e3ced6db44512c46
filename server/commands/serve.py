"""``suffice serve``: run the gateway until it is told to stop."""

from __future__ import annotations

import contextlib
import logging
import sys
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvicorn
from prometheus_client import start_http_server
from suffice.server.app import create_app
from suffice.server.config import Config, ConfigError, ServerSection, UpstreamSection, load
from suffice.server.ledger.keys import KeyStore, ensure_local_key
from suffice.server.ledger.ledger import LedgerUnavailable
from suffice.server.lifecycle import GatewayServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fastapi import FastAPI


def serve(
    config: Annotated[Path | None, typer.Option(help="The operator's file.")] = None,
    upstream: Annotated[str | None, typer.Option(help="URL of a vLLM server; stands in for a file.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics; 0 serves it on the API's port.")] = None,
    data_dir: Annotated[Path, typer.Option(help="Where ledger, keys and event log live.")] = Path(".suffice"),
) -> None:
    """Serve OpenAI and Anthropic clients in front of vLLM."""
    try:
        settings = _settings(config, upstream, host, port, metrics_port)
        keys = KeyStore(data_dir)
        if config is None:
            secret = ensure_local_key(data_dir, keys)
            print(f"local key: {secret}", flush=True)  # noqa: T201 - shown to whoever started it, not logged
        elif not keys.all():
            print("no key exists yet; make one with: suffice keys create NAME", file=sys.stderr)  # noqa: T201
        keys.close()
    except (ConfigError, LedgerUnavailable) as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise typer.Exit(2) from error
    application = create_app(settings, data_dir)
    failures = _surround(application, settings.server)
    running = uvicorn.Config(
        application,
        host=settings.server.host,
        port=settings.server.port,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=75,
        backlog=4096,
    )
    logging.getLogger("uvicorn.error").addFilter(lambda _: not failures)  # it would show where, and not what
    try:
        came_up = GatewayServer(running, application).serve_until_told()
    except SystemExit:  # uvicorn's way of saying that it did not
        came_up = False
    if not came_up:
        for failure in failures:
            print(failure, file=sys.stderr)  # noqa: T201
        raise typer.Exit(2 if failures else 3)


def _surround(application: FastAPI, server: ServerSection) -> list[str]:
    """Serve metrics on their own port for as long as the application lives.

    Returns:
        What kept it from starting, in words; filled while it starts.
    """
    failures: list[str] = []
    inner = application.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(inner(app))
                if server.metrics_port is not None:
                    stack.enter_context(_exporter(app, server.metrics_host, server.metrics_port))
            except (ConfigError, LedgerUnavailable) as error:
                failures.append(str(error))
                raise
            yield

    application.router.lifespan_context = lifespan
    return failures


@contextlib.contextmanager
def _exporter(app: FastAPI, host: str, port: int) -> Iterator[None]:
    try:
        exporter, thread = start_http_server(port, addr=host, registry=app.state.service.metrics.registry)
    except OSError as error:
        raise ConfigError(f"metrics cannot be served on {host} port {port}: {error.strerror}") from error
    try:
        yield
    finally:
        exporter.shutdown()
        exporter.server_close()
        thread.join()


def upstream_url(text: str) -> str:
    """The base URL of a server as people write it: with or without ``/v1`` and a slash at its end.

    Raises:
        ConfigError: It is no URL.
    """
    url = text.rstrip("/").removesuffix("/v1").rstrip("/")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"{text!r} is no URL of a server; write http://HOST:PORT")
    return url


def _settings(
    config: Path | None, upstream: str | None, host: str | None, port: int | None, metrics_port: int | None
) -> Config:
    settings = Config() if config is None else load(config)
    if upstream is not None:
        settings = settings.model_copy(update={"upstreams": (UpstreamSection(url=upstream_url(upstream)),)})
    if not settings.upstreams:
        raise ConfigError("no upstream: name one with --upstream URL or under upstreams in the file")
    update: dict[str, object] = {}
    if host is not None:
        update["host"] = host
    if port is not None:
        update["port"] = port
    if metrics_port is not None:
        update["metrics_port"] = metrics_port or None
    return settings.model_copy(update={"server": settings.server.model_copy(update=update)})
