"""Another operator's file on recorded requests: what it would have spent, saved and changed, with intervals.

What must not be here: how one request is played, and how a result is printed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suffice.policies.errors import BadRecord, InvalidBudget
from suffice.policies.other_policy import Undecidable, Verdict, as_it_was, play
from suffice.policies.recording import UNLOGGED, needs_of
from suffice.policies.records import build_rule, plan_from_record, specs_from_record
from suffice.policies.replay_log import planned_of, rules_of
from suffice.policies.stopping import Need
from suffice.policies.tape import tape_of
from suffice.server.gateway.planned import replan
from suffice.server.replay.bootstrap import Bootstrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from suffice.policies.plan import Plan
    from suffice.policies.records import RuleSpec
    from suffice.policies.tape import Tape
    from suffice.server.config import Config
    from suffice.server.gateway.planned import Replanned
    from suffice.server.replay.bootstrap import Interval
    from suffice.server.replay.log_files import LoggedRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A log under another policy.

    Attributes:
        before: What came of each request that can be decided.
        after: What would have come of it.
        undecidable: Why others cannot, with how many of them.
    """

    before: Sequence[Verdict]
    after: Sequence[Verdict]
    undecidable: Counter[str]

    @property
    def requests(self) -> int:
        """All requests of the log."""
        return len(self.before) + self.undecidable.total()

    def measures(self, seed: int) -> dict[str, Interval | None]:
        """Means over the requests that can be decided, with intervals; None where there is nothing to tell.

        ``tokens`` and ``latency`` (seconds) a request, ``tokens_saved`` of what was generated, ``answers_changed`` of
        the requests whose answers can be compared.
        """
        ones = [1.0] * len(self.before)
        bootstrap = Bootstrap(len(ones) or 1, seed)
        was = [float(verdict.tokens) for verdict in self.before]
        is_ = [float(verdict.tokens) for verdict in self.after]
        known = [float(verdict.changed is not None) for verdict in self.after]
        return {
            "tokens": bootstrap.ratio(is_, ones),
            "tokens_saved": bootstrap.ratio([old - new for old, new in zip(was, is_, strict=True)], was),
            "latency": bootstrap.ratio([verdict.latency for verdict in self.after], ones),
            "answers_changed": bootstrap.ratio([float(verdict.changed or 0) for verdict in self.after], known),
        }

    def to_json(self, seed: int) -> dict[str, Any]:
        """Everything as JSON-ready values, beside what ran."""
        ones = [1.0] * len(self.before)
        bootstrap = Bootstrap(len(ones) or 1, seed)
        tokens = bootstrap.ratio([float(verdict.tokens) for verdict in self.before], ones)
        latency = bootstrap.ratio([verdict.latency for verdict in self.before], ones)
        ran = {"tokens": tokens, "latency": latency}
        return {
            "requests": self.requests,
            "undecidable": self.undecidable.total(),
            **{name: None if value is None else value.to_json() for name, value in self.measures(seed).items()},
            "answers_unknown": sum(verdict.changed is None for verdict in self.after),
            "ran": {name: None if value is None else value.to_json() for name, value in ran.items()},
            "undecidable_because": dict(self.undecidable.most_common()),
        }


def compare(requests: Sequence[LoggedRequest], config: Config) -> Compared:
    """Play every request of a log to another policy."""
    before, after = [], []
    undecidable: Counter[str] = Counter()
    for request in requests:
        try:
            tape = tape_of(request.records)
            verdict = _verdict(tape, config)
        except BadRecord:
            undecidable["its records are not whole"] += 1
        except InvalidBudget:
            undecidable["the policy would have refused it"] += 1
        except Undecidable as error:
            undecidable[str(error)] += 1
        else:
            before.append(as_it_was(tape))
            after.append(verdict)
    return Compared(before=before, after=after, undecidable=undecidable)


def _verdict(tape: Tape, config: Config) -> Verdict:
    planned = planned_of([tape.planned])
    plan = plan_from_record(planned["plan"])
    specs = specs_from_record(planned.get("rules", ()))
    other = replan(config, planned)
    if (other.plan, other.specs, other.in_engine) == (plan, specs, planned.get("in_engine", [])) and other.alike:
        # The same machine on the same events.
        return as_it_was(tape)
    _check(planned, plan, specs, other)
    return play(tape, other.plan, rules_of(other.specs, other.plan))


_LEARNING = frozenset({"length", "bayesian"})
"""Rules that stand on what earlier requests taught, of which a record holds what they were told and no more."""


def _check(planned: Any, plan: Plan, specs: tuple[RuleSpec, ...], other: Replanned) -> None:
    """Refuse what no play of the tape could tell.

    Raises:
        Undecidable: With the reason.
    """
    if other.in_engine != planned.get("in_engine", []):
        raise Undecidable("a rule inside the engine would have been another")
    if not other.alike and (other.plan.votes or other.plan.probe_tokens):
        raise Undecidable("answers would have been read in another way")
    if other.plan.prompts > 1 and other.plan.samples != plan.samples:
        raise Undecidable("samples would have belonged to other prompts")
    ran = {(spec.rule, str(sorted(spec.parameters.items()))) for spec in specs}
    same_cap = other.plan.thinking_tokens == plan.thinking_tokens
    for spec in other.specs:
        needs = needs_of(build_rule(spec, other.plan))
        held = (spec.rule, str(sorted(spec.parameters.items()))) in ran
        if needs & UNLOGGED and not (held and same_cap):
            raise Undecidable(f"{spec.rule} lives on what no log holds")
        if spec.rule in _LEARNING and not held:
            raise Undecidable(f"what {spec.rule} had learned was not recorded")
        if Need.TOP_LOGPROBS in needs and not any(spec.rule == one.rule for one in specs):
            raise Undecidable(f"what {spec.rule} lives on was not recorded")
