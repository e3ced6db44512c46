"""Replays one token budget over all questions of recorded votes, beside the same tokens spread evenly.

Each order of the questions' samples is replayed as one batch by the very allocation that serves live batches. Its
budget is what an even spread of so many samples a question takes in that order; a sample that the budget cuts short
is paid as far as it went and has no answer. What must not be here: files, output.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from suffice.policies.allocation.batch import BatchAllocation, BatchRule
from suffice.policies.allocation.token_price import TokenPrice
from suffice.policies.errors import InvalidBudget
from suffice.policies.sampling.tally import Tally
from suffice.server.replay.votes import Totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from suffice.policies.replay import RecordedSample
    from suffice.server.replay.bootstrap import Bootstrap, Interval
    from suffice.server.replay.votes import Shuffled


@dataclass(slots=True)
class _Recorded:
    """One question in one order, answered from the record."""

    name: str
    samples: Sequence[RecordedSample]
    order: Sequence[int]
    full: str | None
    gold: str | None
    classes: dict[str, int] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    tokens: int = 0

    def draw(self, place: int, most: int | None = None) -> tuple[int | None, int]:
        """The answer's class and the tokens of the sample at a place, cut off at ``most`` tokens."""
        sample = self.samples[self.order[place]]
        cut = most is not None and sample.tokens > most
        tokens = sample.tokens if most is None else min(sample.tokens, most)
        answer = None
        if sample.answer is not None and not cut:
            answer = self.classes.setdefault(sample.answer, len(self.classes))
        self.tally.vote(place, answer)
        self.tokens += tokens
        return answer, tokens

    @property
    def winner(self) -> str | None:
        place = self.tally.winner
        return None if place is None else self.samples[self.order[place]].answer

    @property
    def certified(self) -> bool:
        """Whether the samples that were not drawn could not have changed the winner."""
        return self.tally.lead - self.tally.second > len(self.order) - self.tally.drawn


def replay_allocation(
    shuffled: Sequence[Shuffled], *, average_samples: float, bootstrap: Bootstrap, least: int = 2
) -> tuple[dict[str, Interval | None], dict[str, Interval | None]]:
    """The measures of the allocation and of the even spread, at equal tokens.

    Args:
        shuffled: The questions with their orders; all have equally many orders.
        average_samples: Samples a question that the even spread takes, and whose tokens are the budget.
        bootstrap: The resamples of questions that the intervals rest on.
        least: Samples that every question gets first.

    Returns:
        Both as ``Totals.measures`` gives them: first the allocation's, then the even spread's.

    Raises:
        InvalidBudget: The average is not positive or beyond what was recorded.
    """
    adaptive, uniform = allocate(shuffled, average_samples=average_samples, least=least)
    return adaptive.measures(bootstrap), uniform.measures(bootstrap)


def allocate(shuffled: Sequence[Shuffled], *, average_samples: float, least: int = 2) -> tuple[Totals, Totals]:
    """The totals by question of the allocation and of the even spread; see ``replay_allocation``."""
    most = min(len(order) for item in shuffled for order in item.orders)
    if not 0 < average_samples <= most:
        raise InvalidBudget(f"an average of {average_samples:g} samples is not within 0 and {most}", param="average")
    adaptive, uniform = _empty(len(shuffled)), _empty(len(shuffled))
    for which in range(len(shuffled[0].orders)):
        even = spread(_recorded(shuffled, which), average_samples)
        budget = sum(question.tokens for question in even)
        _add(uniform, even)
        _add(adaptive, _greedy(_recorded(shuffled, which), budget, least))
    return adaptive, uniform


def spread(questions: list[_Recorded], average: float) -> list[_Recorded]:
    """Draw equally many samples of each question; a broken number is met by one more for some of them."""
    for index, question in enumerate(questions):
        for place in range(int((index + 1) * average) - int(index * average)):
            question.draw(place)
    return questions


def _greedy(questions: list[_Recorded], budget: int, least: int) -> list[_Recorded]:
    batch = BatchAllocation(BatchRule(least=least, most=len(questions[0].order)), total_tokens=budget)
    by_name = {question.name: question for question in questions}
    for question in questions:
        batch.add(question.name)
    while draws := batch.next():
        for draw in draws:
            answer, tokens = by_name[draw.question].draw(draw.sample, draw.tokens)
            batch.observe(draw.question, draw.sample, answer, tokens)
    return questions


def arrivals(shuffled: Sequence[Shuffled], *, average_samples: float, concurrent: int = 16, least: int = 2) -> Totals:
    """The totals where questions arrive one by one and a price a token decides, at the same average of tokens.

    At any moment some questions are open, each drawing while its next sample is worth the price; a question that is
    not any more is over, and the next arrives. Only the past is known to the price.

    Args:
        shuffled: The questions with their orders, arriving in the order given.
        average_samples: Samples a question whose tokens are aimed at.
        concurrent: Questions that are open at a time.
        least: Samples that every question gets first.
    """
    totals = _empty(len(shuffled))
    for which in range(len(shuffled[0].orders)):
        questions = _recorded(shuffled, which)
        target = average_samples * sum(q.samples[q.order[0]].tokens for q in questions[:50]) / len(questions[:50])
        price = TokenPrice(target=target)
        rule = BatchRule(least=least, most=len(questions[0].order), expected_tokens=target / average_samples)
        batch = BatchAllocation(rule, total_tokens=None)
        waiting = list(reversed(questions))
        live: list[_Recorded] = []
        while waiting or live:
            while waiting and len(live) < concurrent:
                question = waiting.pop()
                batch.add(question.name)
                price.arrived()
                live.append(question)
            staying = []
            for question in live:
                if batch.drawn(question.name) >= rule.most or batch.index(question.name) < price.price:
                    batch.close(question.name)
                    continue
                place = batch.launch(question.name)
                answer, tokens = question.draw(place)
                batch.observe(question.name, place, answer, tokens)
                price.spent(tokens)
                staying.append(question)
            live = staying
        _add(totals, questions)
    return totals


def _recorded(shuffled: Sequence[Shuffled], which: int) -> list[_Recorded]:
    return [
        _Recorded(
            name=str(index),
            samples=item.question.samples,
            order=item.orders[which],
            full=item.full[which],
            gold=item.question.gold,
        )
        for index, item in enumerate(shuffled)
    ]


_SUMS = ("runs", "samples", "tokens", "tokens_all", "agreed", "correct", "known", "certified")


def _empty(questions: int) -> Totals:
    return Totals(**{name: [0.0] * questions for name in _SUMS})


def _add(totals: Totals, questions: list[_Recorded]) -> None:
    """Add what came of one order, question by question."""
    for index, question in enumerate(questions):
        totals.runs[index] += 1
        totals.samples[index] += question.tally.drawn
        totals.tokens[index] += question.tokens
        totals.tokens_all[index] += sum(question.samples[place].tokens for place in question.order)
        totals.agreed[index] += question.winner == question.full
        if question.gold is not None:
            totals.correct[index] += question.winner == question.gold
            totals.known[index] += 1
        totals.certified[index] += question.certified
