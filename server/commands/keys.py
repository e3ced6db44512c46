"""``suffice keys``: create, list and revoke API keys."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from suffice.server.ledger.keys import KeyRecord, KeyStore, parse_limit
from suffice.server.ledger.ledger import LedgerUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from suffice.server.ledger.amounts import Limit

keys_app = typer.Typer(no_args_is_help=True, help="API keys: shown once, kept as an HMAC.")

DataDir = Annotated[Path, typer.Option(help="Where ledger, keys and event log live.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextlib.contextmanager
def _store(data_dir: Path) -> Iterator[KeyStore]:
    try:
        store = KeyStore(data_dir)
        try:
            yield store
        finally:
            store.close()
    except LedgerUnavailable as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise typer.Exit(2) from None


def _limits(texts: list[str]) -> tuple[Limit, ...]:
    try:
        return tuple(parse_limit(text) for text in texts)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _show(record: KeyRecord) -> dict[str, object]:
    return {
        "id": record.id,
        "name": record.name,
        "team": record.team,
        "limits": [str(limit) for limit in record.limits],
        "created": record.created,
        "revoked": record.revoked,
    }


@keys_app.command()
def create(  # noqa: PLR0913 - one parameter an option
    name: str,
    team: Annotated[str | None, typer.Option(help="Team whose account pays too.")] = None,
    limit: Annotated[list[str] | None, typer.Option(help="tokens=100000/day; repeatable.")] = None,
    max_total_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens that one request may generate.")] = None,
    max_thinking_tokens: Annotated[int | None, typer.Option(min=0, help="Tokens of one sample's thought.")] = None,
    max_samples: Annotated[int | None, typer.Option(min=1, help="Samples of one request.")] = None,
    max_deadline_ms: Annotated[int | None, typer.Option(min=1, help="Milliseconds that one request may take.")] = None,
    *,
    as_json: Json = False,
    data_dir: DataDir = Path(".suffice"),
) -> None:
    """Create a key and show it, this once."""
    ceilings = {
        "max_total_tokens": max_total_tokens,
        "max_thinking_tokens": max_thinking_tokens,
        "max_samples": max_samples,
        "max_deadline_ms": max_deadline_ms,
    }
    kept = {field: value for field, value in ceilings.items() if value is not None}
    limits = _limits(limit or [])
    with _store(data_dir) as store:
        record, secret = store.create(name, team=team, limits=limits, ceilings=kept)
    if as_json:
        print(json.dumps(_show(record) | {"key": secret}))  # noqa: T201
    else:
        print(f"{secret}\nKeep it now: it cannot be shown again. Its id is {record.id}.")  # noqa: T201


@keys_app.command("list")
def list_keys(*, as_json: Json = False, data_dir: DataDir = Path(".suffice")) -> None:
    """List keys; secrets are not known."""
    with _store(data_dir) as store:
        records = store.all()
    if as_json:
        print(json.dumps([_show(record) for record in records]))  # noqa: T201
        return
    table = Table("id", "name", "team", "limits", "state")
    for record in records:
        limits = ", ".join(map(str, record.limits)) or "none"
        table.add_row(record.id, record.name, record.team or "", limits, "revoked" if record.revoked else "active")
    Console().print(table)


@keys_app.command()
def revoke(key_id: str, *, as_json: Json = False, data_dir: DataDir = Path(".suffice")) -> None:
    """Revoke a key; running gateways see it within a second."""
    with _store(data_dir) as store:
        done = store.revoke(key_id)
    if as_json:
        print(json.dumps({"id": key_id, "revoked": done}))  # noqa: T201
    elif done:
        print(f"revoked {key_id}")  # noqa: T201
    if not done:
        print(f"no active key has the id {key_id}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(1)
