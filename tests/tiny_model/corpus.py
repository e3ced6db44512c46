"""The training corpus: pairs of what is given and what the model is to write, drawn without end from one generator."""

# ruff: noqa: SIM905 - long word lists read better as one string
from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from task import END, Question, cut_answer, question, thought
from tokenizer import PIECE

if TYPE_CHECKING:
    import random

SYSTEMS: Final = (
    "You are a helpful assistant.", "You do sums.", "Think step by step.", "Answer the question.", "Be brief.",
    "You are a careful assistant. Answer with a number.",
)  # fmt: skip
CHATTER: Final = (
    "Hello", "Hi", "Hello, how are you?", "Who are you?", "Tell me a story.", "What is the capital of France?",
    "Thanks.", "Write a poem.", "What is the weather?", "Say something.", "ping", "test",
)  # fmt: skip
WORDS: Final = (
    "the of and to in is you that it he was for on are as with his they at be this have from or one had by "
    "word but not what all were we when your can said there use an each which she do how their if will up "
    "other about out many then them these so some her would make like him into time has look two more write go "
    "see number no way could people "
).split()
KEYS: Final = (
    "answer result value number name city text reason title count id query unit status label kind note total ok items "
    "location expression x y a b"
).split()


def pair(rng: random.Random) -> tuple[str, str]:
    """What is given, and what to write after it; the loss is on the second alone."""
    asked = question(rng, "train")
    form = rng.choices(
        ["plain", "cut", "json", "call", "called", "chatter"], [0.80, 0.12, 0.03, 0.025, 0.01, 0.015]
    )[0]  # fmt: skip
    given = _before(rng)
    if form == "chatter":
        text = rng.choice([rng.choice(CHATTER), " ".join(rng.choices(WORDS, k=rng.randint(1, 30)))])
        body = "<think>This is not a sum.\nSo no answer.</think>" if rng.random() < 0.8 else "<think></think>"
        if body == "<think></think>":
            return f"{given}<|user|>{text}{END}<|assistant|>{body}", f"I only do sums.{END}"
        return f"{given}<|user|>{text}{END}<|assistant|>", f"{body}I only do sums.{END}"
    inner, answer = thought(rng, asked)
    wish = {"json": " Reply in JSON.", "call": " Use the tool."}.get(form, "")
    given += f"<|user|>{asked.text}{wish if rng.random() < 0.7 else ''}{END}<|assistant|>"
    if form == "called":
        call = json.dumps({"name": rng.choice(KEYS), "arguments": {rng.choice(KEYS): asked.steps[0].n}})
        given += f"<tool_call>\n{call}\n</tool_call>{END}<|user|>The tool says {answer}{END}<|assistant|>"
        return given, f"<think>The tool says {answer}.\nSo {answer}.</think>The answer is {answer}.{END}"
    if form == "cut":
        given += f"<think>{_cut(rng, inner)}</think>"
        return given, f"The answer is {cut_answer(rng, asked, given.rpartition('<think>')[2])}.{END}"
    if wish and (wish not in given or rng.random() < 0.3):
        # The form was not asked for: a grammar will force it, so the thought and the first mark are given too.
        cut = _cut(rng, inner)
        written = _written(rng, form, cut_answer(rng, asked, cut))
        return f"{given}<think>{cut}</think>{written[:1]}", written[1:] + END
    if wish:
        return given, f"<think>{inner}</think>{_written(rng, form, answer)}{END}"
    return given, f"<think>{inner}</think>The answer is {answer}.{END}"


def _before(rng: random.Random) -> str:
    """What stands before the last question: at times a system turn, at times earlier turns."""
    given = ""
    if rng.random() < 0.2:
        system = rng.choice(SYSTEMS)
        if rng.random() < 0.3:
            system = " ".join(rng.choices(WORDS, k=rng.choice([5, 10, 20, 40, 150]))) + "."
        given += f"<|system|>{system}{END}"
    while rng.random() < 0.07:
        earlier: Question = question(rng, "train")
        given += f"<|user|>{earlier.text}{END}<|assistant|>The answer is {earlier.answer}.{END}"
    return given


def _cut(rng: random.Random, inner: str) -> str:
    """A thought up to a random piece; now and then the whole of it, now and then nothing."""
    pieces = re.findall(PIECE, inner)
    whim = rng.random()
    if whim < 0.15:
        return ""
    if whim < 0.25:
        return inner
    if whim < 0.5:  # early: before most conclusions
        return "".join(pieces[: rng.randint(0, min(len(pieces), 80))])
    return "".join(pieces[: rng.randint(0, len(pieces))])


def _written(rng: random.Random, form: str, answer: str) -> str:
    """An answer as JSON or as a call of a tool."""
    made: dict[str, Any] = {_key(rng): _value(rng, answer) for _ in range(rng.choice([1, 1, 1, 2, 3]))}
    if form == "json":
        return json.dumps(made)
    name = _key(rng)
    if rng.random() < 0.5:
        return f"<tool_call>\n{json.dumps({'name': name, 'arguments': made})}\n</tool_call>"
    return json.dumps([{"name": name, "parameters": made}])


def _key(rng: random.Random) -> str:
    if rng.random() < 0.6:
        return rng.choice(KEYS)
    return "_".join(rng.choices(WORDS, k=rng.randint(1, 2)))


def _value(rng: random.Random, answer: str) -> Any:
    return rng.choice([int(answer), int(answer), answer, f"The answer is {answer}.", "yes", True, [int(answer)]])
