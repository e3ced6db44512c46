"""Loops: the same few tokens over and over, which a small model never leaves by itself.

Detection is exact, by token id: a loop is a suffix that is one pattern of at most ``max_pattern`` tokens, ``min_count``
times over, and at least ``least`` tokens long. The engine can look for the same (``engine_field``); the gateway's rule
knows thought from answer and closes a looping thought where the engine could only end the sample.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from suffice.policies.decisions import CONTINUE, CloseThought, Finish, RuleDecision, StopSample
from suffice.policies.events import Chunk, Event, Phase
from suffice.policies.rules import Kind, Parameter
from suffice.policies.stopping.family import Need, Setting, StoppingRule


@dataclass(slots=True)
class LoopDetector:
    """Whether the tokens read so far end in a loop.

    For every period ``p`` there is a run: how many tokens in a row equalled the one ``p`` places before. A suffix of
    ``r + p`` tokens has period ``p`` exactly if the run is at least ``r``, so a loop is a run that reaches
    ``max((min_count - 1) * p, least - p)``. All periods are followed at once as bits of one whole number: those of
    places where the new token stood within the last ``max_pattern`` tokens. Runs that go on cost nothing but one
    ``and``; a run is touched when it begins and when it would complete, and in between only its bit can die.

    Cost: O(1) a token in the number of tokens read; at most one step for each run that begins, of which there are as
    many as the new token occurs among the last ``max_pattern``. State: O(max_pattern * min_count + least).

    Attributes:
        max_pattern: Longest pattern, in tokens.
        min_count: How often a pattern must stand in a row, at least 2.
        least: Shortest loop altogether, in tokens.
        found: Whether a loop was met; stays once it is true.
    """

    max_pattern: int
    min_count: int
    least: int
    found: bool = False
    _position: int = 0
    _runs: int = 0
    """Bit ``p`` is set while the run of period ``p`` goes on."""
    _began: dict[int, int] = field(default_factory=dict)
    """Position at which the last run of each period began."""
    _due: dict[int, int] = field(default_factory=dict)
    """Periods by the position at which their runs would complete."""
    _places: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of each recent token: its last position, and a bit for each place of it counted back from there."""
    _recent: deque[int] = field(default_factory=deque)

    def read(self, token: int) -> bool:
        """Take in one token id; whether it completes a loop, or one was met before."""
        if self.found:
            return True
        position = self._position
        self._position += 1
        last, places = self._places.get(token, (position, 0))
        places <<= position - last
        periods = places & ((2 << self.max_pattern) - 2)
        self._remember(token, position, places | 1)
        self._begin(periods & ~self._runs, position)
        self._runs = periods
        self.found = self._completes(position)
        return self.found

    def _remember(self, token: int, position: int, places: int) -> None:
        self._places[token] = (position, places & ((1 << self.max_pattern) - 1))
        self._recent.append(token)
        if len(self._recent) > self.max_pattern:
            oldest = self._recent.popleft()
            if self._places[oldest][0] == position - self.max_pattern:
                del self._places[oldest]

    def _begin(self, periods: int, position: int) -> None:
        while periods:
            bit = periods & -periods
            periods ^= bit
            period = bit.bit_length() - 1
            self._began[period] = position
            completes = position - 1 + max((self.min_count - 1) * period, self.least - period, 1)
            self._due[completes] = self._due.get(completes, 0) | bit

    def _completes(self, position: int) -> bool:
        """Whether a run that was due here has gone on since; bits of runs that died meanwhile are dropped."""
        due = self._due.pop(position, 0) & self._runs
        while due:
            bit = due & -due
            due ^= bit
            period = bit.bit_length() - 1
            run = position - self._began[period] + 1
            if run >= max((self.min_count - 1) * period, self.least - period, 1):
                return True
        return False


@dataclass(slots=True)
class _Sample:
    detector: LoopDetector
    phase: Phase


class Repetition:
    """Closes a thought that loops, and ends a sample whose answer loops.

    Thought and answer are read apart: an answer that repeats the end of its thought is no loop.
    """

    name = "repetition"
    listens: frozenset[type[Event]] = frozenset({Chunk})
    needs: frozenset[Need] = frozenset({Need.TOKEN_IDS})

    def __init__(self, *, max_pattern: int, min_count: int, least: int, setting: Setting) -> None:  # noqa: ARG002
        self._max_pattern = max_pattern
        self._min_count = min_count
        self._least = least
        self._samples: dict[int, _Sample] = {}

    def engine_field(self) -> dict[str, int]:
        """The same rule as vLLM's request field ``repetition_detection``.

        The engine knows no shortest loop, but patterns of at least ``least / min_count`` tokens amount to one: a loop
        of a shorter pattern is also one of that pattern's multiples, which the engine is let look for. It finds every
        loop that this rule finds, at most ``min_count`` patterns later.
        """
        shortest = -(-self._least // self._min_count)
        return {
            "max_pattern_size": max(self._max_pattern, shortest + min(self._max_pattern, shortest) - 1),
            "min_pattern_size": shortest,
            "min_count": self._min_count,
        }

    def observe(self, event: Event, /) -> RuleDecision:
        """Read a chunk's token ids. O(1) amortised a token."""
        if not isinstance(event, Chunk):
            return CONTINUE
        sample = self._samples.get(event.sample)
        if sample is None or sample.phase is not event.phase:
            detector = LoopDetector(self._max_pattern, self._min_count, self._least)
            sample = self._samples[event.sample] = _Sample(detector, event.phase)
        for token in event.token_ids:
            if sample.detector.read(token):
                break
        if not sample.detector.found:
            return CONTINUE
        if event.phase is Phase.THINKING:
            return CloseThought(sample=event.sample, rule=self.name)
        return StopSample(sample=event.sample, rule=self.name, finish=Finish.STOP)


KIND: Kind[StoppingRule] = Kind(
    name="repetition",
    make=Repetition,
    parameters={
        "max_pattern": Parameter(default=64, least=1, most=512, what="longest pattern of a loop, in tokens"),
        "min_count": Parameter(default=4, least=2, most=64, what="how often the pattern stands in a row"),
        "least": Parameter(default=64, least=1, most=4096, what="shortest loop altogether, in tokens"),
    },
    what="closes a thought that repeats itself, and ends an answer that does",
    guarantee="exact: fires at the very token that completes a loop, and at no other",
)
