"""Replay results for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from suffice.server.replay.bootstrap import Interval

if TYPE_CHECKING:
    from collections.abc import Mapping

_PERCENT = ("tokens_saved", "answers_changed", "agreement", "accuracy", "certified")


def votes_table(
    results: Mapping[str, Mapping[str, Interval | None]], *, questions: int, permutations: int, most: int, wave: int
) -> Table:
    """One line a rule, each measure with its 95 % interval over questions."""
    return _table(
        results,
        title=f"{questions} questions, {permutations} orders each, at most {most} samples, in waves of {wave} or fewer",
        caption="means with 95 % intervals over questions; agreement is with the full vote in the same order",
    )


def traces_table(results: Mapping[str, Mapping[str, Interval | None]], *, questions: int, samples: int) -> Table:
    """One line a stopping rule, each measure with its 95 % interval over questions."""
    return _table(
        results,
        title=f"{questions} questions, {samples} samples",
        caption="means with 95 % intervals over questions; agreement is with the whole sample",
    )


def policy_table(shown: Mapping[str, Any]) -> Table:
    """What another policy would have done with a log, beside what ran; takes what ``Compared.to_json`` gives."""
    undecidable, unknown = shown["undecidable"], shown["answers_unknown"]
    reasons = "".join(f"\n  {count} undecidable: {why}" for why, count in shown["undecidable_because"].items())
    table = Table(
        title=f"{shown['requests']} requests, {undecidable} of them undecidable, {unknown} answers not comparable",
        caption=f"means with 95 % intervals over requests that can be decided{reasons}",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    for heading in ("", "ran", "would have"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, label in (("tokens", "tokens a request"), ("latency", "seconds a request")):
        table.add_row(label, _cell(name, _interval(shown["ran"][name])), _cell(name, _interval(shown[name])))
    for name, label in (("tokens_saved", "tokens saved %"), ("answers_changed", "answers changed %")):
        table.add_row(label, "", _cell(name, _interval(shown[name])))
    return table


def _interval(value: Mapping[str, float] | None) -> Interval | None:
    return None if value is None else Interval(**value)


def _table(results: Mapping[str, Mapping[str, Interval | None]], *, title: str, caption: str) -> Table:
    table = Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("rule", no_wrap=True)
    for heading in ("samples", "tokens\nsaved %", "agreement\n%", "accuracy\n%", "certified\n%"):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, measures in results.items():
        table.add_row(label, *(_cell(name, interval) for name, interval in measures.items()))
    return table


def _cell(name: str, interval: Interval | None) -> str:
    if interval is None:
        return "unknown"
    scale = 100 if name in _PERCENT else 1
    mean, low, high = (scale * value for value in (interval.mean, interval.low, interval.high))
    return f"{mean:.2f}" if low == high else f"{mean:.2f}\n[dim]{low:.1f}-{high:.1f}[/dim]"
