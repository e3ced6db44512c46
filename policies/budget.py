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
class _Account:
    """One sample's use: tokens generated, and tokens its open segment may still generate."""

    used: int = 0
    granted: int = 0


class Meter:
    """Hands out allowances for segments so that no sum of them can pass the limits.

    Invariant, at every moment: ``used + granted <= total`` over all samples, and for each sample
    ``used + granted <= sample_tokens``, where ``granted`` is what open segments may still generate.
    """

    __slots__ = ("_granted", "_sample_limit", "_samples", "_total", "_used")

    def __init__(self, *, total_tokens: int, sample_tokens: int) -> None:
        self._total = total_tokens
        self._sample_limit = sample_tokens
        self._samples: dict[int, _Account] = {}
        self._used = 0
        self._granted = 0

    @property
    def used(self) -> int:
        """Tokens generated so far, over all samples."""
        return self._used

    @property
    def left(self) -> int:
        """Tokens that are neither used nor promised to an open segment."""
        return self._total - self._used - self._granted

    def sample_used(self, sample: int) -> int:
        """Tokens that one sample generated so far."""
        account = self._samples.get(sample)
        return 0 if account is None else account.used

    def available(self, sample: int) -> int:
        """The largest allowance that ``grant`` would give this sample now."""
        return max(0, min(self.left, self._sample_limit - self.sample_used(sample)))

    def grant(self, sample: int, tokens: int) -> int:
        """Promise up to ``tokens`` to a sample's next segment.

        Returns:
            What was granted: at most ``tokens``, possibly 0.

        Raises:
            IllegalEvent: The sample has an open segment, or ``tokens`` is negative.
        """
        account = self._samples.get(sample)
        if tokens < 0 or (account is not None and account.granted):
            raise IllegalEvent(f"sample {sample} cannot be granted {tokens} tokens now")
        granted = min(tokens, self.available(sample))
        self._samples.setdefault(sample, _Account()).granted = granted
        self._granted += granted
        return granted

    def use(self, sample: int, tokens: int) -> None:
        """Book generated tokens against the open grant.

        Raises:
            IllegalEvent: More was generated than granted; upstream broke its promise. Nothing is changed.
        """
        account = self._samples.get(sample)
        if account is None or not 0 <= tokens <= account.granted:
            raise IllegalEvent(f"sample {sample} generated {tokens} tokens beyond its grant")
        account.used += tokens
        account.granted -= tokens
        self._used += tokens
        self._granted -= tokens

    def release(self, sample: int) -> int:
        """Take back what the sample's ended segment left unused; 0 when there is none.

        Returns:
            The tokens taken back.
        """
        account = self._samples.get(sample)
        if account is None:
            return 0
        unused, account.granted = account.granted, 0
        self._granted -= unused
        return unused

    def charge_estimate(self, total: int) -> None:
        """Raise the tokens used to an estimate of what a cut stream generated; never beyond the limit, never lower."""
        self._used = max(self._used, min(total, self._total))
