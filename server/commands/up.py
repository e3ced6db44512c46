"""``suffice up``: a vLLM, the gateway before it, one budgeted request, and both served until Ctrl-C.

The order of starts and ends lives here. What must not be here: how vLLM is started (``server/engine``), how progress
looks (``server/progress``), what the first request shows (``demonstration``).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from pathlib import Path
from typing import Annotated, Any, NoReturn

import openai
import typer
from suffice.server.commands.demonstration import show_request
from suffice.server.commands.serve import upstream_url
from suffice.server.config import ConfigError
from suffice.server.engine.child import Child
from suffice.server.engine.local import NO_PROXY, EngineFailed, LocalEngine, answers, free_port
from suffice.server.engine.packaged_model import NAME, ModelUnavailable, ensure_model
from suffice.server.progress import step

METRICS_PORT = 9090
_GATEWAY_READY_S = 180
_GATEWAY_GRACE_S = 45
"""More than the gateway takes to drain."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _NotServing(Exception):
    """Something that the user can mend stands in the way. The message's last line says what."""


class _Ended(BaseException):
    """A signal asked us to end; no ``Exception``, so that nothing on the way takes it for a failure of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def up(
    upstream: Annotated[str | None, typer.Option(help="URL of a vLLM that is already there.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the gateway.")] = 8080,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help=f"Port of /metrics; {METRICS_PORT} or, if that is taken, a free one."),
    ] = None,
    data_dir: Annotated[Path, typer.Option(help="Where models, ledger, keys and logs live.")] = Path(".suffice"),
    engine_python: Annotated[Path, typer.Option(help="Python of the engine's environment.")] = Path(
        ".venv-engine/bin/python"
    ),
    *,
    end_with_parent: Annotated[bool, typer.Option(help="End when the process that started this one ends.")] = False,
) -> None:
    """Start everything, show one budgeted request, and serve until Ctrl-C."""
    for number in _SIGNALS:
        signal.signal(number, _end)
    if end_with_parent:
        threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    serving = False
    try:
        with contextlib.ExitStack() as stack:
            _check_port(port)
            if metrics_port is None:
                metrics_port = METRICS_PORT if _free(METRICS_PORT) else free_port()
            _check_port(metrics_port)
            if upstream is None:
                engine = _start_engine(stack, data_dir, engine_python)
                gateway = _start_gateway(stack, engine.url, port, metrics_port, data_dir)
                _await_engine(engine, gateway)
            else:
                upstream = upstream_url(upstream)
                _check_upstream(upstream)
                gateway = _start_gateway(stack, upstream, port, metrics_port, data_dir)
            _await_gateway(gateway, port)
            key = (data_dir / "local_key").read_text(encoding="ascii").strip()
            base = f"http://127.0.0.1:{port}"
            _demonstrate(gateway, base, key)
            _show_urls(base, metrics_port, key, data_dir)
            serving = True
            _serve(gateway)
    except _Ended as ended:
        _ignore_signals()
        print("\nstopped", flush=True)  # noqa: T201
        raise typer.Exit(0 if serving else 128 + ended.number) from None
    except (_NotServing, EngineFailed, ModelUnavailable, ConfigError, OSError) as error:
        _ignore_signals()
        context, _, reason = str(error).strip().rpartition("\n")
        print(f"{context}\nfailed: {reason}".lstrip(), file=sys.stderr, flush=True)  # noqa: T201
        raise typer.Exit(1) from None


def _serve(gateway: Child) -> NoReturn:
    gateway.wait()
    raise _NotServing(_with_tail(gateway, "the gateway ended"))


def _end(number: int, _: Any) -> NoReturn:
    """Unwind what was started. A second signal cuts short what the first one waits for."""
    raise _Ended(number)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _check_port(port: int) -> None:
    if not _free(port):
        raise _NotServing(f"port {port} is in use; choose another (make run PORT=...) or end what listens there")


def _check_upstream(url: str) -> None:
    """Ask once, so that a mistyped URL is told at once."""
    try:
        with NO_PROXY.open(f"{url}/v1/models", timeout=5):
            return
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in {401, 403}:
            raise _NotServing(
                f"the server at {url} wants a key; name it as upstreams.api_key in a file for suffice serve --config"
            ) from None
        raise _NotServing(f"what answers at {url} is no vLLM: GET /v1/models gave {error.code}") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise _NotServing(f"no vLLM answers at {url}: {getattr(reason, 'strerror', None) or reason}") from None


def _start_engine(stack: contextlib.ExitStack, data_dir: Path, engine_python: Path) -> LocalEngine:
    """Prepare the packaged model and start vLLM with it, without waiting for it."""
    if not engine_python.exists():
        raise _NotServing(f"there is no engine at {engine_python}; run make setup, or name a vLLM by --upstream URL")
    with step("model", f"looking for {NAME}") as progress:
        model = ensure_model(data_dir / "models", engine_python, progress.tell)
        progress.done(f"{NAME} in {model}")
    engine = LocalEngine(python=engine_python, model=model, name=NAME, log=data_dir / "vllm.log")
    stack.callback(engine.stop)
    engine.start()
    return engine


def _start_gateway(stack: contextlib.ExitStack, upstream: str, port: int, metrics_port: int, data_dir: Path) -> Child:
    command = [
        sys.executable, "-m", "suffice.server", "serve", "--upstream", upstream, "--port", str(port),
        "--metrics-port", str(metrics_port), "--data-dir", str(data_dir),
    ]  # fmt: skip
    # Its standard output holds the local key, which belongs into no log.
    gateway = Child(command, log=data_dir / "gateway.log", grace_s=_GATEWAY_GRACE_S, errors_only=True)
    stack.callback(gateway.stop)
    return gateway


def _await_engine(engine: LocalEngine, gateway: Child) -> None:
    with step("vLLM", "starting") as progress:

        def tell(stage: str) -> None:
            if gateway.poll() is not None:
                raise _NotServing(_with_tail(gateway, "the gateway ended while starting"))
            progress.tell(f"starting: {stage}")

        engine.wait_ready(tell)
        progress.done(f"ready at {engine.url}")


def _await_gateway(gateway: Child, port: int) -> None:
    with step("gateway", "starting, and asking upstream what it serves") as progress:
        deadline = time.monotonic() + _GATEWAY_READY_S
        while not answers(f"http://127.0.0.1:{port}/ready"):
            if gateway.poll() is not None:
                raise _NotServing(_with_tail(gateway, "the gateway ended while starting"))
            if time.monotonic() > deadline:
                reason = f"the gateway could not learn within {_GATEWAY_READY_S} s what upstream serves"
                raise _NotServing(_with_tail(gateway, reason))
            with contextlib.suppress(subprocess.TimeoutExpired):
                gateway.wait(0.1)
        progress.done(f"ready at http://127.0.0.1:{port}")


def _demonstrate(gateway: Child, base: str, key: str) -> None:
    try:
        show_request(f"{base}/v1", key)
    except openai.OpenAIError as error:
        raise _NotServing(_with_tail(gateway, f"the first request was not answered: {error}")) from None


def _with_tail(child: Child, reason: str) -> str:
    return f"{child.tail()}\n{reason}; its log is {child.log}"


def _show_urls(base: str, metrics_port: int, key: str, data_dir: Path) -> None:
    page = f"page      {base}/ui\n" if answers(f"{base}/ui") else ""
    print(  # noqa: T201
        f"API       {base}/v1\n"
        f"metrics   http://127.0.0.1:{metrics_port}/metrics\n"
        f"{page}"
        f"data      {data_dir}\n"
        "\n"
        f"export OPENAI_BASE_URL={base}/v1\n"
        f"export OPENAI_API_KEY={key}\n"
        "\n"
        "serving; Ctrl-C ends everything",
        flush=True,
    )
