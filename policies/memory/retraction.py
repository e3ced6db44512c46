"""Which bulk generation to pause while memory is short, and when to resume it.

A paused generation gives all its blocks back; resuming computes its prompt and answer so far once more. So a pause is
worth something only if it lasts, and nobody is paused twice too often:

- pausing starts above ``high`` and ends once the peak is projected below ``low``; resuming does not lift it above
  ``low``, save for what has waited too long;
- the bulk generation that started first always runs, so that bulk makes progress whatever the pressure;
- each is paused at most ``pauses`` times, and not within ``grace_s`` of its start or its last resumption;
- the paused resume in the order of their pauses; nobody overtakes, so a large one is not starved by small ones;
- one that waited ``longest_pause_s`` resumes as soon as it fits below ``high``, and is then never paused again.

Interactive work is never paused. What must not be here: streams, projections.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetractionRule:
    """When to pause and to resume.

    Attributes:
        high: Share of memory, at the projected peak, above which bulk work is paused.
        low: Share below which it resumes.
        pauses: Times that one generation may be paused.
        grace_s: Seconds that it runs untouched after its start and after each resumption.
        longest_pause_s: Seconds after which a pause ends as soon as there is room below ``high``.
    """

    high: float = 0.95
    low: float = 0.80
    pauses: int = 2
    grace_s: float = 2.0
    longest_pause_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One bulk generation as it runs.

    Attributes:
        id: Its name.
        held_blocks: Blocks that it holds now.
        peak_blocks: Blocks that it is projected to hold at its end.
    """

    id: str
    held_blocks: int
    peak_blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retract:
    """What to do now.

    Attributes:
        pause: Generations to pause, in order.
        resume: Generations to resume, in order.
    """

    pause: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()


@dataclass(slots=True)
class _Record:
    since: float
    order: int
    pauses: int = 0
    blocks: int = 0
    paused: bool = False


class Retraction:
    """The machine. Tell it of starts and ends, and ask it at every change of pressure or every tick.

    What it answers is taken as done.
    """

    __slots__ = ("_count", "_records", "_rule")

    def __init__(self, rule: RetractionRule | None = None) -> None:
        self._rule = rule or RetractionRule()
        self._records: dict[str, _Record] = {}
        self._count = 0

    def started(self, generation: str, at: float) -> None:
        """A bulk generation began."""
        self._records[generation] = _Record(since=at, order=self._count)
        self._count += 1

    def ended(self, generation: str) -> None:
        """It is over, or its client left. Idempotent."""
        self._records.pop(generation, None)

    @property
    def paused(self) -> tuple[str, ...]:
        """The paused, in the order in which they resume."""
        waiting = [(record.since, record.order, name) for name, record in self._records.items() if record.paused]
        return tuple(name for _, _, name in sorted(waiting))

    def decide(self, at: float, usable: int, projected: int, running: tuple[Generation, ...]) -> Retract:
        """What to pause or to resume; never both.

        Args:
            at: Now, in seconds.
            usable: Blocks of the pool.
            projected: The peak that all running work is projected to reach, bulk included.
            running: The bulk generations that run; those that were never reported as started are left alone.
        """
        if projected > self._rule.high * usable:
            return self._pause(at, usable, projected, running)
        return self._resume(at, usable, projected)

    def _pause(self, at: float, usable: int, projected: int, running: tuple[Generation, ...]) -> Retract:
        known = [(self._records[each.id], each) for each in running if each.id in self._records]
        eldest = min((record.order for record in self._records.values() if not record.paused), default=-1)
        able = [
            (record, each)
            for record, each in known
            if not record.paused
            and record.order != eldest
            and record.pauses < self._rule.pauses
            and at - record.since >= self._rule.grace_s
        ]
        # Whoever was paused least, then whoever would take the most, then the latest to come.
        able.sort(key=lambda pair: (pair[0].pauses, -pair[1].peak_blocks, -pair[0].order))
        chosen: list[str] = []
        for record, each in able:
            if projected <= self._rule.low * usable:
                break
            projected -= each.peak_blocks
            record.paused = True
            record.pauses += 1
            record.since = at
            record.blocks = each.peak_blocks
            chosen.append(each.id)
        return Retract(pause=tuple(chosen))

    def _resume(self, at: float, usable: int, projected: int) -> Retract:
        chosen: list[str] = []
        for name in self.paused:
            record = self._records[name]
            overdue = at - record.since >= self._rule.longest_pause_s
            limit = (self._rule.high if overdue else self._rule.low) * usable
            alone = projected == 0 and not chosen
            if projected + record.blocks > limit and not alone:
                break
            projected += record.blocks
            record.paused = False
            record.since = at
            if overdue:
                record.pauses = max(record.pauses, self._rule.pauses)
            chosen.append(name)
        return Retract(resume=tuple(chosen))
