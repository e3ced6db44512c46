"""The fake on a real socket: a thread, a loopback port that it keeps, and what tests ask of it."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import uvicorn

from fake_vllm.app import App
from fake_vllm.script import Script, default_model
from fake_vllm.settings import Fault, Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from fake_vllm.records import Received
    from fake_vllm.script import Model
    from fake_vllm.settings import FaultKind

_STEP_S = 0.005


class FakeVLLM:
    """A scriptable vLLM server.

    Args:
        model: What the model says: one script for all, or a function of the request.
        settings: Start-up options, by the names of ``Settings``.
    """

    def __init__(self, model: Model | Script | None = None, **settings: Any) -> None:
        self.app = App(Settings(**settings), default_model)
        if model is not None:
            self.says(model)
        self._port = 0
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        """Start listening."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        try:
            self.stop()
        finally:
            if self._socket is not None:
                self._socket.close()

    @property
    def url(self) -> str:
        """Address without a path; it stays the same over a restart."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def settings(self) -> Settings:
        """Start-up options; changes count from the next request on."""
        return self.app.settings

    @property
    def requests(self) -> list[Received]:
        """Requests to the generating endpoints, in order of arrival."""
        return self.app.requests

    @property
    def running(self) -> int:
        """Requests under way."""
        return sum(one.outcome == "running" for one in self.requests)

    @property
    def aborted(self) -> int:
        """Requests whose client left before generation was complete."""
        return sum(one.outcome == "aborted" for one in self.requests)

    @property
    def allowed_tokens(self) -> int:
        """Most tokens that all requests together were ever allowed to generate."""
        return sum(one.allowed_tokens for one in self.requests)

    @property
    def generated_tokens(self) -> int:
        """Tokens that were generated."""
        return sum(one.generated_tokens for one in self.requests)

    def says(self, model: Model | Script) -> None:
        """Change what the model says."""
        self.app.model = (lambda _: model) if isinstance(model, Script) else model

    def fail(self, kind: FaultKind, **fault: Any) -> Fault:
        """Let something go wrong with the next request, or as many as the fault says."""
        found = Fault(kind=kind, **fault)
        self.app.faults.append(found)
        return found

    def forget(self) -> None:
        """Drop the records and the faults that are still to come."""
        self.app.requests.clear()
        self.app.faults.clear()

    def wait(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait until a condition holds.

        Raises:
            TimeoutError: It did not hold in time.
        """
        until = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until:
                raise TimeoutError("the condition did not come true")
            time.sleep(_STEP_S)

    def wait_idle(self, timeout_s: float = 5.0) -> None:
        """Wait until nothing is under way.

        Raises:
            TimeoutError: Something still is.
        """
        self.wait(lambda: self.running == 0, timeout_s)

    def start(self) -> None:
        """Listen, on the same port as before after a ``stop``.

        Raises:
            RuntimeError: The server did not come up.
        """
        held = self._socket or self._bind()
        self._socket = None
        config = uvicorn.Config(
            self.app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="critical",  # what goes wrong in the fake itself is raised by stop()
            access_log=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=0,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([held],), daemon=True, name="fake-vllm")
        self._thread.start()
        until = time.monotonic() + 10
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise RuntimeError("the fake server did not start")
            time.sleep(_STEP_S)

    def stop(self) -> None:
        """Break all connections and refuse new ones; the port stays ours.

        Raises:
            ExceptionGroup: The fake itself failed while it served.
        """
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._server = self._thread = None
        self._socket = self._bind()
        failures, self.app.failures = self.app.failures, []
        if failures:
            raise ExceptionGroup("the fake failed", failures)

    def _bind(self) -> socket.socket:
        """A socket that is bound and does not listen, so that connections to it are refused."""
        # Named as TCP: asyncio switches Nagle's algorithm off only for sockets that say so.
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", self._port))
        self._port = held.getsockname()[1]
        return held
