"""The task of the tiny reasoning model: chains of sums, thoughts about them, and who is right.

A question is a chain such as ``Start at 43. Add 8. Subtract 5. Double it. What do you get?`` whose values stay within
0 to 99. One question in twelve ends in a long multiplication, which the model cannot do: there it dithers, and
sometimes loops.

Thoughts hold deliberate slips, so that a model trained on them errs at random, as often as it was taught to.

Questions to train on and fresh ones are disjoint by construction: a hash of the chain itself (its start and its steps,
not its wording) puts each chain on one side, and both generators throw away what belongs to the other side.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from typing import Final, Literal

Split = Literal["train", "fresh"]

END: Final = "<|end|>"
FRESH_ONE_IN: Final = 10
"""One chain in so many is kept for evaluation."""
MAX_STEPS: Final = 14
MAX_CHECKS: Final = 5
HARD_SHARE: Final = 1 / 12
SLIP_SCALE: Final = 1.0
"""Scales all slip rates: the one knob for the model's accuracy."""
CHECK_SHARE: Final = 0.76
CHECK_AGAIN: Final = 0.6
MEND_FIRST: Final = 0.22
"""How often the first check mends a slip."""
MEND_LATER: Final = 0.02
STUCK_SHARE: Final = 0.03
"""How often a thought about a feasible chain gets stuck in a loop for a while."""

CONCLUSION: Final = re.compile(r"\b(?:[Ss]o|[Aa]gain) (\d+)(?=[. ])")
"""A conclusion within a thought; the group is its answer."""
LINE_VALUE: Final = re.compile(r"(?:is|=) (\d+)\.")
"""The result of one line of a thought."""
_ANSWER: Final = re.compile(r"The answer is (\d+)\.")

_WORDS: Final = {"add": "{v} plus {n} is {r}.", "sub": "{v} minus {n} is {r}.", "double": "{v} doubled is {r}.",
                 "swap": "{v} swapped is {r}."}  # fmt: skip
_SIGNS: Final = {"add": "{v} + {n} = {r}.", "sub": "{v} - {n} = {r}.", "double": "{v} * 2 = {r}.",
                 "swap": "{v} turned = {r}."}  # fmt: skip
_ASKED: Final = {"start": "Start at {n}.", "add": "Add {n}.", "sub": "Subtract {n}.", "double": "Double it.",
                 "swap": "Swap its digits.", "times": "Multiply by {n} and keep the last two digits."}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a chain: an operation, and its operand where it has one."""

    op: str
    n: int = 0

    def of(self, value: int) -> int:
        """What the step makes of a value; it wraps at 100, which right chains never need but in the last step."""
        match self.op:
            case "start":
                return self.n
            case "add":
                return (value + self.n) % 100
            case "sub":
                return (value - self.n) % 100
            case "double":
                return value * 2 % 100
            case "swap":
                return value % 10 * 10 + value // 10
            case _:
                return value * self.n % 100


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its answer; the first step is the start."""

    text: str
    answer: str
    steps: tuple[Step, ...]

    @property
    def hard(self) -> bool:
        """Whether it ends in a long multiplication."""
        return self.steps[-1].op == "times"

    @property
    def split(self) -> Split:
        """The side that the chain is on, by hash."""
        digest = hashlib.sha256(repr([(step.op, step.n) for step in self.steps]).encode()).digest()
        return "fresh" if digest[0] * 256 + digest[1] < 65536 // FRESH_ONE_IN else "train"


@dataclass(frozen=True, slots=True)
class _Line:
    step: Step
    before: int
    after: int


def question(rng: random.Random, split: Split = "fresh") -> Question:
    """One question of a split; most chains are short, few are long."""
    while True:
        made = _any_question(rng)
        if made.split == split:
            return made


def questions(seed: int, count: int, split: Split = "fresh") -> list[Question]:
    """Many questions; fresh ones share no chain with the training's."""
    rng = random.Random(f"{split} {seed}")
    return [question(rng, split) for _ in range(count)]


def _any_question(rng: random.Random) -> Question:
    hard = rng.random() < HARD_SHARE
    length = 2
    while length < MAX_STEPS and rng.random() < (0.5 if hard else 0.72):
        length += 1
    steps = [Step("start", rng.randint(1, 99))]
    value = steps[0].n
    while len(steps) < length + (not hard):
        step = Step(rng.choices(["add", "sub", "double", "swap"], [5, 5, 2, 1])[0], rng.randint(2, 30))
        if step.op in {"double", "swap"}:
            step = Step(step.op)
        if any(step.op == had.op and step.n == had.n for had in steps) or _leaves_range(value, step):
            continue
        steps.append(step)
        value = step.of(value)
    if hard:
        steps.append(Step("times", rng.randint(23, 89)))
        value = steps[-1].of(value)
    asked = rng.choice(["What do you get?", "What do you get?", "What is the result?"])
    return Question(" ".join([*(_ASKED[step.op].format(n=step.n) for step in steps), asked]), str(value), tuple(steps))


def _leaves_range(value: int, step: Step) -> bool:
    match step.op:
        case "add":
            return value + step.n > 99
        case "sub":
            return value < step.n
        case "double":
            return not 5 <= value <= 49
        case _:
            return value < 10


def _slip_rate(value: int, step: Step, index: int) -> float:
    match step.op:
        case "add":
            rate = 0.10 if value % 10 + step.n % 10 > 9 else 0.04
        case "sub":
            rate = 0.12 if value % 10 < step.n % 10 else 0.05
        case "double":
            rate = 0.60 if value % 10 == 7 else 0.08
        case _:
            rate = 0.05
    return min(0.6, SLIP_SCALE * rate * (1 + 0.05 * index))


def _slip(rng: random.Random, value: int, step: Step) -> int:
    """A wrong result: a lost carry always for doubled sevens (a systematic error), else scattered ones."""
    right = step.of(value)
    if step.op == "double" and value % 10 == 7:
        return (right - 10) % 100
    while True:
        wrong = (right + rng.choice([-10, 10, -1, 1, -2, 2, -11, 9, -20, 20, rng.randint(-40, 40)])) % 100
        if wrong != right:
            return wrong


def _work(rng: random.Random, steps: tuple[Step, ...]) -> list[_Line]:
    """A first pass, with slips."""
    lines: list[_Line] = []
    value = steps[0].n
    for index, step in enumerate(steps[1:]):
        slips = rng.random() < _slip_rate(value, step, index)
        lines.append(_Line(step, value, _slip(rng, value, step) if slips else step.of(value)))
        value = lines[-1].after
    return lines


def _check(lines: list[_Line], *, mend: bool) -> list[_Line]:
    """A later pass: the same lines again, or the right ones."""
    if not mend:
        return lines
    mended: list[_Line] = []
    value = lines[0].before
    for line in lines:
        mended.append(_Line(line.step, value, line.step.of(value)))
        value = mended[-1].after
    return mended


def _say(lines: list[_Line], how: dict[str, str]) -> list[str]:
    return [how[line.step.op].format(v=line.before, n=line.step.n, r=line.after) for line in lines]


def _thought(rng: random.Random, asked: Question) -> tuple[list[str], int]:
    """Sentences about a feasible chain, and the answer that they end at."""
    lines = _work(rng, asked.steps)
    said = [rng.choice(["Start at {n}.", "Okay, start at {n}.", "We start at {n}."]).format(n=asked.steps[0].n)]
    said += _say(lines, _WORDS)
    if rng.random() < STUCK_SHARE:
        at = rng.randint(1, len(said))
        said[at:at] = _loop(rng, ["Hmm, let me see."])
    answer = lines[-1].after
    said.append(rng.choice(["So {a}.", "So {a}.", "So {a} it is."]).format(a=answer))
    checks = 0
    while checks < MAX_CHECKS and rng.random() < (CHECK_AGAIN if checks else CHECK_SHARE):
        mend = rng.random() < (MEND_LATER if checks else MEND_FIRST)
        new = _check(lines, mend=mend)
        part = rng.randrange(1, len(lines)) if new == lines and len(lines) > 2 and rng.random() < 0.35 else 0
        if part:
            said.append(rng.choice(["Wait, let me check the last part.", "Wait, the last part again."]))
        else:
            said.append(rng.choice(["Wait, let me check.", "Wait, let me check that.", "Wait, once more."]))
            said.append(f"From {lines[0].before}.")
        said += _say(new[part:], _SIGNS)
        if new[-1].after == answer:
            said.append(rng.choice(["Again {a}. Yes.", "Again {a}. Good.", "Yes, again {a}."]).format(a=answer))
        else:
            answer = new[-1].after
            said.append(f"No, not the same. So {answer}.")
        lines = new
        checks += 1
    return said, answer


def _loop(rng: random.Random, phrase: list[str]) -> list[str]:
    times = 6
    while times < 50 and rng.random() < 0.95:
        times += 1
    return phrase * times


def _dither(rng: random.Random, asked: Question) -> tuple[list[str], int]:
    """Sentences about a chain that ends in a long multiplication: guesses, sometimes a loop."""
    lines = _work(rng, asked.steps[:-1])
    said = [f"Start at {asked.steps[0].n}.", *_say(lines, _WORDS)]
    value, n = lines[-1].after, asked.steps[-1].n
    right = value * n % 100
    said.append(f"{value} times {n} is hard.")
    guess = right
    while True:
        guess = right if rng.random() < 0.15 else rng.randint(0, 9) * 10 + rng.choice([right % 10, rng.randint(0, 9)])
        said.append(rng.choice([f"Maybe {guess}.", f"Perhaps {guess}.", f"Or {guess}."]))
        if rng.random() < 0.5:
            doubts = ["Hmm, not sure.", "Let me think.", f"{value} times {n}.", "That does not look right."]
            said.append(rng.choice(doubts))
        if rng.random() < 0.06 and len(said) < 40:
            said += _loop(rng, [f"Hmm, {value} times {n}."])
        if len(said) > 80 or rng.random() < 0.12:
            said.append(f"So {guess}.")
            if len(said) > 50 or rng.random() < 0.6:
                return said, guess
            said.append(rng.choice(["Wait, let me check.", "Wait, not sure."]))


def thought(rng: random.Random, asked: Question) -> tuple[str, str]:
    """One thought without its marks, and the answer that it ends at."""
    said, answer = (_dither if asked.hard else _thought)(rng, asked)
    between = rng.choices(["\n", " "], [6, 1])[0]
    text = said[0]
    for sentence in said[1:]:
        joint = "" if sentence.startswith("Wait") and rng.random() < 0.1 else between
        text += joint + sentence
    return text, str(answer)


def chain(rng: random.Random, asked: Question) -> str:
    """What the model is taught to write for a question: a thought and an answer."""
    text, answer = thought(rng, asked)
    return f"<think>{text}</think>The answer is {answer}.{END}"


def cut_answer(rng: random.Random, asked: Question, cut: str) -> str:
    """What to answer when a thought is cut: its last conclusion; before any, a spread-out guess near the running value.

    With one step to go the guess is right four times in ten; each more step makes that six tenths of it.
    """
    concluded = CONCLUSION.findall(cut)
    if concluded:
        return concluded[-1]
    values = LINE_VALUE.findall(cut)
    remaining = len(asked.steps) - 1 - len(values)
    value = int(values[-1]) if values else asked.steps[0].n
    if remaining <= 0:
        return str(value)
    if rng.random() < 0.4 * 0.6 ** (remaining - 1) and not asked.hard:
        for step in asked.steps[len(values) + 1 :]:
            value = step.of(value)
        return str(value)
    return str((value + rng.randint(-25, 25)) % 100)


def read_answer(text: str) -> str | None:
    """The answer in what a model wrote; none if there is none after its thought."""
    found = _ANSWER.search(text.rpartition("</think>")[2])
    return str(int(found[1])) if found else None


def is_right(asked: Question, text: str) -> bool:
    """Whether what a model wrote holds the right answer."""
    return read_answer(text) == asked.answer
