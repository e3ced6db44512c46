"""Replays vote rules on recorded questions under seeded permutations and adds up what came of it.

Every rule sees the same permutations of the same questions. What must not be here: files and output.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from suffice.policies.replay import full_vote, replay_votes
from suffice.policies.sampling import RULES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from suffice.policies.events import Priced
    from suffice.policies.sampling import Prior, VoteRule
    from suffice.server.replay.bootstrap import Bootstrap, Interval
    from suffice.server.replay.files import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A rule with the parameters to replay it with.

    Attributes:
        label: Its name in the output.
        rule: Its name among the rules.
        parameters: What differs from its defaults.
    """

    label: str
    rule: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def build(self, most: int, prior: Prior | None = None) -> VoteRule:
        """A fresh rule.

        Raises:
            InvalidBudget: There is no such rule or parameter, or a value out of range.
        """
        return RULES.make(self.rule, self.parameters, most=most, prior=prior)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shuffled:
    """One question with the orders in which it is replayed, and the full vote of each."""

    question: Question
    orders: tuple[tuple[int, ...], ...]
    full: tuple[str | None, ...]


@dataclass(slots=True)
class Totals:
    """What a rule did, as sums over the permutations of each question.

    Attributes:
        runs: Permutations.
        samples: Samples drawn.
        tokens: Tokens spent.
        tokens_all: Tokens of drawing all.
        agreed: Permutations in which the winner was that of the full vote.
        correct: Permutations in which the winner was right.
        known: Permutations in which the right answer is known.
        certified: Permutations that ended with a certificate.
        waves: Times that samples were launched.
        time: Time taken, in steps of one token.
    """

    runs: list[float] = field(default_factory=list)
    samples: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    tokens_all: list[float] = field(default_factory=list)
    agreed: list[float] = field(default_factory=list)
    correct: list[float] = field(default_factory=list)
    known: list[float] = field(default_factory=list)
    certified: list[float] = field(default_factory=list)
    waves: list[float] = field(default_factory=list)
    time: list[float] = field(default_factory=list)

    def measures(self, bootstrap: Bootstrap) -> dict[str, Interval | None]:
        """The measures by name, with intervals; accuracy is None where no right answer is known."""
        saved = [whole - part for part, whole in zip(self.tokens, self.tokens_all, strict=True)]
        return {
            "samples": bootstrap.ratio(self.samples, self.runs),
            "tokens_saved": bootstrap.ratio(saved, self.tokens_all),
            "agreement": bootstrap.ratio(self.agreed, self.runs),
            "accuracy": bootstrap.ratio(self.correct, self.known),
            "certified": bootstrap.ratio(self.certified, self.runs),
        }


def shuffle(questions: Sequence[Question], *, permutations: int, seed: int, most: int | None = None) -> list[Shuffled]:
    """Draw the permutations.

    Args:
        questions: The questions.
        permutations: How many of each; 0 replays the recorded order alone.
        seed: Seed; with the question's name it determines the permutations, whatever other questions there are.
        most: Samples drawn at most; without it all that were recorded.
    """
    shuffled = []
    for question in questions:
        everything = list(range(len(question.samples)))
        draws = len(everything) if most is None else min(most, len(everything))
        orders = [tuple(everything[:draws])]
        if permutations:
            chance = random.Random(f"{seed}/{question.id}")  # noqa: S311 - reproducible, not a secret
            orders = [tuple(chance.sample(everything, draws)) for _ in range(permutations)]
        full = tuple(full_vote(question.samples, order) for order in orders)
        shuffled.append(Shuffled(question=question, orders=tuple(orders), full=full))
    return shuffled


def run(
    shuffled: Sequence[Shuffled],
    chosen: Chosen,
    *,
    wave: int = 1,
    prior: Prior | None = None,
    priced: Priced | None = None,
) -> Totals:
    """Replay one rule on all permutations, at constant prices where some are given."""
    totals = Totals()
    for item in shuffled:
        samples, gold = item.question.samples, item.question.gold
        outcomes = [
            replay_votes(samples, partial(chosen.build, len(order), prior), order, wave=wave, priced=priced)
            for order in item.orders
        ]
        known = len(outcomes) if gold is not None else 0
        totals.runs.append(len(outcomes))
        totals.samples.append(sum(one.drawn for one in outcomes))
        totals.tokens.append(sum(one.tokens for one in outcomes))
        totals.tokens_all.append(sum(samples[index].tokens for order in item.orders for index in order))
        totals.agreed.append(sum(one.winner == full for one, full in zip(outcomes, item.full, strict=True)))
        totals.correct.append(sum(one.winner == gold for one in outcomes) if known else 0)
        totals.known.append(known)
        totals.certified.append(sum(one.certified for one in outcomes))
        totals.waves.append(sum(one.waves for one in outcomes))
        totals.time.append(sum(one.time for one in outcomes))
    return totals
