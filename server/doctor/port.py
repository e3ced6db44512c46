"""Whether the gateway's ports are free."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from suffice.server.doctor.patient import failure, ok

if TYPE_CHECKING:
    from suffice.server.doctor.patient import Finding, Patient

NAME = "port"


def check(patient: Patient) -> Finding:
    """Bind each for a moment."""
    server = patient.config.server
    wanted = [(server.host, server.port)]
    if server.metrics_port is not None:
        wanted.append((server.metrics_host, server.metrics_port))
    for host, port in wanted:
        try:
            with socket.create_server((host, port), reuse_port=False):
                pass
        except OSError as error:
            remedy = "stop what listens there, or set server.port and server.metrics_port"
            return failure(NAME, f"{host} port {port}: {error.strerror}", remedy)
    return ok(NAME, f"{' and '.join(str(port) for _, port in wanted)} free")
