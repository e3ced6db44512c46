"""KV-block-seconds: how much cache a request held, times how long.

Long answers cost quadratically in it, which is why memory is priced by it and not by tokens. Queueing costs nothing:
a waiting request holds no block. What must not be here: prices, clocks; times arrive as arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from suffice.policies.memory.layers import Keeps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from suffice.policies.memory.grouping import Group
    from suffice.policies.memory.kv import KvModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """When a sample's work was done, as vLLM reports it with ``--enable-per-request-metrics`` or the gateway saw it.

    Attributes:
        prefill_s: Seconds from the start of its prefill to its first token.
        decode_s: Seconds from its first token to its last.
        queue_s: Seconds in the engine's queue before; they hold nothing and are kept for the receipt.
    """

    prefill_s: float
    decode_s: float
    queue_s: float = 0.0


def closed_form(prompt: int, generated: float, block_size: int, prefill_s: float, seconds_per_token: float) -> float:
    """Block-seconds of one sample with full attention, as if blocks were divisible.

    ``P/B * t_p + tau/B * (P*g + g^2/2)`` with prompt P, generated g, block size B, prefill time t_p and decode time of
    a token tau. A little below the exact sum, by less than a block held all along.
    """
    held = prompt / block_size
    return held * prefill_s + seconds_per_token / block_size * (prompt * generated + generated * generated / 2)


def block_seconds(kv: KvModel, prompt: int, generated: int, timings: Timings) -> float:
    """Block-seconds of one sample: the prompt's blocks during prefill, then the blocks of each decoding step.

    Steps are taken as equally long. Exact in blocks: windows that give blocks back and states that never grow count as
    they are held.

    Args:
        kv: The model's cache.
        prompt: Tokens of the prompt.
        generated: Tokens generated.
        timings: The sample's own times.
    """
    prefill = sum(group.held(prompt) for group in kv.groups) * timings.prefill_s
    if generated <= 0:
        return prefill
    steps = sum(held_sum(group, prompt + 1, prompt + generated) for group in kv.groups)
    return prefill + steps * timings.decode_s / generated


def samples_block_seconds(
    kv: KvModel, prompt: int, samples: Sequence[tuple[int, Timings]], together_s: float | None = None
) -> float:
    """Block-seconds of samples of one prompt: what they share counts once.

    Args:
        kv: The model's cache.
        prompt: Tokens of the prompt.
        samples: Generated tokens and times of each.
        together_s: Seconds in which at least one of them held memory; None where all began at once.
    """
    if not samples:
        return 0.0
    shared = kv.shared_blocks(prompt)
    own = sum(
        block_seconds(kv, prompt, generated, timings) - shared * (timings.prefill_s + timings.decode_s)
        for generated, timings in samples
    )
    longest = max(timings.prefill_s + timings.decode_s for _, timings in samples)
    return own + shared * (longest if together_s is None else max(together_s, longest))


def worst_block_seconds(
    kv: KvModel, prompt: int, limit: int, samples: int, prefill_s: float, seconds_per_token: float
) -> float:
    """What to reserve before a request runs: every sample to its limit, all side by side."""
    timings = Timings(prefill_s=prefill_s, decode_s=seconds_per_token * limit)
    return samples_block_seconds(kv, prompt, [(limit, timings)] * samples)


def held_sum(group: Group, first: int, last: int) -> int:
    """The sum of a group's held blocks over requests of ``first`` to ``last`` tokens, in closed form."""
    if last < first:
        return 0
    size = group.block_size
    if group.keeps is Keeps.STATE:
        return group.states * (last - first + 1)
    total = _ceil_sum(last, size) - _ceil_sum(first - 1, size)
    if group.keeps is Keeps.WINDOW:
        total -= _floor_sum(last - group.span, size) - _floor_sum(first - 1 - group.span, size)
    elif group.keeps is Keeps.CHUNK:
        total -= sum(
            chunk * group.span // size * (min((chunk + 1) * group.span, last) - max(chunk * group.span + 1, first) + 1)
            for chunk in range((first - 1) // group.span, (last - 1) // group.span + 1)
        )
    return total


def _ceil_sum(most: int, size: int) -> int:
    """The sum of ``ceil(k / size)`` for k from 1 to ``most``."""
    whole, rest = divmod(max(most, 0), size)
    return size * whole * (whole + 1) // 2 + rest * (whole + 1)


def _floor_sum(most: int, size: int) -> int:
    """The sum of ``floor(k / size)`` for k from 0 to ``most``."""
    whole, rest = divmod(max(most, 0) + 1, size)
    return size * whole * (whole - 1) // 2 + rest * whole
