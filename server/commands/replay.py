"""``suffice replay``: what other rules would have spent and answered on recorded samples."""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from suffice.policies.answers import READERS
from suffice.policies.errors import InvalidBudget
from suffice.policies.sampling import RULES
from suffice.server.config import ConfigError, load
from suffice.server.replay.allocate import replay_allocation
from suffice.server.replay.bootstrap import Bootstrap
from suffice.server.replay.files import VotesFileError, read_votes
from suffice.server.replay.frontier import PlotUnavailable, draw_frontier
from suffice.server.replay.log_files import LogFileError, read_log
from suffice.server.replay.policies import compare
from suffice.server.replay.prices import constant_price
from suffice.server.replay.table import policy_table, traces_table, votes_table
from suffice.server.replay.trace_files import BadTraces, read_traces
from suffice.server.replay.traces import Replayer, measures
from suffice.server.replay.traces import choose as choose_stopping
from suffice.server.replay.votes import Chosen, run, shuffle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from suffice.server.replay.files import Question


def replay(  # noqa: PLR0913, PLR0917 - a command's options
    votes: Annotated[
        list[Path] | None, typer.Option(help="Recorded votes, JSON lines, plain or gzipped; several may follow.")
    ] = None,
    traces: Annotated[
        Path | None, typer.Option(help="Recorded samples with their tokens; replays stopping rules instead.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="An event log (events.jsonl); tells what --policy would have done instead.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="Another operator's file, for --log.")] = None,
    cap: Annotated[int | None, typer.Option(min=1, help="Cap on thoughts that stopping rules are told of.")] = None,
    more: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="More files of the same kind.")] = None,
    rule: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(RULES.kinds)}; repeatable.")] = None,
    param: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for rules that take it, or RULE.NAME=VALUE; repeatable.")
    ] = None,
    answer: Annotated[
        str | None, typer.Option(help=f"Read answers as {', '.join(READERS.kinds)}; without it they stand as they are.")
    ] = None,
    permutations: Annotated[int, typer.Option(min=0, help="Orders of each question; 0: the recorded one.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the orders and of the intervals.")] = 0,
    most: Annotated[int | None, typer.Option(min=1, help="Samples drawn at most; without it all recorded.")] = None,
    wave: Annotated[int, typer.Option(min=1, help="Samples that may run beside each other.")] = 1,
    price: Annotated[
        str | None,
        typer.Option(
            metavar="SECOND[:BLOCK_SECOND]",
            help="Gain that a second of a sample's time, and a KV block held for one, must bring; at 20 ms a token.",
        ),
    ] = None,
    average_samples: Annotated[float, typer.Option(help="Samples a question whose tokens --allocate spends.")] = 3.0,
    *,
    allocate: Annotated[
        bool, typer.Option("--allocate", help="Spend one budget over all questions, beside an even spread of it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also write a picture (PNG) of each rule's trade-off.")] = None,
) -> None:
    """Replay vote rules on recorded samples: samples, tokens saved, agreement, accuracy, certificates."""
    if (log is None) != (policy is None):
        raise typer.BadParameter("--log LOG and --policy FILE go together")
    if log is not None and policy is not None:
        if votes or traces or more or rule or param or price is not None or plot is not None:
            raise typer.BadParameter("--log and --policy stand alone")
        _replay_log(log, policy, seed=seed, as_json=as_json)
        return
    if traces is not None:
        if votes or more or plot is not None:
            raise typer.BadParameter("--traces stands alone: no votes, no plot")
        _replay_traces(
            traces, rule or ["combined"], param or [], answer, cap=cap, price=price, seed=seed, as_json=as_json
        )
        return
    if allocate and price is not None:
        raise typer.BadParameter("--allocate finds its own price")
    try:
        priced = None if price is None else constant_price(price)
        chosen = choose(rule or ["curtailment"], param or [])
        questions = _read([*(votes or []), *(more or [])], answer)
        shuffled = shuffle(questions, permutations=permutations, seed=seed, most=most)
        bootstrap = Bootstrap(len(questions), seed)
        if allocate:
            both = replay_allocation(shuffled, average_samples=average_samples, bootstrap=bootstrap)
            results = dict(zip(("allocation", "uniform"), both, strict=True))
        else:
            results = {one.label: run(shuffled, one, wave=wave, priced=priced).measures(bootstrap) for one in chosen}
        if plot is not None and not allocate:
            draw_frontier(plot, shuffled, chosen, wave=wave, priced=priced)
    except (InvalidBudget, VotesFileError, PlotUnavailable, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise typer.Exit(2) from None
    orders = max(permutations, 1)
    if as_json:
        runs = {"questions": len(questions), "permutations": orders}
        shown: dict[str, Any] = {
            label: {name: None if value is None else value.to_json() for name, value in measures.items()}
            | {"runs": runs}
            for label, measures in results.items()
        }
        if allocate:
            shown = shown["allocation"] | {"uniform": shown["uniform"]}
        elif len(chosen) == 1:
            (shown,) = shown.values()
        print(json.dumps(shown))  # noqa: T201
        return
    drawn = max(len(order) for item in shuffled for order in item.orders)
    Console().print(votes_table(results, questions=len(questions), permutations=orders, most=drawn, wave=wave))


def _replay_log(file: Path, policy: Path, *, seed: int, as_json: bool) -> None:
    """Replay recorded requests under another operator's file."""
    try:
        compared = compare(read_log(file), load(policy))
    except (LogFileError, ConfigError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise typer.Exit(2) from None
    shown = compared.to_json(seed)
    if as_json:
        print(json.dumps(shown))  # noqa: T201
        return
    Console().print(policy_table(shown))


def _replay_traces(
    file: Path,
    rules: Sequence[str],
    parameters: Sequence[str],
    answer: str | None,
    *,
    cap: int | None,
    price: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Replay stopping rules on recorded samples."""
    try:
        chosen = choose_stopping(rules, parameters)
        read = None if answer is None else READERS.make(answer, {}).read
        priced = None if price is None else constant_price(price)
        replayer = Replayer(read_traces(file, read=read), cap=cap, priced=priced)
        bootstrap = Bootstrap(len(replayer.traces.questions), seed)
        results = {name: measures(list(replayer.play(name, given)), bootstrap) for name, given in chosen.items()}
    except (InvalidBudget, BadTraces) as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise typer.Exit(2) from None
    runs = {"questions": len(replayer.traces.questions), "samples": replayer.traces.samples}
    if as_json:
        shown: dict[str, Any] = {
            name: {key: None if value is None else value.to_json() for key, value in one.items()} | {"runs": runs}
            for name, one in results.items()
        }
        print(json.dumps(shown if len(chosen) > 1 else next(iter(shown.values()))))  # noqa: T201
        return
    Console().print(traces_table(results, **runs))


def _read(files: Sequence[Path], answer: str | None) -> list[Question]:
    if not files:
        raise VotesFileError("name recorded votes with --votes FILE")
    read: Callable[[str], str | None] | None = None if answer is None else READERS.make(answer, {}).read
    return [question for file in files for question in read_votes(file, read)]


def choose(rules: Sequence[str], parameters: Sequence[str]) -> list[Chosen]:
    """The rules to replay, each with the parameters meant for it.

    Args:
        rules: Names of rules.
        parameters: ``name=value`` for every rule that takes it, or ``rule.name=value`` for one.

    Raises:
        InvalidBudget: There is no such rule, no rule takes a parameter, or a value is wrong.
    """
    given: dict[str, dict[str, Any]] = {name: {} for name in rules}
    for name in given:
        RULES.make(name, {}, most=1)
    for text in parameters:
        path, equals, value = text.partition("=")
        owner, dot, key = path.rpartition(".")
        if not equals or not key:
            raise InvalidBudget(f"--param takes NAME=VALUE, not {text!r}", param=path)
        takers = [name for name in given if (name == owner if dot else key in RULES.kinds[name].parameters)]
        if not takers:
            raise InvalidBudget(f"none of {', '.join(given)} takes {path!r}", param=path)
        for name in takers:
            given[name][key] = _value(value)
    chosen = [Chosen(label=name, rule=name, parameters=values) for name, values in given.items()]
    for one in chosen:
        one.build(1)
    return chosen


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
