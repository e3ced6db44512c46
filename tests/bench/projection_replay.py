# ruff: noqa: T201 - a command prints
"""Predicted lengths and projected peaks against what recorded answers really took.

    python tests/bench/projection_replay.py FILE [FILE...] [--seed 0] [--json]

``coverage``: each answer is predicted from the questions before its own, at its start (``quantile``) and, for answers
that get so far, at the median and at the 80 % length (``after``); a quantile q should hold for a share q of the
answers. Intervals resample questions, whose answers resemble each other.

``batches``: a simulated engine with continuous batching. Requests with recorded lengths wait in order; one rule says
when the next may start. ``projected`` admits by the projected peak, with the expected length of each answer or a
quantile of it; ``free_now`` admits while the prompt fits; ``limit`` reserves every answer's limit. What does not fit
when answers grow is preempted, the latest first, and computed anew, as vLLM does. ``peak_ratio`` is the true peak
over the projected one, of the requests in flight at each admission.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import deque
from pathlib import Path

from suffice.policies.allocation.admission import Admission, Admit, Ask
from suffice.policies.allocation.lengths import LengthBook
from suffice.policies.allocation.projection import reference_peak
from suffice.server.replay.bootstrap import Bootstrap
from suffice.server.replay.files import read_votes

QUANTILES = (0.5, 0.8, 0.9, 0.95)
WARM = 300
"""Answers seen before the first is predicted."""
BLOCK = 16
NAMES = {"key": "k", "route": "/v1/chat/completions", "model": "m"}


def coverage(questions, seed):
    """Shares of answers within their predicted quantiles, by quantile and by how far the answer had come."""
    order = list(questions)
    random.Random(seed).shuffle(order)
    lengths = sorted(sample.tokens for question in order for sample in question.samples)
    marks = {"start": 0, "median": lengths[len(lengths) // 2], "80 %": lengths[len(lengths) * 8 // 10]}
    held = {(mark, quantile): [0.0] * len(order) for mark in marks for quantile in QUANTILES}
    asked = {mark: [0.0] * len(order) for mark in marks}
    book, seen = LengthBook(), 0
    for index, question in enumerate(order):
        if seen >= WARM:
            for mark, generated in marks.items():
                left = [sample.tokens for sample in question.samples if sample.tokens > generated]
                asked[mark][index] = len(left)
                for quantile in QUANTILES:
                    told = book.remaining(**NAMES, limit=1 << 20, generated=generated, quantile=quantile)
                    held[mark, quantile][index] = sum(tokens <= generated + told.tokens for tokens in left)
        for sample in question.samples:
            book.observe(**NAMES, tokens=sample.tokens)
            seen += 1
    bootstrap = Bootstrap(len(order), seed)
    return [
        {"after": mark, "generated": marks[mark], "quantile": quantile, "answers": int(sum(asked[mark]))}
        | {"held": None if (told := bootstrap.ratio(parts, asked[mark])) is None else told.to_json()}
        for (mark, quantile), parts in held.items()
    ]


class Engine:
    """A pool of blocks and the answers that run in it, stepped from event to event."""

    def __init__(self, usable):
        self.usable = usable
        self.now = 0
        self.running = {}  # name -> (prompt, length, step of its start), in order of admission
        self.preempted = 0
        self.recomputed = 0
        self.held_steps = 0.0
        self.finished = 0

    def blocks(self, at):
        return sum(-(-(prompt + at - start) // BLOCK) for prompt, _, start in self.running.values())

    def run_to_next_end(self):
        """Step to the next end or the first step that does not fit; tells who ended and who was preempted."""
        end = min(start + length for _, length, start in self.running.values())
        out = []
        if self.blocks(end) > self.usable:
            low, high = self.now, end
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if self.blocks(middle) > self.usable else (middle, high)
            self._pass(high)
            while self.blocks(self.now) > self.usable:
                name, (_, _, start) = self.running.popitem()
                self.preempted += 1
                self.recomputed += self.now - start
                out.append(name)
            return [], out
        self._pass(end)
        ended = [name for name, (_, length, start) in self.running.items() if start + length == end]
        for name in ended:
            del self.running[name]
        self.finished += len(ended)
        return ended, out

    def _pass(self, to):
        self.held_steps += (self.blocks(self.now) + self.blocks(to)) / 2 * (to - self.now)
        self.now = to


def simulate(lengths, usable, limit, rule, seed, headroom):
    """Run all answers through one engine under one rule of admission."""
    chance = random.Random(seed)
    requests = [(chance.randint(50, 600), length) for length in lengths]
    engine, book = Engine(usable), LengthBook(enough=10)
    machine = Admission(usable_blocks=usable, block_size=BLOCK, headroom=headroom)
    waiting = deque(range(len(requests)))
    ratios = []

    def remaining(generated):
        if rule == "mean":
            return book.mean_remaining(**NAMES, limit=limit, generated=generated).tokens
        return book.remaining(**NAMES, limit=limit, generated=generated, quantile=float(rule)).tokens

    def renew(_request, _index, generated):
        return remaining(generated)

    def starts(name):
        prompt, _ = requests[name]
        if rule == "limit":
            reserved = sum(-(-(p + limit) // BLOCK) for p, _, _ in engine.running.values())
            return reserved - (-(prompt + limit) // BLOCK) <= usable or not engine.running
        if rule == "free_now":
            return engine.blocks(engine.now) - (-(prompt + 1) // BLOCK) <= usable
        ask = Ask(id=name, prompt_tokens=prompt, limit=limit, remaining=remaining(0))
        return isinstance(machine.admit(ask), Admit)

    while waiting or engine.running:
        machine.advance(engine.now, renew)
        admitted = False
        while waiting and starts(waiting[0]):
            name = waiting.popleft()
            engine.running[name] = (*requests[name], engine.now)
            admitted = True
        if admitted and rule not in {"limit", "free_now"} and book.mean_remaining(**NAMES, limit=1).source != "limit":
            true = [
                (p + BLOCK - 1 + engine.now - s, s + length - engine.now, True)
                for p, length, s in engine.running.values()
            ]
            ratios.append(reference_peak(true) / machine.peak)
        ended, preempted = engine.run_to_next_end()
        for name in (*ended, *preempted):
            machine.ended(name)
        for name in ended:
            book.observe(**NAMES, tokens=requests[name][1])
        waiting.extendleft(preempted)
    tokens = sum(lengths)
    ratios.sort()
    return {
        "rule": rule if rule in {"limit", "free_now"} else f"projected, {rule}",
        "steps": engine.now,
        "tokens_per_step": tokens / engine.now,
        "preemptions": engine.preempted,
        "recomputed_share": engine.recomputed / tokens,
        "memory_used": engine.held_steps / engine.now / usable,
        "peak_ratio": None
        if not ratios
        else {
            "mean": sum(ratios) / len(ratios),
            "p95": ratios[int(0.95 * (len(ratios) - 1))],
            "above_room": sum(ratio * (1 - headroom) > 1 for ratio in ratios) / len(ratios),
        },
    }


def bench(file, seed, headroom, requests):
    questions = read_votes(file)
    order = list(questions)
    random.Random(seed).shuffle(order)
    lengths = [sample.tokens for question in order for sample in question.samples[:4] if sample.tokens][:requests]
    mean = sum(lengths) / len(lengths)
    limit = max(lengths)
    # Room for some forty average requests, and in any case for the longest.
    usable = max(int(40 * (325 + mean) / BLOCK), int(1.5 * (600 + limit) / BLOCK))
    rules = ("limit", "free_now", "mean", "0.5", "0.8", "0.95")
    return {
        "file": file.name,
        "coverage": coverage(questions, seed),
        "requests": len(lengths),
        "usable_blocks": usable,
        "headroom": headroom,
        "batches": [simulate(lengths, usable, limit, rule, seed, headroom) for rule in rules],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--headroom", type=float, default=0.05)
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = [bench(file, options.seed, options.headroom, options.requests) for file in options.files]
    if options.json:
        print(json.dumps(results))
        return
    for told in results:
        print(told["file"])
        for line in told["coverage"]:
            if line["held"] is not None:
                held = line["held"]
                print(
                    f"  after {line['after']:6} ({line['generated']:5} tokens) q {line['quantile']:.2f}: "
                    f"{100 * held['mean']:5.1f} % held ({100 * held['low']:.1f} to {100 * held['high']:.1f}), "
                    f"{line['answers']} answers"
                )
        print(f"  {told['requests']} requests, {told['usable_blocks']} blocks, headroom {told['headroom']:.0%}")
        for line in told["batches"]:
            ratio = line["peak_ratio"]
            peaks = "" if ratio is None else f"  true/projected peak {ratio['mean']:.2f}, p95 {ratio['p95']:.2f}"
            print(
                f"  {line['rule']:16} {line['tokens_per_step']:6.2f} tokens/step  {line['preemptions']:5} preemptions  "
                f"{line['recomputed_share']:6.1%} recomputed  memory {line['memory_used']:.0%}{peaks}"
            )


if __name__ == "__main__":
    main()
