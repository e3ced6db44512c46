"""Runaways: a thought or an answer far longer than the route's others ends long before the cap."""

from __future__ import annotations

from suffice.policies.decisions import CONTINUE, CloseThought, Finish, RuleDecision, StopSample
from suffice.policies.events import Chunk, Event, Phase
from suffice.policies.rules import Kind, Parameter
from suffice.policies.stopping.family import Need, Setting, StoppingRule


class Length:
    """Closes a thought, and ends an answer, that is longer than all but a share ``alpha`` of the past ones.

    The lengths are read once, when the rule is made. Where the past is too short for the promise the rule stays
    silent. Use ``at`` where the lengths are known already, as in the engine.
    """

    name = "length"
    listens: frozenset[type[Event]] = frozenset({Chunk})
    needs: frozenset[Need] = frozenset()

    def __init__(self, *, alpha: float, setting: Setting) -> None:
        lengths = setting.lengths
        self.thought_tokens = None if lengths is None else lengths.thoughts.upper(alpha)
        """The longest thought let be; None where any is."""
        self.answer_tokens = None if lengths is None else lengths.answers.upper(alpha)
        """The longest answer let be; None where any is."""
        self._thoughts: dict[int, int] = {}
        self._answers: dict[int, int] = {}

    @classmethod
    def at(cls, thought_tokens: int | None, answer_tokens: int | None) -> Length:
        """The rule with its two lengths given."""
        rule = cls(alpha=0.0, setting=Setting())
        rule.thought_tokens, rule.answer_tokens = thought_tokens, answer_tokens
        return rule

    def observe(self, event: Event, /) -> RuleDecision:
        """Count a chunk. O(1)."""
        if not isinstance(event, Chunk):
            return CONTINUE
        thinking = event.phase is Phase.THINKING
        counts, most = (self._thoughts, self.thought_tokens) if thinking else (self._answers, self.answer_tokens)
        length = counts[event.sample] = counts.get(event.sample, 0) + event.tokens
        if most is None or length <= most:
            return CONTINUE
        if thinking:
            return CloseThought(sample=event.sample, rule=self.name)
        return StopSample(sample=event.sample, rule=self.name, finish=Finish.LENGTH)


KIND: Kind[StoppingRule] = Kind(
    name="length",
    make=Length,
    parameters={
        "alpha": Parameter(default=0.01, least=1e-6, most=0.5, what="share of natural lengths that may be cut"),
    },
    what="ends what is longer than nearly all of the route's past thoughts or answers",
    guarantee="a thought or an answer that would have ended by itself is cut with probability at most alpha each, "
    "as long as the traffic is exchangeable with the past",
)
