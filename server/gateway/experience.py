"""What past requests taught, kept over restarts: lengths, how votes fall, and whether rules still keep their promise.

All of it is counts; no text, and nothing of a single request. It is bounded: what was used longest ago is forgotten.
What must not be here: what is learned from a request (``hindsight``), and decisions.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from suffice.policies.allocation.lengths import LengthBook, unknown_lengths
from suffice.policies.calibration import DriftAlarm
from suffice.policies.sampling import Learner, Prior
from suffice.policies.stopping.lengths import RouteLengths

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from suffice.policies.stopping.lengths import LengthQuantiles

_LOG = logging.getLogger(__name__)

FILE = "experience.json"
MOST_ROUTES = 256
"""Routes (key, API and model) whose lengths are kept."""
MOST_VOTES = 64
"""Models and kinds of answers whose votes are kept."""
SAVE_EVERY_S = 60.0
_VERSION = 1

T = TypeVar("T")


class Experience:
    """The memory of one gateway.

    Args:
        folder: Where it is kept; None keeps it nowhere.
        audit_risk: Share of answers that a rule may change.

    Attributes:
        answers: How long whole samples were, by key, route and model.
    """

    def __init__(self, folder: Path | None, *, audit_risk: float) -> None:
        self._file = None if folder is None else folder / FILE
        self._risk = audit_risk
        self._lengths: OrderedDict[str, RouteLengths] = OrderedDict()
        self._votes: OrderedDict[str, Learner] = OrderedDict()
        self._priors: dict[str, Prior] = {}
        self._alarms: dict[str, DriftAlarm] = {}
        self.answers = LengthBook(prior=unknown_lengths())
        self._changed = False
        self._restore()

    def lengths(self, key: str, api: str, model: str) -> RouteLengths:
        """Lengths of a route; the same object as long as the route is in use."""
        return _of(self._lengths, _name(key, api, model), RouteLengths, MOST_ROUTES)

    def prior(self, model: str, kind: str) -> Prior | None:
        """What votes of a model on a kind of answers taught; None before anything was learned."""
        return self._priors.get(_name(model, kind))

    def learn_vote(self, model: str, kind: str, counts: tuple[int, ...], unanswered: int) -> None:
        """Take in a full vote; it shows in ``prior`` after the next ``refit``."""
        _of(self._votes, _name(model, kind), Learner, MOST_VOTES).learn(counts, unanswered)
        self._changed = True

    def learn_length(self, lengths: LengthQuantiles, tokens: int, *, ended: bool) -> None:
        """Take in how long a thought or an answer was, and whether it ended by itself."""
        lengths.add(tokens, ended=ended)
        self._changed = True

    def alarm(self, rule: str) -> DriftAlarm:
        """The alarm that watches a rule; it begins anew where the operator has changed what the rule may cost."""
        alarm = self._alarms.get(rule)
        if alarm is None or alarm.limit != self._risk:
            alarm = self._alarms[rule] = DriftAlarm(limit=self._risk)
        return alarm

    def alarms(self) -> dict[str, DriftAlarm]:
        """The alarms of all rules that were ever audited."""
        return {rule: self.alarm(rule) for rule in tuple(self._alarms)}

    def audited(self, rule: str, loss: float) -> DriftAlarm:
        """Take in what an audit of a rule found, from 0 (nothing lost) to 1."""
        alarm = self.alarm(rule)
        alarm.audited(loss)
        self._changed = True
        return alarm

    async def watch(self) -> None:
        """Learn priors anew and save, from time to time. Runs until cancelled."""
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            if self._changed:
                await self.refit()
                await asyncio.to_thread(self._write, self._to_json())

    async def refit(self) -> None:
        """Fit the priors whose votes have grown; the work is done in a thread."""
        for name, learner in tuple(self._votes.items()):
            held = self._priors.get(name)
            if held is None or held.learned != learner.learned:
                self._priors[name] = await asyncio.to_thread(Learner.from_json(learner.to_json()).fit)
        for name in self._priors.keys() - self._votes.keys():
            del self._priors[name]

    def save(self) -> None:
        """Write what has changed since the last time."""
        if self._changed:
            self._write(self._to_json())

    def _to_json(self) -> dict[str, Any]:
        self._changed = False
        return {
            "version": _VERSION,
            "lengths": {name: lengths.to_json() for name, lengths in self._lengths.items()},
            "votes": {name: learner.to_json() for name, learner in self._votes.items()},
            "priors": {name: prior.to_json() for name, prior in self._priors.items()},
            "alarms": {name: alarm.to_json() for name, alarm in self._alarms.items()},
            "answers": self.answers.to_json(),
        }

    def _write(self, state: dict[str, Any]) -> None:
        if self._file is None:
            return
        draft = self._file.with_suffix(".new")
        try:
            draft.write_bytes(orjson.dumps(state))
            os.replace(draft, self._file)  # noqa: PTH105 - the file is whole at every moment
        except OSError as error:
            _LOG.warning("what was learned could not be saved: %s", error.strerror)

    def _restore(self) -> None:
        """Take up what was saved; a file that cannot be read is left aside, since it can be learned again."""
        if self._file is None or not self._file.exists():
            return
        try:
            state = orjson.loads(self._file.read_bytes())
            lengths = {name: RouteLengths.from_json(held) for name, held in state["lengths"].items()}
            votes = {name: Learner.from_json(held) for name, held in state["votes"].items()}
            priors = {name: Prior.from_json(held) for name, held in state["priors"].items()}
            alarms = {name: DriftAlarm.from_json(held) for name, held in state["alarms"].items()}
            answers = LengthBook(prior=unknown_lengths())
            answers.load_json(state.get("answers", {"books": []}))
            known = state["version"] == _VERSION
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            known = False
        if not known:
            _LOG.warning("what was learned before cannot be read and is learned anew")
            return
        self._lengths.update(lengths)
        self._votes.update(votes)
        self._priors.update(priors)
        self._alarms.update(alarms)
        self.answers = answers


def _name(*parts: str) -> str:
    return "\x1f".join(parts)


def _of(held: OrderedDict[str, T], name: str, make: Callable[[], T], most: int) -> T:
    """The value of a name, new where there is none; the one not used for longest makes room."""
    value = held.get(name)
    if value is None:
        value = held[name] = make()
        if len(held) > most:
            held.popitem(last=False)
    else:
        held.move_to_end(name)
    return value
