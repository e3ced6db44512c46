# ruff: noqa: T201 - a command prints
"""How often rules name a winner that is none, on ties and near-ties whose truth is known.

    python tests/bench/certificates.py [--runs 2000] [--alpha 0.05] [--seed 0] [--json]

A run draws answers from fixed probabilities until the rule is content or ``N`` votes are in. It is false where the rule
is content with an answer that is not the only most likely one; on a tie every answer is. Beside our certificate stand a
lead of three (what ConSol's sequential test amounts to) and Adaptive-Consistency at 0.95. In the adversary's rows
somebody watches the rule's own confidence after every vote, for twice as many votes, and stops the moment that it
suits them.
"""

from __future__ import annotations

import argparse
import json
import random
from math import sqrt

from suffice.policies.decisions import EndRequest
from suffice.policies.events import Voted
from suffice.policies.sampling import RULES, Tally

TRUTHS = {
    "tie .5/.5": (0.5, 0.5),
    "tie .35/.35/.30": (0.35, 0.35, 0.30),
    "near-tie .45/.40/.15": (0.45, 0.40, 0.15),
    "ten-way tie": (0.1,) * 10,
    "forty-way tie": (0.025,) * 40,
    "tie .3/.3 and many": (0.3, 0.3, *(0.04,) * 10),
}


class Lead:
    """Content with a lead of three."""

    def __init__(self):
        self.tally = Tally()

    def observe(self, event):
        self.tally.vote(event.sample, event.answer)
        return EndRequest(rule="lead") if self.tally.lead - self.tally.second >= 3 else None

    @property
    def named(self):
        return self.tally.leader


def named_by(rule):
    """The answer that a stopped rule is content with."""
    return rule.named if isinstance(rule, Lead) else max(range(len(rule.counts)), key=rule.counts.__getitem__)


def is_false(answer, truth):
    return truth[answer] < max(truth) or truth.count(max(truth)) > 1


def plain_run(make, truth, votes, chance):
    """Whether a rule that is left alone ends content, and whether falsely."""
    rule = make(votes)
    for sample in range(votes):
        answer = chance.choices(range(len(truth)), weights=truth)[0]
        if isinstance(rule.observe(Voted(at=0.0, sample=sample, answer=answer, tokens=1)), EndRequest):
            # The vote that made it content was for the answer it is content with.
            return True, is_false(answer if not isinstance(rule, Lead) else named_by(rule), truth)
    return False, False


def watched_run(make, truth, votes, chance, alpha):
    """Whether the rule's confidence ever reaches ``1 - alpha`` for a false answer while somebody watches."""
    rule = make(votes)
    answers = []
    for sample in range(votes):
        answers.append(chance.choices(range(len(truth)), weights=truth)[0])
        rule.observe(Voted(at=0.0, sample=sample, answer=answers[-1], tokens=1))
        confidence = rule.confidence
        if confidence is not None and confidence >= 1 - alpha:
            return True, is_false(answers[rule.winner], truth)
    return False, False


def interval(share, runs):
    """Wilson's 95 % interval."""
    z = 1.96
    middle = (share + z * z / (2 * runs)) / (1 + z * z / runs)
    wide = z * sqrt(share * (1 - share) / runs + z * z / (4 * runs * runs)) / (1 + z * z / runs)
    return {"share": round(share, 5), "low": round(max(0, middle - wide), 5), "high": round(middle + wide, 5)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    alpha, runs = arguments.alpha, arguments.runs
    rules = {
        "certificate": lambda votes: RULES.make("certificate", {"alpha": alpha}, most=votes),
        "lead of 3": lambda _: Lead(),
        "adaptive_consistency": lambda votes: RULES.make("adaptive_consistency", {}, most=votes),
    }
    results = {}
    for truth_name, truth in TRUTHS.items():
        for votes in (40, 200):
            row = results[f"{truth_name}, N={votes}"] = {}
            for name, make in rules.items():
                chance = random.Random(f"{arguments.seed}/{truth_name}/{votes}")
                ends = [plain_run(make, truth, votes, chance) for _ in range(runs)]
                row[name] = {
                    "false": interval(sum(false for _, false in ends) / runs, runs),
                    "content": round(sum(content for content, _ in ends) / runs, 5),
                }
    for truth_name, truth in TRUTHS.items():
        row = results[f"{truth_name}, adversary, N=400"] = {}
        for name in ("certificate", "adaptive_consistency"):
            chance = random.Random(f"{arguments.seed}/{truth_name}/adversary")
            ends = [watched_run(rules[name], truth, 400, chance, alpha) for _ in range(runs)]
            row[name] = {
                "false": interval(sum(false for _, false in ends) / runs, runs),
                "content": round(sum(content for content, _ in ends) / runs, 5),
            }
    worst = max(row["certificate"]["false"]["share"] for row in results.values())
    summary = {
        "alpha": alpha,
        "runs": runs,
        "worst_false_certificates": worst,
        "holds": worst <= alpha,
        "rows": results,
    }
    if arguments.json:
        print(json.dumps(summary))
        return
    print(f"false winners in % of {runs} runs (and content with any winner); alpha {100 * alpha:g} %")
    for title, row in results.items():
        cells = (
            f"{name} {100 * cell['false']['share']:.2f} ({100 * cell['content']:.1f})" for name, cell in row.items()
        )
        print(f"  {title:38s} {'  '.join(cells)}")
    print(f"worst share of false certificates: {100 * worst:.2f} %")


if __name__ == "__main__":
    main()
