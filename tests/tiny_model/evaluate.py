"""Measure the tiny reasoning model on fresh questions, with plain transformers or through a vLLM server.

Run in this folder:  python evaluate.py --questions 200 --samples 16
Through a server:    python evaluate.py --questions 200 --samples 16 --url http://127.0.0.1:8155 --concurrent 16
"""

# ruff: noqa: T201 - it prints what it measures
from __future__ import annotations

import argparse
import json
import math
import random
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from task import CONCLUSION, LINE_VALUE, Question, is_right, questions, read_answer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

HERE = Path(__file__).parent
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Told:
    """What a model wrote, and how sure it was of each token (empty where not asked for)."""

    text: str
    sure: tuple[float, ...] = ()


class Sampler(Protocol):
    """Writes on from prompts."""

    def sample(self, prompts: list[str], length: int) -> list[Told]:
        """One continuation of each prompt, in order."""


@dataclass(slots=True)
class Local:
    """Samples with transformers, in batches."""

    tokenizer: PreTrainedTokenizerFast
    weights: Path
    temperature: float
    batch: int = 128

    def sample(self, prompts: list[str], length: int) -> list[Told]:
        """One continuation of each prompt, in order."""
        import torch  # noqa: PLC0415 - not needed with a server
        from transformers import AutoModelForCausalLM  # noqa: PLC0415

        model = AutoModelForCausalLM.from_pretrained(self.weights, dtype=torch.float32)
        told: list[Told] = []
        for at in range(0, len(prompts), self.batch):
            some = prompts[at : at + self.batch]
            given = self.tokenizer(some, return_tensors="pt", padding=True, padding_side="left")
            out = model.generate(
                **given, do_sample=True, temperature=self.temperature, max_new_tokens=length,
                output_logits=length < 32, return_dict_in_generate=True,
            )  # fmt: skip
            tails = out.sequences[:, given["input_ids"].shape[1] :]
            sure = torch.zeros(len(tails), 0)
            if length < 32:
                logs = torch.stack(out.logits, 1).log_softmax(-1)
                sure = logs.gather(-1, tails[..., None])[..., 0].exp()
            cut = [text.partition("<|end|>") for text in self.tokenizer.batch_decode(tails)]
            texts = [text + end for text, end, _ in cut]
            told += [Told(text, tuple(row.tolist())) for text, row in zip(texts, sure, strict=True)]
        return told


@dataclass(slots=True)
class Served:
    """Samples through a vLLM server."""

    url: str
    model: str
    temperature: float
    concurrent: int
    tokens: int = 0
    took: float = 0.0

    def sample(self, prompts: list[str], length: int) -> list[Told]:
        """One continuation of each prompt, in order."""
        began = time.monotonic()
        with ThreadPoolExecutor(self.concurrent) as pool:
            told = list(pool.map(lambda prompt: self._one(prompt, length), prompts))
        self.took += time.monotonic() - began
        return told

    def _one(self, prompt: str, length: int) -> Told:
        body = {
            "model": self.model, "prompt": prompt, "max_tokens": length, "temperature": self.temperature, "logprobs": 0,
            "skip_special_tokens": False, "spaces_between_special_tokens": False, "add_special_tokens": False,
        }  # fmt: skip
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + "/v1/completions", json.dumps(body).encode(), head)
        with urllib.request.urlopen(request, timeout=600) as response:
            answer: dict[str, Any] = json.load(response)
        self.tokens += answer["usage"]["completion_tokens"]
        choice = answer["choices"][0]
        text = choice["text"] + "<|end|>" * (choice["finish_reason"] == "stop" and "<|end|>" not in choice["text"])
        return Told(text, tuple(math.exp(log) for log in choice["logprobs"]["token_logprobs"]))


def concluded(text: str) -> list[str]:
    """Answers that a thought concluded, in order; without its mark a thought is the whole text."""
    return [str(int(found[1])) for found in CONCLUSION.finditer(text.partition("</think>")[0])]


def stopped(text: str) -> str | None:
    """The answer if the thought is stopped as soon as two conclusions in a row agree."""
    answers = concluded(text)
    return next((a for a, b in pairwise(answers) if a == b), read_answer(text))


def majority(texts: list[str]) -> str | None:
    """The most frequent answer, the earliest of equals."""
    votes = Counter(answer for text in texts if (answer := read_answer(text)) is not None)
    return votes.most_common(1)[0][0] if votes else None


def show_thoughts(tokenizer: PreTrainedTokenizerFast, asked: list[Question], told: list[list[str]]) -> None:
    """Accuracies, lengths, and what comes after the answer was first there."""
    every = [(question, text) for question, texts in zip(asked, told, strict=True) for text in texts]
    print(f"accuracy {fmean(is_right(*pair) for pair in every):.3f}")
    print(f"  hard questions {fmean([is_right(q, t) for q, t in every if q.hard] or [0]):.3f}")
    print(f"  at the first conclusion {fmean((concluded(t) or [None])[0] == q.answer for q, t in every):.3f}")
    print(f"  stopped at two conclusions that agree {fmean(stopped(t) == q.answer for q, t in every):.3f}")
    for votes in (8, 16):
        if votes <= len(told[0]):
            right = fmean(majority(texts[:votes]) == q.answer for q, texts in zip(asked, told, strict=True))
            print(f"majority@{votes} {right:.3f}")
    print(f"well formed {fmean(t.endswith('<|end|>') and read_answer(t) is not None for _, t in every):.3f}")
    lengths, after, shares = [], [], []
    for _, text in every:
        inner = text.removeprefix("<think>").partition("</think>")[0]
        final = read_answer(text)
        first = next((m.end() for m in CONCLUSION.finditer(inner) if str(int(m[1])) == final), len(inner))
        lengths.append(len(tokenizer(inner)["input_ids"]))
        after.append(len(tokenizer(inner[first:])["input_ids"]))
        shares.append(after[-1] / max(1, lengths[-1]))
    ranked = sorted(lengths)
    quantiles = {q: ranked[min(len(ranked) - 1, int(q * len(ranked)))] for q in QUANTILES}
    print("thought tokens", quantiles, f"mean {fmean(lengths):.0f}")
    print(f"after the final answer was first concluded: {sum(after) / sum(lengths):.3f}, mean {fmean(shares):.3f}")
    print(f"thoughts that check at least once {fmean(len(concluded(t)) > 1 for _, t in every):.3f}")


def show_cuts(tokenizer: PreTrainedTokenizerFast, sampler: Sampler, cases: list[tuple[Question, str, str]]) -> None:
    """What is answered when thoughts are closed at random places."""
    rng = random.Random(7)
    prompts, kinds, expected = [], [], []
    for _, prompt, text in cases:
        ids = tokenizer(text.removeprefix("<think>").partition("</think>")[0])["input_ids"]
        cut = tokenizer.decode(ids[: rng.randint(0, len(ids))])
        answers = [str(int(found[1])) for found in CONCLUSION.finditer(cut)]
        prompts.append(f"{prompt}<think>{cut}</think>")
        expected.append(answers[-1] if answers else None)
        kinds.append("after" if answers else "before")
    told = sampler.sample(prompts, 16)
    formed = [t.text.endswith("<|end|>") and read_answer(t.text) is not None for t in told]
    print(f"cut at random: well formed {fmean(formed):.3f}")
    for kind in ("before", "after"):
        rows = [(case[0], t, want) for case, t, want, k in zip(cases, told, expected, kinds, strict=True) if k == kind]
        right = fmean(is_right(question, t.text) for question, t, _ in rows)
        sure = fmean(math.prod(t.sure[4:-2]) for _, t, _ in rows)
        same = fmean(read_answer(t.text) == want for _, t, want in rows)
        line = f"  {kind} a conclusion ({len(rows)}): right {right:.3f}, mean probability of the answer {sure:.3f}"
        print(line + (f", repeats the conclusion {same:.3f}" if kind == "after" else ""))


def main() -> None:
    """Sample, cut, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=HERE / "weights", help="folder of the model and its tokenizer")
    parser.add_argument("--url", help="vLLM server; without it transformers samples here")
    parser.add_argument("--model", default="tiny", help="name that the server serves it under")
    parser.add_argument("--questions", type=int, default=200, help="fresh questions")
    parser.add_argument("--samples", type=int, default=16, help="thoughts a question")
    parser.add_argument("--temperature", type=float, default=0.7, help="sampling temperature")
    parser.add_argument("--concurrent", type=int, default=16, help="requests at a time")
    parser.add_argument("--longest", type=int, default=1024, help="tokens of thought and answer at most")
    parser.add_argument("--seed", type=int, default=1, help="seed of the questions")
    parser.add_argument("--force", action="store_true", help="also go on after each thought with another 'Wait,'")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.weights)
    served = Served(args.url or "", args.model, args.temperature, args.concurrent)
    sampler: Sampler = served if args.url else Local(tokenizer, args.weights, args.temperature)
    asked = questions(args.seed, args.questions)

    def prompt(question: Question, *, think: bool = True) -> str:
        turns = [{"role": "user", "content": question.text}]
        how = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": think}
        return str(tokenizer.apply_chat_template(turns, **how))

    flat = sampler.sample([prompt(q) for q in asked for _ in range(args.samples)], args.longest)
    told = [[t.text for t in flat[at : at + args.samples]] for at in range(0, len(flat), args.samples)]
    if served.took:
        print(f"{served.tokens / served.took:.0f} tokens/s at {args.concurrent} concurrent ({served.tokens} tokens)")
    show_thoughts(tokenizer, asked, told)
    cases = [(q, prompt(q), text) for q, texts in zip(asked, told, strict=True) for text in texts[:4]]
    show_cuts(tokenizer, sampler, cases)
    quick = sampler.sample([prompt(q, think=False) for q in asked for _ in range(4)], 16)
    right = fmean(is_right(asked[at // 4], t.text) for at, t in enumerate(quick))
    formed = fmean(read_answer(t.text) is not None for t in quick)
    print(f"without thinking: right {right:.3f}, well formed {formed:.3f}")
    if args.force:
        cases = [case for case in cases if "</think>" in case[2]]
        forced = sampler.sample([p + text.partition("</think>")[0] + "Wait," for _, p, text in cases], args.longest)
        checked = fmean(bool(concluded(t.text)) and bool(LINE_VALUE.search(t.text)) for t in forced)
        right = fmean(is_right(case[0], t.text) for case, t in zip(cases, forced, strict=True))
        print(f"forced on with 'Wait,': checks {checked:.3f}, right {right:.3f}")


if __name__ == "__main__":
    main()
