# ruff: noqa: T201 - a command prints
"""What one event costs a rule, in nanoseconds.

    python tests/bench/observe_cost.py [--repeats 7] [--json]

Vote rules see votes, six in ten for one answer, of requests with 40 and with 200 samples; only votes before the rule
stops are counted. ``first`` is the first request of a process, which makes the tables; ``after`` is the best of the
repeats. Stopping rules see chunks of one token, with all the values a rule may ask for, of a thought of 2,000 tokens.
"""

from __future__ import annotations

import argparse
import json
import random
import time

from suffice.policies.decisions import EndRequest
from suffice.policies.events import Chunk, Phase, Voted
from suffice.policies.sampling import RULES as SAMPLING
from suffice.policies.sampling import Draw
from suffice.policies.stopping import GUARDS, Setting
from suffice.policies.stopping import RULES as STOPPING

REQUESTS = 200
TOKENS = 2000


def votes(count, chance):
    return [
        Voted(
            at=0.0,
            sample=sample,
            answer=0 if chance.random() < 0.6 else chance.randint(1, 3),
            tokens=100,
            score=chance.random(),
            confidence=1 + chance.random(),
        )
        for sample in range(count)
    ]


def feed(rules, streams):
    """Nanoseconds per event over all streams, until each rule stops."""
    events = 0
    begun = time.perf_counter_ns()
    for rule, stream in zip(rules, streams, strict=True):
        for event in stream:
            events += 1
            if isinstance(rule.observe(event), EndRequest):
                break
    return (time.perf_counter_ns() - begun) / max(1, events)


def vote_rules(repeats):
    rows = {}
    for most in (40, 200):
        chance = random.Random(most)
        streams = [votes(most, chance) for _ in range(REQUESTS)]
        for name in SAMPLING.kinds:
            first = feed([SAMPLING.make(name, {}, most=most)], streams[:1])
            bare = min(feed([SAMPLING.make(name, {}, most=most) for _ in streams], streams) for _ in range(repeats))
            drawn = min(
                feed([Draw(SAMPLING.make(name, {}, most=most), wave=8, most=most) for _ in streams], streams)
                for _ in range(repeats)
            )
            rows[f"{name}, N={most}"] = {"first": round(first), "after": round(bare), "after_within_draw": round(drawn)}
    return rows


def stopping_rules(repeats):
    chance = random.Random(0)
    stream = [
        Chunk(
            at=0.01 * token,
            sample=0,
            tokens=1,
            phase=Phase.THINKING,
            text="word ",
            token_ids=(chance.randrange(30_000),),
            logprobs=(-chance.random(),),
            confidences=(5 + chance.random(),),
            close_logprobs=(-10 - chance.random(),),
            entropies=(1 + chance.random(),),
        )
        for token in range(TOKENS)
    ]
    setting = Setting(thinking_tokens=2 * TOKENS, sample_tokens=3 * TOKENS, answer_reserve=256, deadline_s=1000.0)
    rows = {}
    for registry in (STOPPING, GUARDS):
        for name, kind in registry.kinds.items():
            heard = [event for event in stream if Chunk in kind.make(**defaults(kind), setting=setting).listens]
            if not heard:
                rows[name] = {"after": None, "note": "listens to no chunks"}
                continue
            costs = [feed([registry.make(name, {}, setting=setting)], [heard]) for _ in range(repeats)]
            rows[name] = {"first": round(costs[0]), "after": round(min(costs))}
    return rows


def defaults(kind):
    return {name: parameter.default for name, parameter in kind.parameters.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = {"sampling": vote_rules(arguments.repeats), "stopping": stopping_rules(arguments.repeats)}
    if arguments.json:
        print(json.dumps(result))
        return
    for family, rows in result.items():
        print(f"{family}, nanoseconds an event")
        for name, row in rows.items():
            print(f"  {name:32s} {'  '.join(f'{key} {value}' for key, value in row.items())}")


if __name__ == "__main__":
    main()
