"""What each rule trades: accuracy or agreement against tokens, over its main parameter, as a picture.

matplotlib is asked for only here and only when a picture is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from suffice.policies.sampling import RULES
from suffice.server.replay.votes import Chosen, Totals, run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from suffice.policies.events import Priced
    from suffice.server.replay.votes import Shuffled

SWEEPS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "curtailment": ("delta", (0.2, 0.1, 0.05, 0.03, 0.0155, 0.01, 0.005, 0.001)),
    "bayesian": ("delta", (0.2, 0.1, 0.05, 0.03, 0.0155, 0.01, 0.005, 0.001)),
    "certificate": ("alpha", (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)),
    "adaptive_consistency": ("threshold", (0.8, 0.9, 0.95, 0.97, 0.99, 0.995)),
    "early_stopping_window": ("window", (2, 3, 4, 5, 6, 8, 10)),
    "confidence": ("consensus", (0.6, 0.7, 0.8, 0.9, 0.95, 0.99)),
    "best_of_n": ("cost", (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)),
    "first_finish": ("m", (1, 2, 3, 5, 8, 12)),
}
"""The parameter that a rule trades with, and values of it, from frugal to careful where there is such an order."""

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_MARKERS = "osD^vPX*"


class PlotUnavailable(Exception):
    """There is no matplotlib."""


def draw_frontier(
    path: Path, shuffled: Sequence[Shuffled], chosen: Sequence[Chosen], *, wave: int, priced: Priced | None = None
) -> None:
    """Write the picture: one line a rule over its parameter, the chosen value with a ring around it.

    Raises:
        PlotUnavailable: matplotlib is not installed.
        OSError: The picture cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise PlotUnavailable("pictures need matplotlib: pip install 'suffice[plots]'") from None
    gold = all(item.question.gold is not None for item in shuffled)
    figure = Figure(figsize=(8, 5.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, one in enumerate(chosen):
        style = {"color": _COLOURS[index % len(_COLOURS)], "marker": _MARKERS[index % len(_MARKERS)]}
        variants = (run(shuffled, variant, wave=wave, priced=priced) for variant in _variants(one))
        line = sorted(_point(totals, gold=gold) for totals in variants)
        axes.plot(*zip(*line, strict=True), label=one.label, markersize=5, linewidth=1.6, **style)
        x, y = _point(run(shuffled, one, wave=wave, priced=priced), gold=gold)
        axes.plot([x], [y], marker="o", markersize=12, fillstyle="none", color=style["color"], linestyle="none")
    axes.set_xlabel("tokens, % of drawing all samples")
    axes.set_ylabel("accuracy, %" if gold else "agreement with the full vote, %")
    axes.set_title(f"{len(shuffled)} questions; a ring marks the value in force", loc="left", fontsize=11)
    axes.set_xlim(left=0)
    axes.grid(visible=True, color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, format="png")


def _variants(chosen: Chosen) -> list[Chosen]:
    sweep = SWEEPS.get(chosen.rule)
    if sweep is None:
        return [chosen]
    name, values = sweep
    values = (*values, chosen.parameters.get(name, RULES.kinds[chosen.rule].parameters[name].default))
    return [
        Chosen(label=chosen.label, rule=chosen.rule, parameters={**chosen.parameters, name: value})
        for value in dict.fromkeys(values)
    ]


def _point(totals: Totals, *, gold: bool) -> tuple[float, float]:
    right = sum(totals.correct) / sum(totals.known) if gold else sum(totals.agreed) / sum(totals.runs)
    return 100 * sum(totals.tokens) / max(1, sum(totals.tokens_all)), 100 * right
