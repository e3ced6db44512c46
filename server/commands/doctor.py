"""``suffice doctor``: what an upstream and this machine can do, and what to do about the rest."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from suffice.server.app import _secret as resolve_secret
from suffice.server.commands.serve import upstream_url
from suffice.server.config import Config, ConfigError, UpstreamSection, load
from suffice.server.doctor.examination import examine, exit_code
from suffice.server.doctor.patient import Finding, Health, Patient

_COLOURS = {Health.OK: "green", Health.WARNING: "yellow", Health.FAILURE: "red"}


def doctor(
    config: Annotated[Path | None, typer.Option(help="The operator's file.")] = None,
    upstream: Annotated[str | None, typer.Option(help="URL of a vLLM server; stands in for a file.")] = None,
    data_dir: Annotated[Path, typer.Option(help="Where ledger, keys and event log live.")] = Path(".suffice"),
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Examine an upstream and this machine, with a remedy for whatever is missing.

    Sends a few short requests. Exits with 0 where all is well, 1 with warnings, 2 with failures.
    """
    try:
        settings = _settings(config, upstream)
        key = resolve_secret(settings.upstreams[0].api_key)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise typer.Exit(2) from None
    patient = Patient(config=settings, api_key=key, data_dir=data_dir)
    try:
        findings = list(examine(patient))
    finally:
        patient.close()
    code = exit_code(findings)
    if as_json:
        print(json.dumps({"exit_code": code, "findings": [asdict(finding) for finding in findings]}))  # noqa: T201
    else:
        Console().print(_table(findings))
    raise typer.Exit(code)


def _settings(config: Path | None, upstream: str | None) -> Config:
    settings = Config() if config is None else load(config)
    if upstream is not None:
        first = settings.upstreams[0] if settings.upstreams else UpstreamSection(url="http://unset")
        section = first.model_copy(update={"url": upstream_url(upstream)})
        settings = settings.model_copy(update={"upstreams": (section,)})
    if not settings.upstreams:
        raise ConfigError("no upstream: name one with --upstream URL or under upstreams in the file")
    return settings


def _table(findings: list[Finding]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found, and what to do")
    for finding in findings:
        colour = _COLOURS[finding.health]
        remedy = f"\n[dim]-> {_plain(finding.remedy)}[/dim]" if finding.remedy else ""
        table.add_row(finding.check, f"[{colour}]{finding.health}[/{colour}]", _plain(finding.found) + remedy)
    return table


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
