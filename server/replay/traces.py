"""Recorded samples replayed through stopping rules, question by question, and what came of it.

What must not be here: rules, what they decide, files, and how a result is printed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suffice.policies.errors import InvalidBudget
from suffice.policies.replay_traces import SECONDS_A_TOKEN, Outcome, replay, unmet
from suffice.policies.stopping import GUARDS, RULES, Setting
from suffice.policies.stopping.lengths import LengthQuantiles, RouteLengths
from suffice.server.replay.trace_files import BadTraces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from suffice.policies.events import Priced
    from suffice.policies.rules import Kind
    from suffice.policies.stopping import StoppingRule
    from suffice.policies.stopping.thresholds import Axis
    from suffice.server.replay.bootstrap import Bootstrap, Interval
    from suffice.server.replay.trace_files import Question, Traces


class NotRecorded(BadTraces):
    """The file is sound and lacks what a rule lives on."""


@dataclass(frozen=True, slots=True)
class Played:
    """A question after its replay.

    Attributes:
        question: The question.
        outcomes: What became of each of its samples.
    """

    question: Question
    outcomes: tuple[Outcome, ...]

    def share(self, holds: Callable[[Outcome], bool]) -> float:
        """The share of its samples of which something holds; 0 without samples."""
        return sum(map(holds, self.outcomes)) / len(self.outcomes) if self.outcomes else 0.0

    @property
    def loss(self) -> float:
        """The share of samples that the rule turned from right to wrong.

        Where the right answer is not known, a sample that ran to its end and has an answer counts as right.
        """
        gold = self.question.gold
        return self.share(
            lambda one: (
                one.full_answer is not None and gold in (None, one.full_answer) and one.answer != one.full_answer
            )
        )


@dataclass(frozen=True, slots=True)
class Replayer:
    """Replays one file under one setting.

    Attributes:
        traces: The file.
        cap: The cap on thoughts that rules are told of; None for the longest thought of the file.
        deadline_s: The deadline that rules are told of.
        answer_reserve: The answer reserve that rules are told of.
        seconds_a_token: Pace of the recording's clock.
        priced: The prices in force all along, if any.
    """

    traces: Traces
    cap: int | None = None
    deadline_s: float | None = None
    answer_reserve: int = 0
    seconds_a_token: float = SECONDS_A_TOKEN
    priced: Priced | None = None

    def play(self, rule: str, given: Mapping[str, Any]) -> Iterator[Played]:
        """Replay a rule on every sample, question by question.

        Past lengths, for the rule that lives on them, are those of every second question: of the others for each half,
        so that no question is judged by itself.

        Raises:
            NotRecorded: The file lacks what the rule needs.
            InvalidBudget: No such rule or parameter.
        """
        settings = [self._setting(half) for half in (0, 1)]
        everything = (trace for question in self.traces.questions for trace in question.traces)
        if missing := unmet(make_rule(rule, given, settings[0]), everything):
            raise NotRecorded(f"the file has no {' and no '.join(sorted(missing))}, which {rule} needs")
        return self._played(rule, given, settings)

    def _played(self, rule: str, given: Mapping[str, Any], settings: Sequence[Setting]) -> Iterator[Played]:
        for index, question in enumerate(self.traces.questions):
            outcomes = tuple(
                replay(
                    trace,
                    make_rule(rule, given, settings[index % 2]),
                    seconds_a_token=self.seconds_a_token,
                    priced=self.priced,
                )
                for trace in question.traces
            )
            yield Played(question, outcomes)

    def _setting(self, half: int) -> Setting:
        """What the rules of every second question are told."""
        lengths = RouteLengths(LengthQuantiles(window=10_000), LengthQuantiles(window=10_000))
        for question in self.traces.questions[1 - half :: 2]:
            for trace in question.traces:
                answer = len(trace.pieces) - trace.thought
                lengths.thoughts.add(trace.thought, ended=trace.finished or answer > 0)
                if answer:
                    lengths.answers.add(answer, ended=trace.finished)
        return Setting(
            thinking_tokens=self.traces.longest_thought if self.cap is None else self.cap,
            answer_reserve=self.answer_reserve,
            deadline_s=self.deadline_s,
            lengths=lengths,
        )

    def losses(self, rule: str, axis: Axis, given: Mapping[str, Any]) -> Iterator[tuple[float, list[float]]]:
        """Each value of a rule's threshold with the loss of every question, for calibration. Raises as ``play``."""
        for value in axis.values:
            yield value, [played.loss for played in self.play(rule, {**given, axis.parameter: value})]


def make_rule(rule: str, given: Mapping[str, Any], setting: Setting) -> StoppingRule:
    """A stopping rule by name, whether it ends thoughts early or stands guard.

    Raises:
        InvalidBudget: No such rule or parameter, or a value that it does not take.
    """
    return (GUARDS if rule in GUARDS.kinds else RULES).make(rule, given, setting=setting)


def choose(rules: Sequence[str], parameters: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The rules to replay, each with the parameters meant for it.

    Args:
        rules: Names of stopping rules.
        parameters: ``name=value`` for every rule that takes it, or ``rule.name=value`` for one.

    Raises:
        InvalidBudget: There is no such rule, no rule takes a parameter, or a value is wrong.
    """
    chosen: dict[str, dict[str, Any]] = {name: {} for name in rules}
    for name in chosen:
        make_rule(name, {}, Setting())
    for text in parameters:
        path, equals, value = text.partition("=")
        owner, dot, key = path.rpartition(".")
        if not equals or not key:
            raise InvalidBudget(f"a parameter is NAME=VALUE, not {text!r}", param=path)
        takers = [name for name in chosen if (name == owner if dot else key in _kind(name).parameters)]
        if not takers:
            raise InvalidBudget(f"none of {', '.join(chosen)} takes {path!r}", param=path)
        for name in takers:
            chosen[name][key] = _value(value)
    for name, given in chosen.items():
        make_rule(name, given, Setting())
    return chosen


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _kind(rule: str) -> Kind[StoppingRule]:
    return (GUARDS.kinds if rule in GUARDS.kinds else RULES.kinds)[rule]


def measures(played: Sequence[Played], bootstrap: Bootstrap) -> dict[str, Interval | None]:
    """What a rule did, by the names that vote rules are measured by.

    Args:
        played: Every question of a file.
        bootstrap: Of as many questions.

    Returns:
        ``samples`` replayed a question; ``tokens_saved`` of the recorded tokens, probes and closing answers counted as
        spent; ``agreement`` with the answers of the recordings; ``accuracy`` where right answers are known;
        ``certified`` None, since no stopping rule certifies an answer.
    """
    runs = [float(len(one.outcomes)) for one in played]
    whole = [float(sum(outcome.full_tokens for outcome in one.outcomes)) for one in played]
    spent = [float(sum(outcome.tokens for outcome in one.outcomes)) for one in played]
    known = [count if one.question.gold is not None else 0.0 for one, count in zip(played, runs, strict=True)]
    right = [_count(one, one.question.gold) if one.question.gold is not None else 0.0 for one in played]
    agreed = [float(sum(outcome.answer == outcome.full_answer for outcome in one.outcomes)) for one in played]
    return {
        "samples": bootstrap.ratio(runs, [1.0] * len(played)),
        "tokens_saved": bootstrap.ratio([all_ - part for all_, part in zip(whole, spent, strict=True)], whole),
        "agreement": bootstrap.ratio(agreed, runs),
        "accuracy": bootstrap.ratio(right, known),
        "certified": None,
    }


def _count(played: Played, answer: str | None) -> float:
    return float(sum(outcome.answer == answer for outcome in played.outcomes))
