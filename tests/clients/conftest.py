"""Clients wired to a scripted gateway, without sockets."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from clients.gateway_double import GatewayDouble, Script
from suffice import AsyncClient, Client

ADDRESS = {"base_url": "http://gateway.test/v1", "api_key": "sk-suffice-test"}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BASE_URL", "API_KEY"):
        monkeypatch.delenv(f"OPENAI_{name}", raising=False)
        monkeypatch.delenv(f"SUFFICE_{name}", raising=False)


@pytest.fixture
def connect() -> Callable[..., tuple[Client, GatewayDouble]]:
    def connect(script: Script, **options: Any) -> tuple[Client, GatewayDouble]:
        double = GatewayDouble(script)
        http_client = httpx2.Client(transport=httpx2.MockTransport(double))
        return Client(**{**ADDRESS, "http_client": http_client, **options}), double

    return connect


@pytest.fixture
def connect_async() -> Callable[..., tuple[AsyncClient, GatewayDouble]]:
    def connect_async(script: Script, **options: Any) -> tuple[AsyncClient, GatewayDouble]:
        double = GatewayDouble(script)
        http_client = httpx2.AsyncClient(transport=httpx2.MockTransport(double))
        return AsyncClient(**{**ADDRESS, "http_client": http_client, **options}), double

    return connect_async
