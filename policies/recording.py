"""What of a running request goes into its log, so that the log alone tells every decision again.

A log holds no text and no token ids, yet some rules live on them. Such a rule is watched: what it wanted, and when it
came to want it, is noted beside the event, and ``Recalled`` wants the same again in replay. All other rules are built
anew and decide for themselves.

**Chunks are merged.** Consecutive chunks of one sample and phase become one record that ends with the first of them at
which anything was decided. Rules that count (probing, caps, lengths, thinking on, votes) and those that read a value a
token come to the same decisions on the sum: each of their wants depends only on sums and extremes up to the chunk, and
what the chain drops at one chunk it drops at the next as long as no event comes between that touches the sample,
before which its chunks are written. A rule that reads the clock sees moments apart, so where one is not known to count,
only chunks of the same moment are merged. What must not be here: files, and any decision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

from suffice.policies.auditing import AuditedExit
from suffice.policies.decisions import CONTINUE, Complete, RuleDecision
from suffice.policies.events import Chunk, Event, PromptCounted, SegmentEnded
from suffice.policies.records import decision_from_loggable
from suffice.policies.sampling.draw import Draw
from suffice.policies.stopping.extend import Extend
from suffice.policies.stopping.family import Need
from suffice.policies.stopping.length import Length
from suffice.policies.stopping.probe_exit import ProbeExit
from suffice.policies.stopping.static_cap import StaticCap

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from suffice.policies.decisions import Action
    from suffice.policies.events import AnyEvent, Loggable
    from suffice.policies.rule import Rule

UNLOGGED = frozenset({Need.TOKEN_IDS, Need.CLOSE_LOGPROB})
"""Needs of rules that also look at text or token ids: what they see is not in a log."""

_COUNTING = (ProbeExit, StaticCap, Length, Extend, Draw, AuditedExit)
"""Rules that decide alike on merged chunks; a rule with probes is the only one that is audited inside a sample."""

_TOKEN_WISE = {Need.LOGPROBS: "logprobs", Need.TOP_LOGPROBS: "confidences"}


def needs_of(rule: Rule) -> frozenset[Need]:
    """What a rule lives on beyond the events that it listens to."""
    needs: frozenset[Need] = getattr(rule, "needs", frozenset())
    return needs


class Witness:
    """Stands before a rule that sees text and notes whenever what it wants of a sample changes.

    Args:
        rule: The rule; it listens to chunks only.
    """

    def __init__(self, rule: Rule) -> None:
        self.name = rule.name
        self.listens = rule.listens
        self._rule = rule
        self._last: dict[int, RuleDecision] = {}
        self._changed: list[RuleDecision] = []

    def observe(self, event: Event, /) -> RuleDecision:
        """What the rule wants."""
        decision = self._rule.observe(event)
        if isinstance(event, Chunk) and decision != self._last.get(event.sample, CONTINUE):
            self._last[event.sample] = decision
            self._changed.append(decision)
        return decision

    def take(self) -> list[RuleDecision]:
        """The changes since it was last asked."""
        changed, self._changed = self._changed, []
        return changed


class Recalled:
    """Wants in replay what a rule wanted live; see ``Witness``.

    Args:
        name: The rule's name.
    """

    listens: frozenset[type[Event]] = frozenset({Chunk})

    def __init__(self, name: str) -> None:
        self.name = name
        self._wants: dict[int, RuleDecision] = {}

    def recall(self, sample: int, record: Mapping[str, Any]) -> None:
        """From the next chunk of the sample on it wants what the record says.

        Raises:
            BadRecord: It is no decision's record.
        """
        self._wants[sample] = decision_from_loggable(record)  # type: ignore[assignment]  # written of a rule's

    def observe(self, event: Event, /) -> RuleDecision:
        """What the rule wanted."""
        return self._wants.get(event.sample, CONTINUE) if isinstance(event, Chunk) else CONTINUE


def watched(rules: Iterable[Rule]) -> list[Rule]:
    """The rules, each that lives on what no log holds behind a witness."""
    return [Witness(rule) if needs_of(rule) & UNLOGGED else rule for rule in rules]


class _Run:
    """Consecutive chunks of one sample and phase."""

    __slots__ = ("at", "chunks", "first", "phase", "sample", "tokens", "values")

    def __init__(self, event: Chunk, kept: Iterable[str]) -> None:
        self.sample = event.sample
        self.phase = event.phase
        self.first = self.at = event.at
        self.tokens = event.tokens
        self.chunks = 1
        self.values: dict[str, list[float]] = {name: list(getattr(event, name)) for name in kept}

    def add(self, event: Chunk) -> None:
        self.at = event.at
        self.tokens += event.tokens
        self.chunks += 1
        for name, values in self.values.items():
            values.extend(getattr(event, name))

    def record(self) -> dict[str, Loggable]:
        record: dict[str, Loggable] = {
            "event": "Chunk",
            "at": self.at,
            "sample": self.sample,
            "tokens": self.tokens,
            "phase": self.phase.value,
        }
        if self.chunks > 1:
            record |= {"chunks": self.chunks, "first": self.first}
        for name, values in self.values.items():
            if values:
                record[name] = list(values)
        return record


def _local(event: AnyEvent, actions: tuple[Action, ...]) -> TypeGuard[PromptCounted | SegmentEnded]:
    """Whether an event and what followed it touch one sample only, so that the chunks of others may go on growing.

    A probe's end is not: it gives back tokens that another sample's probe may then be granted.
    """
    if not isinstance(event, PromptCounted | SegmentEnded):
        return False
    return all(isinstance(action, Complete) or action.sample == event.sample for action in actions)


class Recorder:
    """The log of one request: feed it each event with what the chain answered.

    Args:
        rules: The rules of the request, as ``watched`` gave them.
        each_chunk: Whether every chunk gets a record of its own.

    Attributes:
        records: What is written so far, in the order of the events; chunks that may still grow are not in it.
    """

    def __init__(self, rules: Sequence[Rule] = (), *, each_chunk: bool = False) -> None:
        self.records: list[dict[str, Loggable]] = []
        self._witnesses = [rule for rule in rules if isinstance(rule, Witness)]
        self._each_chunk = each_chunk
        hearing = [rule for rule in rules if Chunk in rule.listens and not isinstance(rule, Witness)]
        self._apart = not all(isinstance(rule, _COUNTING) for rule in hearing)
        self._kept = tuple(_TOKEN_WISE[need] for rule in hearing for need in needs_of(rule) if need in _TOKEN_WISE)
        self._runs: dict[int, _Run] = {}

    def note(self, event: AnyEvent, actions: tuple[Action, ...]) -> None:
        """Take in one event and the decisions that followed. O(1) but for what is written."""
        if isinstance(event, Chunk):
            self._chunk(event, actions)
            return
        if _local(event, actions):
            self._flush(event.sample)
        else:
            self.flush()
        self.records.append(event.to_loggable())
        self.records.extend(action.to_loggable() for action in actions)

    def _flush(self, sample: int) -> None:
        run = self._runs.pop(sample, None)
        if run is not None:
            self.records.append(run.record())

    def flush(self) -> None:
        """Write the chunks that were held to be merged with later ones."""
        for run in self._runs.values():
            self.records.append(run.record())
        self._runs.clear()

    def _chunk(self, event: Chunk, actions: tuple[Action, ...]) -> None:
        held = self._runs.pop(event.sample, None)
        if held is not None:
            same = held.phase is event.phase and (not self._apart or held.at == event.at)
            if same and not self._each_chunk:
                held.add(event)
            else:
                self.records.append(held.record())
                held = None
        run = _Run(event, self._kept) if held is None else held
        wants: list[Loggable] = [
            {"by": witness.name, **decision.to_loggable()} for witness in self._witnesses for decision in witness.take()
        ]
        if not (actions or wants):
            self._runs[event.sample] = run
            return
        record = run.record()
        if wants:
            record["wants"] = wants
        self.records.append(record)
        self.records.extend(action.to_loggable() for action in actions)
