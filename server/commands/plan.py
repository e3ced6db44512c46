"""``suffice plan``: what fits on a device before anything is started."""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from suffice.policies.errors import UnknownModel
from suffice.policies.memory.cache_types import CACHE_TYPES
from suffice.policies.memory.layers import Keeps
from suffice.policies.memory.planning import KvPlan, Wish, plan_kv
from suffice.server.engine.model_folder import ModelFolderError, read_config, weight_bytes
from suffice.server.quantities import parse_bytes, parse_count, parse_tokens, show_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

plan_app = typer.Typer(no_args_is_help=True, help="What fits, before anything is started.")

_KEEPS = {
    Keeps.FULL: "all tokens in {layers} layers",
    Keeps.WINDOW: "the last {span} in {layers}",
    Keeps.CHUNK: "a chunk of {span} in {layers}",
    Keeps.STATE: "a state in {layers}",
}


@plan_app.callback()
def plan() -> None:
    """What fits, before anything is started."""


@plan_app.command()
def kv(  # noqa: PLR0913, PLR0917 - one parameter an option
    model: Annotated[Path, typer.Option(help="The model's folder, or its config.json.")],
    memory: Annotated[str, typer.Option(help="Memory of one device: 80GiB, 24G.")],
    context: Annotated[str, typer.Option(help="Longest prompt and answer together: 8192, 32k.")] = "8192",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests of that length at once.")] = 1,
    kv_dtype: Annotated[str, typer.Option(help=f"One of {', '.join(CACHE_TYPES)}.")] = "auto",
    tensor_parallel: Annotated[int, typer.Option(min=1, help="Devices that share the model.")] = 1,
    utilization: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Share of the memory that vLLM may use.")
    ] = 0.92,
    block_size: Annotated[int, typer.Option(min=1, help="Tokens of a KV block.")] = 16,
    batched_tokens: Annotated[int, typer.Option(min=1, help="vLLM's --max-num-batched-tokens.")] = 8192,
    overhead: Annotated[
        str | None, typer.Option(help="Activations and graphs on each device: 3GiB. Without it estimated.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Size of all weights: 16GiB. Without it read from the folder.")
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(help="Number of parameters at 16 bits, where no weights are there: 8B.")
    ] = None,
    *,
    prefix_caching: Annotated[bool, typer.Option(help="Whether prefixes are cached.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Plan the KV cache: what fits, with which flags of vLLM's, what limits it and what relaxing that buys.

    Exits with 0 where it fits, 1 where it does not, 2 where the question makes no sense.
    """
    try:
        config = read_config(model)
        wish = Wish(
            memory=_quantity("memory", parse_bytes, memory),
            weights=_weights(model, weights, parameters),
            context=_quantity("context", parse_tokens, context),
            concurrency=concurrency,
            cache_type=kv_dtype,
            tensor_parallel=tensor_parallel,
            utilization=utilization,
            block_size=block_size,
            batched_tokens=batched_tokens,
            overhead=None if overhead is None else _quantity("overhead", parse_bytes, overhead),
            prefix_caching=prefix_caching,
        )
        planned = plan_kv(config, wish)
    except (ModelFolderError, UnknownModel, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise typer.Exit(2) from None
    if as_json:
        print(json.dumps(to_json(planned, wish)))  # noqa: T201
    else:
        _show(planned, wish, estimated=overhead is None)
    if not planned.fits:
        raise typer.Exit(1)


def _quantity(option: str, parse: Callable[[str], int], text: str) -> int:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"--{option}: {error}") from None


def _weights(model: Path, weights: str | None, parameters: str | None) -> int:
    if weights is not None:
        return _quantity("weights", parse_bytes, weights)
    if parameters is not None:
        return 2 * _quantity("parameters", parse_count, parameters)
    found = weight_bytes(model)
    if found is None:
        raise ModelFolderError(f"{model}: no safetensors files to measure; give --weights 16GiB or --parameters 8B")
    return found


def to_json(planned: KvPlan, wish: Wish) -> dict[str, Any]:
    """The plan as JSON-ready values; sizes in bytes of one device, lengths in tokens."""
    return {
        "fits": planned.fits,
        "binding": planned.binding,
        "why": planned.why,
        "memory_bytes": wish.memory,
        "weights_bytes": planned.weights,
        "overhead_bytes": planned.overhead,
        "kv_pool_bytes": planned.pool,
        "kv_blocks": planned.blocks,
        "block_size": wish.block_size,
        "block_bytes": planned.kv.block_bytes,
        "token_bytes": planned.kv.token_bytes,
        "blocks_per_request": planned.kv.settled_blocks(wish.context),
        "kv_cache_max_concurrency": planned.kv.concurrency(planned.blocks, wish.context),
        "kv_cache_size_tokens": planned.kv.size_tokens(planned.blocks, wish.context),
        "concurrency_at_context": planned.concurrency,
        "context_at_concurrency": planned.context,
        "model_context": planned.own_context,
        "groups": [
            {
                "keeps": str(group.keeps),
                "span": group.span or None,
                "layers": group.layers,
                "block_size": group.block_size,
            }
            for group in planned.kv.groups
        ],
        "relaxed": [
            {
                "change": change.change,
                "concurrency_at_context": change.concurrency,
                "context_at_concurrency": change.context,
                "price": change.price,
            }
            for change in planned.relaxed
        ],
        "flags": list(planned.flags),
    }


def _show(planned: KvPlan, wish: Wish, *, estimated: bool) -> None:
    console = Console()
    verdict = "[green]fits[/green]" if planned.fits else "[red]does not fit[/red]"
    console.print(f"{wish.concurrency} requests of {wish.context:,} tokens: {verdict}. {planned.why}.")
    table = Table("on each device", "", show_edge=False)
    guess = " (estimate; vLLM measures it at the start)" if estimated else ""
    rows = [
        ("memory that vLLM may use", f"{show_bytes(wish.memory * wish.utilization)} of {show_bytes(wish.memory)}"),
        ("weights", show_bytes(planned.weights)),
        ("activations, graphs, context", show_bytes(planned.overhead) + guess),
        ("KV cache", f"{show_bytes(planned.pool)}: {planned.blocks:,} blocks of {show_bytes(planned.kv.block_bytes)}"),
        ("one more token of a long request", show_bytes(planned.kv.token_bytes)),
        ("layers keep", _kept(planned)),
        (f"requests of {wish.context:,} tokens", f"{planned.concurrency:,}"),
        (f"longest context of {wish.concurrency:,} requests", f"{planned.context:,} tokens"),
    ]
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    if planned.relaxed:
        advice = Table(show_edge=False)
        advice.add_column("change", no_wrap=True)
        for heading in (f"requests\nof {wish.context:,}", f"context\nof {wish.concurrency:,}"):
            advice.add_column(heading, justify="right")
        advice.add_column("costs")
        for change in planned.relaxed:
            advice.add_row(change.change, f"{change.concurrency:,}", f"{change.context:,}", change.price)
        console.print(advice)
    console.print("vLLM: " + " ".join(planned.flags), soft_wrap=True)


def _kept(planned: KvPlan) -> str:
    """How many layers keep what, in words."""
    layers: dict[tuple[Keeps, int], int] = {}
    for group in planned.kv.groups:
        what = group.keeps, group.span
        layers[what] = layers.get(what, 0) + group.layers
    parts = [_KEEPS[keeps].format(span=f"{span:,}", layers=count) for (keeps, span), count in layers.items()]
    return "; ".join(parts) or "nothing"
