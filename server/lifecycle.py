"""The life of the gateway's process: uvicorn, taught to let answers finish before it stops listening.

uvicorn alone closes its listening socket at once, and tells the application only when all connections are gone or it
has cancelled what was left; budgets in flight would then be cut without being charged. Here the order is: refuse what
is new with an error that says so, let what runs finish or end it as its budget would, then stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    import socket
    from types import FrameType

    from fastapi import FastAPI

LAST_BYTES_S = 10
"""Time for answers that are complete to reach their clients, before connections are cut."""


class GatewayServer(uvicorn.Server):
    """A server of one application made by ``create_app``.

    Args:
        config: uvicorn's own settings.
        application: The application, possibly wrapped in ``config``.
    """

    def __init__(self, config: uvicorn.Config, application: FastAPI) -> None:
        config.timeout_graceful_shutdown = LAST_BYTES_S
        super().__init__(config)
        self._application = application

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then stop. A second Ctrl-C ends the wait."""
        draining = asyncio.ensure_future(self._application.state.service.drain())
        while not draining.done() and not self.force_exit:
            await asyncio.wait({draining}, timeout=0.1)
        draining.cancel()
        await super().shutdown(sockets)

    def serve_until_told(self) -> bool:
        """Run until SIGTERM or SIGINT.

        Returns:
            Whether the server came up; False where its address was taken.
        """
        # uvicorn raises the signal again once it has stopped; a gateway that ended in order exits with 0. A signal that
        # comes before uvicorn listens for it counts too.
        signal.signal(signal.SIGTERM, self._told)
        with contextlib.suppress(KeyboardInterrupt):
            self.run()
        return self.started

    def _told(self, _number: int, _frame: FrameType | None) -> None:
        self.should_exit = True
