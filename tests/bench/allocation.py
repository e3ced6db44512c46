# ruff: noqa: T201 - a command prints
"""One token budget over many questions against an even spread of the same tokens, on recorded votes.

    python tests/bench/allocation.py FILE [FILE...] [--budgets 3,5,8,12] [--permutations 20] [--seed 0] [--json]

For each budget, told as the average of samples that the even spread draws: agreement with the full vote, accuracy
where it is known, and the differences to the even spread, paired by question, with 95 % intervals over questions.
``arrivals`` is the same where questions come one by one and a price a token decides. ``against`` compares the
allocation at the smallest budget with the even spread at the largest: how much more an even spread pays for the same
agreement.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from suffice.server.replay.allocate import allocate, arrivals
from suffice.server.replay.bootstrap import Bootstrap
from suffice.server.replay.files import read_votes
from suffice.server.replay.votes import shuffle


def shown(interval):
    return None if interval is None else interval.to_json()


def measures(totals, bootstrap):
    kept = ("samples", "agreement", "accuracy", "certified")
    told = totals.measures(bootstrap)
    return {name: shown(told[name]) for name in kept} | {"tokens": sum(totals.tokens)}


def gap(better, worse, bootstrap, parts="agreed", wholes="runs"):
    """The difference of two ratios, paired by question."""
    whole = getattr(better, wholes)
    if not sum(whole):
        return None
    differences = [a - b for a, b in zip(getattr(better, parts), getattr(worse, parts), strict=True)]
    return shown(bootstrap.ratio(differences, whole))


def bench(file, budgets, permutations, seed):
    questions = read_votes(file)
    shuffled = shuffle(questions, permutations=permutations, seed=seed)
    bootstrap = Bootstrap(len(questions), seed)
    runs = {budget: allocate(shuffled, average_samples=budget) for budget in budgets}
    told = {
        "file": file.name,
        "questions": len(questions),
        "permutations": max(permutations, 1),
        "budgets": [
            {
                "average_samples": budget,
                "allocation": measures(adaptive, bootstrap),
                "uniform": measures(uniform, bootstrap),
                "arrivals": measures(arrivals(shuffled, average_samples=budget), bootstrap),
                "agreement_gained": gap(adaptive, uniform, bootstrap),
                "accuracy_gained": gap(adaptive, uniform, bootstrap, "correct", "known"),
            }
            for budget, (adaptive, uniform) in runs.items()
        ],
    }
    small, large = runs[min(budgets)][0], runs[max(budgets)][1]
    told["against"] = {
        "allocation_at": min(budgets),
        "uniform_at": max(budgets),
        "tokens_ratio": sum(large.tokens) / sum(small.tokens),
        "agreement_difference": gap(small, large, bootstrap),
    }
    return told


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--budgets", default="3,5,8,12")
    parser.add_argument("--permutations", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    budgets = [float(text) for text in options.budgets.split(",")]
    results = [bench(file, budgets, options.permutations, options.seed) for file in options.files]
    if options.json:
        print(json.dumps(results))
        return
    for told in results:
        print(f"{told['file']}: {told['questions']} questions, {told['permutations']} orders")
        for line in told["budgets"]:
            even, arriving, batch = (
                f"{100 * line[name]['agreement']['mean']:6.2f} %" for name in ("uniform", "arrivals", "allocation")
            )
            gained = line["agreement_gained"]
            spread = f"{100 * gained['mean']:+.2f} ({100 * gained['low']:+.2f} to {100 * gained['high']:+.2f})"
            print(f"  {line['average_samples']:4g} samples: even {even}  arriving {arriving}  batch {batch}  {spread}")
        against = told["against"]
        difference = against["agreement_difference"]
        print(
            f"  allocation at {against['allocation_at']:g} against even at {against['uniform_at']:g}, which takes "
            f"{against['tokens_ratio']:.2f} times the tokens: {100 * difference['mean']:+.2f} points "
            f"({100 * difference['low']:+.2f} to {100 * difference['high']:+.2f})"
        )


if __name__ == "__main__":
    main()
