"""What all checks examine: one upstream and one place to run, asked once for what several checks look at.

What must not be here: any judgement of what was found.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import httpx2

if TYPE_CHECKING:
    from pathlib import Path

    from suffice.server.config import Config

TIMEOUT_S = 30.0
"""Longest wait for one answer; a loaded engine queues a request of one token too."""
OK = 200
NOT_FOUND = 404


class Health(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found.

    Attributes:
        check: Its name.
        health: How serious it is.
        found: What was found, in one line.
        remedy: What to do about it, in one line; empty where there is nothing to do.
    """

    check: str
    health: Health
    found: str
    remedy: str = ""


class CannotTell(Exception):
    """A check cannot be made because of something that another check reports; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer of upstream's.

    Attributes:
        status: Its HTTP status.
        body: Its JSON; an empty object where it has none.
        text: Its body as it came.
        seconds: From asking to the last byte.
        date: The server's clock by the ``date`` header.
    """

    status: int
    body: dict[str, Any]
    text: str
    seconds: float
    date: str | None

    @property
    def choice(self) -> dict[str, Any]:
        """Its first choice; an empty object where it has none."""
        choices = self.body.get("choices")
        return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}


@dataclass
class Patient:
    """One upstream and one place to run.

    Attributes:
        config: The operator's file, with the upstream to examine first.
        api_key: Key that upstream wants, already resolved.
        data_dir: Where ledger, keys and event log are to live.
    """

    config: Config
    api_key: str | None
    data_dir: Path
    _client: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        headers = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        url = self.config.upstreams[0].url.rstrip("/")
        self._client = httpx2.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def get(self, path: str) -> Answer:
        """Ask for a page.

        Raises:
            CannotTell: Upstream cannot be reached.
        """
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        """Send one JSON body; raises as ``get``."""
        return self._ask("POST", path, body)

    def complete(self, **more: Any) -> Answer:
        """One completion of one token, with more fields; raises as ``get``, and where there is no model."""
        return self.post("/v1/completions", {"model": self.model, "prompt": "a", "max_tokens": 1} | more)

    def stream(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The frames of a stream; none where upstream refused. Raises as ``get``."""
        answer = self.post(path, body | {"stream": True})
        if answer.status != OK:
            return []
        data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        return [_object(one) for one in data if one != "[DONE]"]

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Answer:
        began = time.monotonic()
        try:
            response = self._client.request(method, path, json=body)
        except httpx2.HTTPError as error:
            raise CannotTell(f"upstream did not answer ({type(error).__name__})") from None
        return Answer(
            status=response.status_code,
            body=_object(response.text),
            text=response.text,
            seconds=time.monotonic() - began,
            date=response.headers.get("date"),
        )

    @cached_property
    def cards(self) -> list[dict[str, Any]]:
        """What upstream lists of its models; raises as ``get``."""
        answer = self.get("/v1/models")
        cards = answer.body.get("data")
        return [card for card in cards if isinstance(card, dict) and card.get("id")] if isinstance(cards, list) else []

    @property
    def model(self) -> str:
        """Name of the base model.

        Raises:
            CannotTell: Upstream lists none.
        """
        for card in self.cards:
            if card.get("parent") is None:
                return str(card["id"])
        raise CannotTell("upstream lists no model")

    @cached_property
    def metrics(self) -> str | None:
        """Upstream's metrics page; None where it has none. Raises as ``get``."""
        answer = self.get("/metrics")
        return answer.text if answer.status == OK else None

    def labels(self, metric: str) -> dict[str, str] | None:
        """Labels of the first sample of a metric; None where the page does not have it. Raises as ``get``."""
        for line in (self.metrics or "").splitlines():
            if line.startswith(metric + "{"):
                inner = line.partition("{")[2].rpartition("}")[0]
                pairs = (pair.partition("=") for pair in inner.split('",'))
                return {name.strip(): value.strip('"') for name, _, value in pairs}
        return None

    @cached_property
    def thinking_token(self) -> int | None:
        """Id of the token that closes a thought; None where the model has no such single token. Raises as ``get``."""
        text = self.config.upstreams[0].think_end
        asked = {"model": self.model, "prompt": text, "add_special_tokens": False}
        tokens = self.post("/tokenize", asked).body.get("tokens")
        return tokens[0] if isinstance(tokens, list) and len(tokens) == 1 else None


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def ok(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check=check, health=Health.OK, found=found)


def warning(check: str, found: str, remedy: str) -> Finding:
    """It works with less than it could."""
    return Finding(check=check, health=Health.WARNING, found=found, remedy=remedy)


def failure(check: str, found: str, remedy: str) -> Finding:
    """It does not work, or not as promised."""
    return Finding(check=check, health=Health.FAILURE, found=found, remedy=remedy)
