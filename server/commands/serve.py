"""``suffice serve``: run the gateway until it is told to stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from prometheus_client import start_http_server
from suffice.server.app import create_app
from suffice.server.config import Config, ConfigError, UpstreamSection, load
from suffice.server.ledger.keys import KeyStore, ensure_local_key
from suffice.server.ledger.ledger import LedgerUnavailable


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
    server = settings.server
    uvicorn.run(
        _with_metrics(application, settings),
        host=server.host,
        port=server.port,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(server.drain_s) + 10,
        backlog=4096,
    )


def _with_metrics(application, settings: Config):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Start the metrics port once the application's registry exists."""
    port = settings.server.metrics_port
    if port is None:
        return application
    inner = application.router.lifespan_context

    def lifespan(app):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        import contextlib  # noqa: PLC0415

        @contextlib.asynccontextmanager
        async def around():  # type: ignore[no-untyped-def]  # noqa: ANN202
            async with inner(app):
                registry = app.state.service.metrics.registry
                exporter, thread = start_http_server(port, addr=settings.server.metrics_host, registry=registry)
                try:
                    yield
                finally:
                    exporter.shutdown()
                    thread.join()

        return around()

    application.router.lifespan_context = lifespan
    return application


def _settings(
    config: Path | None, upstream: str | None, host: str | None, port: int | None, metrics_port: int | None
) -> Config:
    settings = Config() if config is None else load(config)
    if upstream is not None:
        settings = settings.model_copy(update={"upstreams": (UpstreamSection(url=upstream),)})
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
