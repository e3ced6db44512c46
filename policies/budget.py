"""Hard limits: where each comes from, which one is tightest, and a meter that cannot be overdrawn.

A limit holds by construction. Upstream is only ever told a number that ``Meter.grant`` took out of what is left, and
what a segment did not use flows back when it ends. Nothing here watches a stream in order to cut it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from suffice.policies.errors import IllegalEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of one source; None means that the source sets none. All are whole numbers.

    Attributes:
        total_tokens: Generated tokens of all samples, probes and cancelled work together.
        sample_tokens: Generated tokens of any one sample (``max_completion_tokens`` of the standard APIs).
        thinking_tokens: Tokens of any one sample's thought.
        answer_reserve: Tokens of each sample that thinking may not touch, so that an answer always fits.
        samples: Samples drawn.
        deadline_ms: Milliseconds from receipt of the request to the end of the answer.
        kv_block_seconds: KV-cache blocks held, times seconds.
    """

    total_tokens: int | None = None
    sample_tokens: int | None = None
    thinking_tokens: int | None = None
    answer_reserve: int | None = None
    samples: int | None = None
    deadline_ms: int | None = None
    kv_block_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One limit in force and the source that set it."""

    value: int
    source: str


LIMIT_NAMES = tuple(field.name for field in fields(Budget))


def tightest(*sources: tuple[str, Budget]) -> dict[str, Bound]:
    """Merge limits: the smallest value of each kind wins; at a tie the source named first.

    ``answer_reserve`` is a floor rather than a ceiling, so there the largest wins.

    Args:
        sources: Name and limits, in order of authority.

    Returns:
        The limits in force by name; kinds that no source sets are absent.
    """
    bounds: dict[str, Bound] = {}
    for name in LIMIT_NAMES:
        for source, budget in sources:
            value = getattr(budget, name)
            if value is None:
                continue
            held = bounds.get(name)
            tighter = held is None or (value > held.value if name == "answer_reserve" else value < held.value)
            if tighter:
                bounds[name] = Bound(value=value, source=source)
    return bounds


@dataclass(slots=True)
class _Pot:
    """Tokens set aside for one purpose: what of them was generated, and what open requests may still generate."""

    size: int
    used: int = 0
    granted: int = 0

    @property
    def available(self) -> int:
        return self.size - self.used - self.granted


PROBES = -1
"""The pot that all probes of a request share."""


class Meter:
    """Sets tokens aside for samples and hands out allowances from them so that no sum can pass the total.

    Each sample has a pot of its own, taken from the total when it is launched, so that a later sample can never take
    what an earlier one needs for its answer. A sample that is done gives back the rest of its pot.

    Invariant, at every moment: ``used + granted <= size`` of each pot, and the sizes of all open pots plus what closed
    ones used are at most the total.
    """

    __slots__ = ("_extra", "_free", "_pots", "_used")

    def __init__(self, total_tokens: int) -> None:
        self._free = total_tokens
        self._used = 0
        self._extra = 0
        self._pots: dict[int, _Pot] = {}

    @property
    def used(self) -> int:
        """Tokens generated so far, by all samples and probes."""
        return self._used + self._extra

    @property
    def left(self) -> int:
        """Tokens that are in no pot."""
        return self._free

    @property
    def probe_used(self) -> int:
        """Tokens that probes generated so far."""
        return self.sample_used(PROBES)

    def sample_used(self, sample: int) -> int:
        """Tokens that one sample generated so far."""
        pot = self._pots.get(sample)
        return 0 if pot is None else pot.used

    def available(self, sample: int) -> int:
        """The largest allowance that ``grant`` would give this sample now."""
        pot = self._pots.get(sample)
        return 0 if pot is None else pot.available

    def room(self, sample: int) -> int:
        """Tokens of a sample's pot that are not generated yet, whether promised or not."""
        pot = self._pots.get(sample)
        return 0 if pot is None else pot.size - pot.used

    def allot(self, sample: int, tokens: int) -> int:
        """Set up to ``tokens`` aside for a sample, as far as there are any.

        Returns:
            The size of its pot, possibly 0.

        Raises:
            IllegalEvent: The sample has a pot already, or ``tokens`` is negative.
        """
        if tokens < 0 or sample in self._pots:
            raise IllegalEvent(f"sample {sample} cannot be allotted {tokens} tokens")
        size = min(tokens, self._free)
        self._pots[sample] = _Pot(size)
        self._free -= size
        return size

    def grant(self, sample: int, tokens: int) -> int:
        """Promise up to ``tokens`` of a sample's pot to its next upstream request.

        Returns:
            What was granted: at most ``tokens``, possibly 0.

        Raises:
            IllegalEvent: The sample has no pot, or ``tokens`` is negative.
        """
        pot = self._pots.get(sample)
        if tokens < 0 or pot is None:
            raise IllegalEvent(f"sample {sample} cannot be granted {tokens} tokens now")
        granted = min(tokens, pot.available)
        pot.granted += granted
        return granted

    def use(self, sample: int, tokens: int) -> None:
        """Book generated tokens against what was granted.

        Raises:
            IllegalEvent: More was generated than granted; upstream broke its promise. Nothing is changed.
        """
        pot = self._pots.get(sample)
        if pot is None or not 0 <= tokens <= pot.granted:
            raise IllegalEvent(f"sample {sample} generated {tokens} tokens beyond its grant")
        pot.used += tokens
        pot.granted -= tokens
        self._used += tokens

    def release(self, sample: int, tokens: int | None = None) -> int:
        """Take back what ended requests of the sample left unused: ``tokens`` of it, or all.

        Returns:
            The tokens taken back, which its next request may use.
        """
        pot = self._pots.get(sample)
        if pot is None:
            return 0
        unused = pot.granted if tokens is None else min(tokens, pot.granted)
        pot.granted -= unused
        return unused

    def settle(self, sample: int, tokens: int, granted: int) -> None:
        """Book what one ended request of the sample generated, and take back the rest of what it was granted.

        Raises:
            IllegalEvent: As for ``use``.
        """
        self.use(sample, tokens)
        self.release(sample, granted - tokens)

    def hold_back(self, sample: int, tokens: int) -> None:
        """Never grant these tokens of the pot: a closed stream may have generated them unseen."""
        pot = self._pots[sample]
        pot.size -= min(tokens, pot.available)

    def close(self, sample: int) -> None:
        """The sample is done: what its pot still has is free for others. Idempotent."""
        pot = self._pots.get(sample)
        if pot is not None:
            self._free += pot.available
            pot.size -= pot.available

    def charge_estimate(self, total: int, limit: int) -> None:
        """Raise the tokens used to an estimate of what a cut stream generated; never beyond the limit, never lower."""
        self._extra = max(self._extra, min(total, limit) - self._used, 0)
