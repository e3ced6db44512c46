"""``suffice calibrate``: choose a rule's threshold from recorded samples, with a guarantee or not at all."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer resolves it at run time
from typing import Annotated, Any

import typer
import yaml
from suffice.policies.calibration import Calibration, calibrate, control_expected_risk
from suffice.policies.errors import InvalidBudget
from suffice.policies.stopping import RULES
from suffice.policies.stopping.hopeless import HOPELESS
from suffice.policies.stopping.thresholds import AXES, HOPELESS_AXIS, Axis
from suffice.server.replay.trace_files import BadTraces, read_traces
from suffice.server.replay.traces import NotRecorded, Replayer, choose

REFUSED = 3
"""Exit code where the data cannot support the claim."""


class Method(StrEnum):
    """What is guaranteed."""

    LEARN_THEN_TEST = "ltt"
    """The risk is at most the limit, with probability 1 - delta."""
    CONFORMAL_RISK_CONTROL = "crc"
    """The expected risk is at most the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What the command line asks for."""

    replayer: Replayer
    rule: str
    given: dict[str, Any]
    risk: float
    delta: float
    method: Method
    two_sided: bool

    def run(self) -> list[tuple[Axis, Calibration]]:
        """Calibrate each threshold that was asked for."""
        if self.rule not in AXES:
            raise BadTraces(f"{self.rule} has no threshold to calibrate; there are {', '.join(sorted(AXES))}")
        axes = [(self.rule, AXES[self.rule])]
        if AXES[self.rule].parameter in self.given:
            raise BadTraces(f"{AXES[self.rule].parameter} is what is calibrated and cannot be held fixed")
        shared = RULES.kinds[HOPELESS].parameters
        if self.two_sided:
            if HOPELESS not in RULES.kinds[self.rule].parameters:
                raise BadTraces(f"{self.rule} has no lower threshold")
            axes.append((HOPELESS, HOPELESS_AXIS))
        results = []
        for rule, axis in axes:
            # The lower threshold is tested in a rule that has only that one; the schedule is the same.
            given = self.given if rule == self.rule else {k: v for k, v in self.given.items() if k in shared}
            losses = self.replayer.losses(rule, axis, given)
            risk, delta = self.risk / len(axes), self.delta / len(axes)
            ltt = self.method is Method.LEARN_THEN_TEST
            results.append((axis, calibrate(losses, risk, delta) if ltt else control_expected_risk(losses, risk)))
        return results


def calibrate_command(  # noqa: PLR0913, PLR0917 - one each option of the command
    traces: Annotated[Path, typer.Option(help="Recorded samples, JSON lines, may be gzipped.")],
    risk: Annotated[
        float, typer.Option(min=0, max=1, help="Share of answers that may turn from right to wrong.")
    ] = 0.02,
    delta: Annotated[float, typer.Option(min=0, max=1, help="Probability of being wrong about it.")] = 0.05,
    rule: Annotated[str, typer.Option(help=f"One of {', '.join(sorted(AXES))}.")] = "combined",
    param: Annotated[list[str] | None, typer.Option(help="A parameter held fixed, name=value; repeatable.")] = None,
    cap: Annotated[int | None, typer.Option(min=1, help="Cap on thoughts; by default the longest recorded.")] = None,
    method: Annotated[
        Method, typer.Option(help="ltt: with probability; crc: in expectation.")
    ] = Method.LEARN_THEN_TEST,
    out: Annotated[Path | None, typer.Option(help="Write rule, threshold and evidence here, as YAML.")] = None,
    date: Annotated[str | None, typer.Option(help="Date to write beside the evidence; today by default.")] = None,
    *,
    two_sided: Annotated[bool, typer.Option(help="Calibrate the give-up threshold too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Choose a threshold that turns at most a given share of answers from right to wrong.

    Replays the rule on recorded samples at a fixed ladder of thresholds, from conservative to aggressive, and keeps the
    last one that the data support. Exits with 3, and says why, where they support none.
    """
    try:
        request = _Request(
            replayer=Replayer(read_traces(traces), cap=cap),
            rule=rule,
            given=choose([rule], param or [])[rule],
            risk=risk,
            delta=delta,
            method=method,
            two_sided=two_sided,
        )
        results = request.run()
        report = _report(request, results, date or f"{datetime.now(UTC):%Y-%m-%d}")
    except NotRecorded as error:
        print(f"refused: {error}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(REFUSED) from error
    except (BadTraces, InvalidBudget, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise typer.Exit(2) from error
    refused = report["threshold"] is None
    if out is not None and not refused:
        out.write_text(yaml.safe_dump(_policy(report), sort_keys=False), encoding="utf-8")
    if as_json:
        print(json.dumps(report))  # noqa: T201
    else:
        print(_text(report))  # noqa: T201
    if refused:
        raise typer.Exit(REFUSED)


def _report(request: _Request, results: list[tuple[Axis, Calibration]], date: str) -> dict[str, Any]:
    """Everything that is known, JSON-ready. With two thresholds a refusal of either is one of the whole."""
    chosen: dict[str, float] = {}
    for axis, result in results:
        if result.threshold is not None:
            chosen[axis.parameter] = result.threshold
    reasons = [result.refusal for _, result in results if result.refusal]
    effect = {} if reasons else _effect(request, chosen)
    if effect and not effect["ended"]:
        reasons = [f"{request.rule} ended none of the samples, at whatever threshold; they say nothing about it"]
    granted = not reasons
    upper = results[0][1]
    return {
        "rule": request.rule,
        "parameters": {**request.given, **chosen} if granted else dict(request.given),
        "threshold": upper.threshold if granted else None,
        "reason": None if granted else "; ".join(reasons),
        "cap": request.replayer.cap or request.replayer.traces.longest_thought,
        "risk": request.risk,
        "delta": request.delta if request.method is Method.LEARN_THEN_TEST else None,
        "method": request.method.value,
        "questions": len(request.replayer.traces.questions),
        "samples": request.replayer.traces.samples,
        "ended": effect["ended"] if granted else None,
        "tokens_saved": effect["tokens_saved"] if granted else None,
        "traces_sha256": request.replayer.traces.sha256,
        "date": date,
        "evidence": [_evidence(axis, result) for axis, result in results],
    }


def _evidence(axis: Axis, result: Calibration) -> dict[str, Any]:
    chosen = result.chosen
    bound = "p_value" if result.delta is not None else "bound"
    return {
        "parameter": axis.parameter,
        "threshold": result.threshold,
        "reason": result.refusal,
        "risk": result.limit,
        "delta": result.delta,
        "questions": result.questions,
        "risk_estimate": None if chosen is None else chosen.risk,
        bound: None if chosen is None else chosen.p_value,
        "tested": [
            {"threshold": one.threshold, "risk_estimate": one.risk, bound: one.p_value} for one in result.tested
        ],
    }


def _effect(request: _Request, chosen: dict[str, float]) -> dict[str, float]:
    """What the calibrated rule would have done to these samples: the share of them ended, and of their tokens saved."""
    outcomes = [
        one for played in request.replayer.play(request.rule, request.given | chosen) for one in played.outcomes
    ]
    full = sum(one.full_tokens for one in outcomes)
    return {
        "ended": sum(one.rule is not None for one in outcomes) / max(len(outcomes), 1),
        "tokens_saved": 1 - sum(one.tokens for one in outcomes) / full if full else 0.0,
    }


def _policy(report: dict[str, Any]) -> dict[str, Any]:
    """The part of an operator's file that switches the rule on, with its evidence beside it."""
    evidence = [{key: value for key, value in one.items() if key != "tested"} for one in report["evidence"]]
    kept = ("risk", "delta", "method", "cap", "questions", "samples", "ended", "tokens_saved", "traces_sha256", "date")
    return {
        "early_exit": {"rule": report["rule"], **report["parameters"]},
        "evidence": {key: report[key] for key in kept} | {"thresholds": evidence},
    }


def _text(report: dict[str, Any]) -> str:
    if report["threshold"] is None:
        return f"refused: {report['reason']}"
    lines = [f"{report['rule']}: " + ", ".join(f"{name}={value}" for name, value in report["parameters"].items())]
    for one in report["evidence"]:
        strength = f"p = {one['p_value']:.2g}" if "p_value" in one else f"bound {one['bound']:.4f}"
        lines.append(
            f"{one['parameter']} {one['threshold']:g}: {one['risk_estimate']:.4f} of the answers turned wrong on "
            f"{one['questions']} questions ({strength}); at most {one['risk']:g} is claimed"
        )
    lines.append(
        f"samples ended early: {report['ended']:.1%}; tokens saved, probes counted: {report['tokens_saved']:.1%}"
    )
    return "\n".join(lines)
