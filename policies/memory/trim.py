"""Which turns of a long conversation to keep, shorten or drop.

The system prompt, the first turns, the last user turn and the recent turns stay. Old tool output is shortened first,
then old tool calls go together with their results, then old exchanges, and only then recent tool output is shortened.
A call is never parted from its result.

A cut is made in steps: nothing happens until the conversation passes ``most`` tokens, then it is cut down to
``least``. Between two steps every request repeats the previous one's text and adds to it, so that the engine's prefix
cache keeps hitting. The cut depends on the turns alone: it is worked out by replaying the conversation turn by turn,
so the next turn, or another gateway, finds the same cut. What must not be here: texts, tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from suffice.policies.errors import InvalidBudget

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message, without its text.

    Attributes:
        role: ``system``, ``developer``, ``user``, ``assistant`` or ``tool``.
        tokens: Its length.
        calls: Ids of the tool calls that it makes.
        answers: Id of the tool call that it is the result of; None for any other turn.
        pinned: Whether it must stay as it is.
    """

    role: str
    tokens: int
    calls: tuple[str, ...] = ()
    answers: str | None = None
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimRule:
    """When and how far to cut.

    Attributes:
        most: Tokens beyond which a conversation is cut.
        least: Tokens that it is cut down to.
        first: Turns after the system prompt that always stay.
        recent: Turns at the end that stay whole as long as anything else can go.
        result_tokens: Length that a shortened tool result keeps.
    """

    most: int
    least: int
    first: int = 2
    recent: int = 6
    result_tokens: int = 128

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most or min(self.first, self.recent, self.result_tokens) < 0:
            raise InvalidBudget("a trim rule needs 0 <= least <= most and no negative counts", param="kv.trim")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One turn that stays.

    Attributes:
        index: Its place in the conversation as it came.
        tokens: Its length now; below the turn's own where it is to be shortened.
    """

    index: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trimmed:
    """What becomes of a conversation.

    Attributes:
        kept: The turns that stay, in order.
        dropped: Places of the turns that go.
        shortened: Places of the turns that stay and are shortened.
        tokens_before: Length as it came.
        tokens: Length now.
        steps: Cuts made since the conversation began.
        stable_tokens: Tokens at the start that no cut has touched.
        fits: Whether the length is within the rule's ``most``.
    """

    kept: tuple[Kept, ...]
    dropped: tuple[int, ...]
    shortened: tuple[int, ...]
    tokens_before: int
    tokens: int
    steps: int
    stable_tokens: int
    fits: bool


def trim(turns: Sequence[Turn], rule: TrimRule) -> Trimmed:
    """Decide what stays. Pure, deterministic and idempotent: trimming what stays changes nothing.

    Args:
        turns: The conversation, oldest first.
        rule: When and how far to cut.
    """
    cut = _Cut(rule)
    for turn in turns:
        cut.append(turn)
    return cut.result()


@dataclass(slots=True)
class _Cut:
    """The replay: turns as they came, what is left of each, and what of it could still be cut.

    What is cut for good leaves the lists of candidates, so that a conversation too long to fit, which is cut at every
    turn, costs no more with each turn.
    """

    rule: TrimRule
    turns: list[Turn] = field(default_factory=list)
    left: list[int | None] = field(default_factory=list)
    """Tokens left of each turn; None where it is dropped."""
    unit: list[int] = field(default_factory=list)
    """Tool call that each turn belongs to, by the place of the calling turn; -1 for none."""
    results: list[int] = field(default_factory=list)
    """Tool results that could be shortened."""
    units: dict[int, list[int]] = field(default_factory=dict)
    """Tool calls that could be dropped: the calling turn and the results."""
    exchanges: dict[int, list[int]] = field(default_factory=dict)
    """Exchanges that could be dropped, by number: a user's turn and what follows it."""
    caller: dict[str, int] = field(default_factory=dict)
    open: dict[int, set[str]] = field(default_factory=dict)
    """Calls without a result yet, by the place of the calling turn."""
    fixed: set[int] = field(default_factory=set)
    """Turns that stay for good."""
    user: int = -1
    """The last user's turn."""
    exchange: int = 0
    leading: int = 0
    """Turns of the system prompt at the start."""
    total: int = 0
    steps: int = 0

    def append(self, turn: Turn) -> None:
        place = len(self.turns)
        self.turns.append(turn)
        self.left.append(turn.tokens)
        self.total += turn.tokens
        if turn.role == "user":
            self.user = place
            self.exchange += 1
        if turn.role in _INSTRUCTIONS and self.leading == place:
            self.leading += 1
        if turn.pinned or turn.role in _INSTRUCTIONS or place < self.leading + self.rule.first:
            self.fixed.add(place)
        self._join(place, turn)
        self.exchanges.setdefault(self.exchange, []).append(place)
        if self.total > self.rule.most:
            self._step()

    def _join(self, place: int, turn: Turn) -> None:
        """Tie a call and its results together."""
        unit = -1
        if turn.calls:
            unit = place
            self.caller.update(dict.fromkeys(turn.calls, place))
            self.open[place] = set(turn.calls)
        elif turn.answers is not None and turn.answers in self.caller:
            unit = self.caller[turn.answers]
            waiting = self.open.get(unit, set())
            waiting.discard(turn.answers)
            if not waiting:
                self.open.pop(unit, None)
        self.unit.append(unit)
        if unit >= 0:
            self.units.setdefault(unit, []).append(place)
        if turn.answers is not None and not turn.pinned:
            self.results.append(place)

    def _step(self) -> None:
        """Cut down to ``least``, as far as there is anything to cut."""
        changed = False
        for places, shorten in self._candidates():
            if self.total <= self.rule.least:
                break
            for place in places:
                changed |= self._cut(place, shorten=shorten)
        self.steps += changed
        left = self.left
        self.results = [place for place in self.results if (left[place] or 0) > self.rule.result_tokens]
        self.units = {unit: places for unit, places in self.units.items() if left[unit] is not None}
        # Of those that are over, one that holds a turn which stays for good can never go.
        self.exchanges = {
            number: places
            for number, places in self.exchanges.items()
            if any(left[place] is not None for place in places)
            and (number == self.exchange or self.fixed.isdisjoint(places))
        }

    def _candidates(self) -> Iterator[tuple[list[int], bool]]:
        """What may be cut, in order: places that go together, and whether they are shortened or dropped."""
        stay, whole = self._protected()

        def kept(place: int) -> bool:
            return place in stay or self.unit[place] in whole

        old = [place for place in self.results if not kept(place)]
        yield from (([place], True) for place in old)
        yield from ((places, False) for unit, places in self.units.items() if unit not in whole)
        yield from ((places, False) for places in self.exchanges.values() if not any(map(kept, places)))
        yield from (([place], True) for place in self.results if kept(place))

    def _protected(self) -> tuple[set[int], set[int]]:
        """Turns that are not dropped, and the tool calls that they belong to, which stay with them."""
        size = len(self.turns)
        stay = set(range(max(size - self.rule.recent, self.leading), size))
        stay |= self.fixed
        stay.update(self.open)
        if self.user >= 0:
            stay.add(self.user)
        return stay, {self.unit[place] for place in stay} - {-1}

    def _cut(self, place: int, *, shorten: bool) -> bool:
        """Shorten or drop a turn; tells whether that changed anything."""
        left = self.left[place]
        now = min(left, self.rule.result_tokens) if shorten and left is not None else None
        if left is None or left == now:
            return False
        self.total -= left - (now or 0)
        self.left[place] = now
        return True

    def result(self) -> Trimmed:
        kept = tuple(Kept(index=place, tokens=left) for place, left in enumerate(self.left) if left is not None)
        touched = [place for place, turn in enumerate(self.turns) if self.left[place] != turn.tokens]
        whole = self.turns[: touched[0]] if touched else self.turns
        return Trimmed(
            kept=kept,
            dropped=tuple(place for place, left in enumerate(self.left) if left is None),
            shortened=tuple(place for place in touched if self.left[place] is not None),
            tokens_before=sum(turn.tokens for turn in self.turns),
            tokens=self.total,
            steps=self.steps,
            stable_tokens=sum(turn.tokens for turn in whole),
            fits=self.total <= self.rule.most,
        )


_INSTRUCTIONS = frozenset({"system", "developer"})
