"""One token budget over many questions: each next sample goes where it is most likely to change an answer.

A question's index is the odds that its leader is not the true majority, over the votes it takes to turn it, over the
tokens of a sample: ``P(flip) / ((lead + 1) * tokens)``. Every question gets its first samples, then the greatest
index is drawn, until the budget is spent or nothing is worth drawing. Where gains diminish, which they do here save
for a vote that breaks a lead, greedy is optimal (Snell et al. report more than four times less compute at equal
accuracy).

The same object serves a live batch with several samples under way, the replay of a recorded batch, and questions that
arrive over time, where a price a token (``TokenPrice``) takes the place of the batch's end. What must not be here:
I/O, texts, randomness.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from suffice.policies.allocation.flip import vote_gain
from suffice.policies.errors import IllegalEvent, InvalidBudget
from suffice.policies.sampling.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRule:
    """How a batch is drawn.

    Attributes:
        least: Samples that every question gets first, as far as the budget reaches.
        most: Samples that a question gets at most.
        expected_tokens: Length of a sample before any was seen.
        least_tokens: Tokens without which a sample could not even answer; with fewer left nothing is drawn.
    """

    least: int = 2
    most: int = 40
    expected_tokens: float = 256.0
    least_tokens: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most or self.expected_tokens <= 0 or self.least_tokens < 1:
            raise InvalidBudget("a batch needs 1 <= least <= most and a positive expected length", param="sampling")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One sample to draw.

    Attributes:
        question: Whose.
        sample: Its place in the question's launch order.
        tokens: The most it may generate: what the budget has left for it.
    """

    question: str
    sample: int
    tokens: int


@dataclass(slots=True)
class _Question:
    order: int
    tally: Tally = field(default_factory=Tally)
    launched: int = 0
    """Samples that are over or under way."""
    numbered: int = 0
    lost: list[int] = field(default_factory=list)
    """A heap: numbers of samples that broke off, or were under way when the machine was stored."""
    tokens: int = 0
    reserved: dict[int, int] = field(default_factory=dict)
    """Tokens set aside for each sample under way."""
    votes: dict[int, tuple[int | None, int]] = field(default_factory=dict)
    """Answer and tokens of each sample that is over, in the order in which they ended."""
    version: int = 0
    closed: bool = False
    held: bool = False


class BatchAllocation:
    """The machine of one batch.

    Args:
        rule: How it is drawn.
        total_tokens: Tokens that all samples of all questions may take; None where only a price limits them.
        sample_tokens: Tokens that one sample may take.
    """

    __slots__ = (
        "_heap",
        "_lost",
        "_questions",
        "_reserved",
        "_rule",
        "_sample_tokens",
        "_seen",
        "_spent",
        "_total",
        "_under_way",
    )

    def __init__(
        self, rule: BatchRule | None = None, *, total_tokens: int | None, sample_tokens: int = 1 << 20
    ) -> None:
        self._rule = rule or BatchRule()
        self._total = total_tokens
        self._sample_tokens = sample_tokens
        self._questions: dict[str, _Question] = {}
        self._heap: list[tuple[float, int, str, int]] = []
        self._spent = 0
        self._lost = 0
        self._reserved = 0
        self._seen = 0
        self._under_way = 0

    @property
    def spent(self) -> int:
        """Tokens that samples took, those that broke off included."""
        return self._spent

    @property
    def lost_tokens(self) -> int:
        """The part of them that brought no vote because its sample broke off."""
        return self._lost

    @property
    def left(self) -> int | None:
        """Tokens that are neither spent nor set aside; None without a total."""
        return None if self._total is None else self._total - self._spent - self._reserved

    @property
    def under_way(self) -> int:
        """Samples under way."""
        return self._under_way

    def add(self, question: str) -> None:
        """A question joins, at any time.

        Raises:
            IllegalEvent: It is there already.
        """
        if question in self._questions:
            raise IllegalEvent("a question of this name is in the batch")
        added = self._questions[question] = _Question(order=len(self._questions))
        self._list(question, added)

    def close(self, question: str) -> None:
        """No more samples of a question: its client left or has what it needs. Idempotent."""
        found = self._questions.get(question)
        if found is not None:
            found.closed = True
            found.version += 1

    def hold(self, question: str, *, held: bool) -> None:
        """Draw no samples of a question for now, or again; what is under way goes on. Idempotent."""
        found = self._questions[question]
        if found.held is not held:
            found.held = held
            self._list(question, found)

    def next(self, count: int = 1, *, least_index: float = 0.0) -> tuple[Draw, ...]:
        """The samples to draw now, the most valuable first.

        Each sets tokens aside, ``sample_tokens`` or its part of what is left, so that the total holds whatever it
        generates. Where that is not enough for nearly every sample, what is under way is waited for, since it gives
        back what it does not use; a sample alone may take all that is left.

        Args:
            count: How many may be launched.
            least_index: Gain a token that a sample must bring, beyond a question's first ones; the price of a token.
        """
        draws: list[Draw] = []
        while len(draws) < count:
            tokens = self._allowance(count - len(draws))
            name = self._best(least_index) if tokens else None
            if name is None:
                break
            question = self._questions[name]
            draws.append(Draw(question=name, sample=self._launch(name, question, tokens), tokens=tokens))
        return tuple(draws)

    def _allowance(self, sharing: int) -> int:
        """Tokens for the next sample where so many share what is left; 0 where none can be drawn now."""
        left = self.left
        if left is None:
            return self._sample_tokens
        enough = min(self._sample_tokens, max(math.ceil(_ROOM * self._mean), self._rule.least_tokens))
        tokens = min(self._sample_tokens, left, max(left // sharing, enough))
        if tokens < (enough if self._under_way else min(self._rule.least_tokens, self._sample_tokens)):
            return 0
        return tokens

    def launch(self, question: str) -> int:
        """Draw one more sample of this very question, whatever its index; for callers that go question by question.

        Returns:
            Its place in launch order.

        Raises:
            IllegalEvent: The question has all its samples, or the budget has nothing left. Nothing is changed.
        """
        found = self._questions.get(question)
        left = self._sample_tokens if self.left is None else min(self.left, self._sample_tokens)
        if found is None or found.closed or found.launched >= self._rule.most or left <= 0:
            raise IllegalEvent("no more samples of this question can be drawn")
        return self._launch(question, found, left)

    def _launch(self, name: str, question: _Question, tokens: int) -> int:
        if question.lost:
            sample = heapq.heappop(question.lost)
        else:
            sample = question.numbered
            question.numbered += 1
        question.launched += 1
        question.reserved[sample] = tokens
        self._reserved += tokens
        self._under_way += 1
        self._list(name, question)
        return sample

    def observe(self, question: str, sample: int, answer: int | None, tokens: int) -> None:
        """A sample is over.

        Args:
            question: Whose it was.
            sample: Its place in launch order.
            answer: The answer's class within the question; None where there is none, say because it was cut.
            tokens: Tokens that it took.

        Raises:
            IllegalEvent: It was not under way, or took more than was set aside. Nothing is changed.
        """
        found = self._end(question, sample, tokens)
        self._count(found, sample, answer, tokens)
        self._list(question, found)

    def lose(self, question: str, sample: int, tokens: int) -> None:
        """A sample broke off: its tokens are spent, it is no vote, and its number is given out again.

        Raises:
            IllegalEvent: As for ``observe``.
        """
        found = self._end(question, sample, tokens)
        self._spent += tokens
        self._lost += tokens
        found.launched -= 1
        heapq.heappush(found.lost, sample)
        self._list(question, found)

    def _end(self, name: str, sample: int, tokens: int) -> _Question:
        """A sample is no longer under way."""
        found = self._questions.get(name)
        reserved = None if found is None else found.reserved.get(sample)
        if found is None or reserved is None or not 0 <= tokens <= reserved:
            raise IllegalEvent("a sample ended that was not under way, or beyond its tokens")
        del found.reserved[sample]
        self._reserved -= reserved
        self._under_way -= 1
        return found

    def _count(self, found: _Question, sample: int, answer: int | None, tokens: int) -> None:
        self._spent += tokens
        self._seen += 1
        found.tokens += tokens
        found.votes[sample] = (answer, tokens)
        found.tally.vote(sample, answer)

    def restore(self, question: str, sample: int, answer: int | None, tokens: int) -> None:
        """Take in a vote that an earlier run counted. Restored in their order, votes leave the machine as it stood.

        Numbers below it that are not restored are given out before new ones.

        Raises:
            IllegalEvent: No such question, a sample that is known already, or more tokens than are left. Nothing is
                changed.
        """
        found = self._questions.get(question)
        if found is None or sample < 0 or sample in found.votes or sample in found.reserved:
            raise IllegalEvent("a vote of no question, or of a sample that is known")
        if tokens < 0 or (self.left is not None and tokens > self.left):
            raise IllegalEvent("a vote took more tokens than are left")
        if sample < found.numbered:
            found.lost.remove(sample)
            heapq.heapify(found.lost)
        for number in range(found.numbered, sample):
            heapq.heappush(found.lost, number)
        found.numbered = max(found.numbered, sample + 1)
        found.launched += 1
        self._count(found, sample, answer, tokens)
        self._list(question, found)

    def write_off(self, tokens: int) -> None:
        """Count tokens as spent that samples took which an earlier run lost.

        Raises:
            IllegalEvent: They are more than are left. Nothing is changed.
        """
        if tokens < 0 or (self.left is not None and tokens > self.left):
            raise IllegalEvent("more tokens were lost than are left")
        self._spent += tokens
        self._lost += tokens

    def index(self, question: str) -> float:
        """Gain a token that one more sample of a question is expected to bring; infinite while it lacks its first."""
        return self._index(self._questions[question])

    def winner(self, question: str) -> int | None:
        """The answer that leads; None before the first."""
        return self._questions[question].tally.leader

    def winning_sample(self, question: str) -> int | None:
        """The first sample that gave the answer that leads."""
        return self._questions[question].tally.winner

    def drawn(self, question: str) -> int:
        """Samples of a question that are over."""
        return self._questions[question].tally.drawn

    def tally(self, question: str) -> Tally:
        """The votes of a question; to be read only."""
        return self._questions[question].tally

    def tokens(self, question: str) -> int:
        """Tokens that the votes of a question took."""
        return self._questions[question].tokens

    def over(self, question: str) -> bool:
        """Whether nothing of a question is under way and nothing more will be drawn."""
        found = self._questions[question]
        return not found.reserved and (found.closed or found.launched >= self._rule.most)

    def state(self) -> dict[str, Any]:
        """Everything that was seen, as JSON-ready values; samples under way are not in it, and can be drawn anew."""
        return {
            "total_tokens": self._total,
            "sample_tokens": self._sample_tokens,
            "lost_tokens": self._lost,
            "rule": {name: getattr(self._rule, name) for name in ("least", "most", "expected_tokens", "least_tokens")},
            "questions": {
                name: {
                    "closed": question.closed,
                    "votes": [[sample, answer, tokens] for sample, (answer, tokens) in question.votes.items()],
                }
                for name, question in self._questions.items()
            },
        }

    @classmethod
    def resume(cls, state: Mapping[str, Any]) -> BatchAllocation:
        """The machine as it stood, from what ``state`` gave. Lost samples' numbers are given out first."""
        machine = cls(
            BatchRule(**state["rule"]), total_tokens=state["total_tokens"], sample_tokens=state["sample_tokens"]
        )
        for name, stored in state["questions"].items():
            machine.add(name)
            for sample, answer, tokens in stored["votes"]:
                machine.restore(name, sample, answer, tokens)
            if stored["closed"]:
                machine.close(name)
        machine.write_off(state["lost_tokens"])
        return machine

    @property
    def _mean(self) -> float:
        """Mean length of a sample, in tokens."""
        return (self._spent - self._lost) / self._seen if self._seen else self._rule.expected_tokens

    def _best(self, least_index: float) -> str | None:
        """The open question of the greatest index, if that is worth the price."""
        while self._heap:
            negative, _, name, version = self._heap[0]
            if self._questions[name].version != version:
                heapq.heappop(self._heap)
                continue
            return name if -negative >= least_index else None
        return None

    def _list(self, name: str, question: _Question) -> None:
        """The question's index has changed."""
        question.version += 1
        if question.closed or question.held or question.launched >= self._rule.most:
            return
        # First samples go breadth first; at a tie the question that came first.
        order = question.order + (question.launched << 32 if question.launched < self._rule.least else 0)
        heapq.heappush(self._heap, (-self._index(question), order, name, question.version))
        if len(self._heap) > 4 * len(self._questions) + 64:
            self._heap = [entry for entry in self._heap if self._questions[entry[2]].version == entry[3]]
            heapq.heapify(self._heap)

    def _index(self, question: _Question) -> float:
        if question.launched < self._rule.least:
            return math.inf
        tally = question.tally
        seen = tally.drawn
        # The batch's mean counts as one sample of each question, so that one short sample does not rule.
        tokens = (question.tokens + self._mean) / (seen + 1)
        return vote_gain(tally.lead, tally.second, len(question.reserved)) / max(tokens, 1.0)


_ROOM = 4.0
"""Times the mean length that a sample is given at least beside others; few are longer, and one cut short is lost."""
