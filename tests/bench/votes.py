# ruff: noqa: T201 - a command prints
"""Vote rules on recorded samples, side by side with Adaptive-Consistency's own package and the windows of ESC.

    python tests/bench/votes.py FILE [FILE...] [--permutations 20] [--seed 0] [--peer-python PYTHON] [--json]

Everybody sees the same orders of the same questions, one sample after another. The peers run as they were published,
without the majority lock that stands beside our rules. How frugal curtailment may be (its delta) is chosen for each
peer on one half of the questions of all files, as the most frugal value that agrees with the full vote at least as
often as the peer does there, and reported on the other half; then the halves change places. So the comparison is made
at equal agreement, and no value is reported on questions it was chosen on. Differences are paired, with 95 %
intervals over questions.

The package AdaptiveConsistency runs in an interpreter that has it: ``--peer-python``, this one, or an environment that
is made for it under ``.suffice/bench`` at the first run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from suffice.policies.decisions import EndRequest
from suffice.policies.events import Voted
from suffice.policies.replay import full_vote
from suffice.policies.sampling import RULES
from suffice.server.replay.bootstrap import Bootstrap
from suffice.server.replay.files import read_votes
from suffice.server.replay.votes import Chosen, Totals, run, shuffle

DELTAS = (
    0.3,
    0.2,
    0.15,
    0.1,
    0.07,
    0.05,
    0.04,
    0.03,
    0.025,
    0.02,
    0.017,
    0.0155,
    0.0125,
    0.01,
    0.008,
    0.0065,
    0.005,
    0.003,
    0.001,
)
"""From frugal to careful."""

PEER = """
import json, sys
from adaptive_consistency import AC, BetaStoppingCriteria
peer, known = AC(max_gens=10**9, stop_criteria=BetaStoppingCriteria(0.95)), {}
for line in sys.stdin:
    answers, seen, counts, drawn = json.loads(line), [], {}, 0
    for drawn, answer in enumerate(answers, 1):
        if answer is None:
            continue
        seen.append(answer)
        counts[answer] = counts.get(answer, 0) + 1
        state = tuple(sorted(counts.values())[-2:])  # The criterion looks at the two largest counts only.
        if state not in known:
            known[state] = bool(peer.should_stop(seen))
        if known[state]:
            break
    print(drawn, flush=False)
"""


def peer_python(named: str | None) -> str:
    """An interpreter that can import the package."""
    home = Path(__file__).resolve().parents[2] / ".suffice" / "bench" / "adaptive-consistency"
    for python in (named, sys.executable, str(home / "bin" / "python")):
        if python is None or not Path(python).exists():
            continue
        tried = subprocess.run([python, "-c", "import adaptive_consistency"], check=False, capture_output=True)
        if tried.returncode == 0:
            return python
    if named:
        sys.exit(f"{named} cannot import adaptive_consistency; install AdaptiveConsistency, numpy and scipy there")
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "AdaptiveConsistency", "numpy", "scipy"], check=True)
    return python


def by_package(python, shuffled):
    """Where the package stops, for every order of every question; ties are broken as everywhere here."""
    lines = [
        json.dumps([item.question.samples[index].answer for index in order])
        for item in shuffled
        for order in item.orders
    ]
    done = subprocess.run([python, "-c", PEER], input="\n".join(lines), capture_output=True, text=True, check=True)
    orders = ((item.question.samples, order) for item in shuffled for order in item.orders)
    stops = zip(orders, map(int, done.stdout.split()), strict=True)
    return [[drawn, full_vote(samples, order[:drawn])] for (samples, order), drawn in stops]


def by_rule(make, shuffled):
    """Where a bare rule stops, without the lock."""
    stops = []
    for item in shuffled:
        for order in item.orders:
            rule = make(len(order))
            classes = {}
            for place, index in enumerate(order):
                sample = item.question.samples[index]
                number = None if sample.answer is None else classes.setdefault(sample.answer, len(classes))
                if isinstance(
                    rule.observe(Voted(at=0.0, sample=place, answer=number, tokens=sample.tokens)), EndRequest
                ):
                    break
            winner = rule.winner
            stops.append([place + 1, None if winner is None else item.question.samples[order[winner]].answer])
    return stops


def totals_of(stops, shuffled):
    """The sums that a replay would have made of such stops."""
    totals, place = Totals(), iter(stops)
    for item in shuffled:
        samples, gold = item.question.samples, item.question.gold
        ends = [(order, next(place)) for order in item.orders]
        known = len(ends) if gold is not None else 0
        totals.runs.append(len(ends))
        totals.samples.append(sum(drawn for _, (drawn, _) in ends))
        totals.tokens.append(sum(samples[index].tokens for order, (drawn, _) in ends for index in order[:drawn]))
        totals.tokens_all.append(sum(samples[index].tokens for order in item.orders for index in order))
        totals.agreed.append(sum(winner == full for (_, (_, winner)), full in zip(ends, item.full, strict=True)))
        totals.correct.append(sum(winner == gold for _, (_, winner) in ends) if known else 0)
        totals.known.append(known)
        totals.certified.append(0)
        totals.waves.append(sum(drawn for _, (drawn, _) in ends))
        totals.time.append(totals.tokens[-1])
    return totals


@dataclass
class Half:
    """One half of the questions, with what every rule and peer did on it."""

    shuffled: list
    curtailment: dict = field(default_factory=dict)
    peers: dict = field(default_factory=dict)

    def play(self, python):
        for delta in DELTAS:
            self.curtailment[delta] = run(
                self.shuffled, Chosen(label="", rule="curtailment", parameters={"delta": delta})
            )
        self.curtailment["default"] = run(self.shuffled, Chosen(label="", rule="curtailment"))
        self.peers["AdaptiveConsistency (PyPI), Beta 0.95"] = totals_of(
            by_package(python, self.shuffled), self.shuffled
        )
        for window in (5, 4, 8):
            make = partial(RULES.make, "early_stopping_window", {"window": window})
            stops = by_rule(lambda most, make=make: make(most=most), self.shuffled)
            self.peers[f"early-stopping window {window}"] = totals_of(stops, self.shuffled)


def as_frugal_as_it_may(halves, peer):
    """The first delta that agrees at least as often as the peer on these halves together."""
    wanted = sum(sum(half.peers[peer].agreed) for half in halves)
    agreed = {delta: sum(sum(half.curtailment[delta].agreed) for half in halves) for delta in DELTAS}
    return next((delta for delta in DELTAS if agreed[delta] >= wanted), DELTAS[-1])


def joined(*parts):
    """Sums of several halves, one after another."""
    whole = Totals()
    for part in parts:
        for name in Totals.__slots__:
            getattr(whole, name).extend(getattr(part, name))
    return whole


def shown(interval, scale=1.0):
    return None if interval is None else {key: round(scale * value, 6) for key, value in interval.to_json().items()}


def difference(ours, theirs, bootstrap):
    """Ours less theirs."""
    spared = [b - a for a, b in zip(ours.tokens, theirs.tokens, strict=True)]
    agreed = [a - b for a, b in zip(ours.agreed, theirs.agreed, strict=True)]
    correct = [a - b for a, b in zip(ours.correct, theirs.correct, strict=True)]
    saved, agreement = bootstrap.ratio(spared, ours.tokens_all), bootstrap.ratio(agreed, ours.runs)
    return {
        "tokens_saved": shown(saved),
        "agreement": shown(agreement),
        "accuracy": shown(bootstrap.ratio(correct, ours.known)),
        "saves_at_least_as_much": saved.mean >= 0,
        "agrees_at_least_as_often": agreement.mean >= 0,
        "not_worse_beyond_chance": saved.high >= 0 and agreement.high >= 0,
    }


def play(path, arguments, python):
    """Both halves of a file, with everything played on them."""
    questions = read_votes(path)
    options = {"permutations": arguments.permutations, "seed": arguments.seed}
    halves = [Half(shuffle(questions[start::2], **options)) for start in (0, 1)]
    for half in halves:
        half.play(python)
    return halves


def measure(halves, chosen, arguments, python):
    """Everything about one file, given the deltas that were chosen for each peer for the two halves."""
    both = halves[0].shuffled + halves[1].shuffled
    bootstrap = Bootstrap(len(both), arguments.seed)
    rules = {}
    for name, kind in RULES.kinds.items():
        if name in {"best_of_n", "confidence", "bayesian"}:
            continue  # These live on scores, confidences and a learned prior, which such files do not hold.
        totals = run(both, Chosen(label=name, rule=kind.name))
        rules[name] = {key: shown(value) for key, value in totals.measures(bootstrap).items()}
    peers = {}
    for peer in halves[0].peers:
        theirs = joined(*(half.peers[peer] for half in halves))
        ours = joined(*(half.curtailment[delta] for half, delta in zip(halves, chosen[peer], strict=True)))
        default = joined(*(half.curtailment["default"] for half in halves))
        peers[peer] = {
            "peer": {key: shown(value) for key, value in theirs.measures(bootstrap).items() if key != "certified"},
            "curtailment_at_equal_agreement": {
                "deltas_chosen_on_the_other_half": chosen[peer],
                "tokens_saved": shown(ours.measures(bootstrap)["tokens_saved"]),
                "agreement": shown(ours.measures(bootstrap)["agreement"]),
                "less_peer": difference(ours, theirs, bootstrap),
            },
            "curtailment_at_its_default": {"less_peer": difference(default, theirs, bootstrap)},
        }
    waves = {}
    for wave in (1, 4, 8, 16):
        totals = run(both, Chosen(label="", rule="curtailment"), wave=wave)
        runs = sum(totals.runs)
        longest = sum(
            max(item.question.samples[index].tokens for index in order) for item in both for order in item.orders
        )
        waves[wave] = {
            "samples": round(sum(totals.samples) / runs, 4),
            "tokens_saved": round(1 - sum(totals.tokens) / sum(totals.tokens_all), 6),
            "launches": round(sum(totals.waves) / runs, 4),
            "time_over_the_longest_sample": round(sum(totals.time) / longest, 4),
        }
    ac = partial(RULES.make, "adaptive_consistency", {})
    ours = by_rule(lambda most: ac(most=most), both)
    theirs = by_package(python, both)
    return {
        "questions": len(both),
        "permutations": max(1, arguments.permutations),
        "rules": rules,
        "peers": peers,
        "waves_of_curtailment": waves,
        "our_adaptive_consistency_stops_elsewhere_than_the_package": sum(
            a[0] != b[0] for a, b in zip(ours, theirs, strict=True)
        ),
    }


def report(name, result):
    print(f"\n{name}: {result['questions']} questions, {result['permutations']} orders each")
    print(f"  {'rule':38s} samples   saved %   agree %   right %")

    def line(label, measures):
        shares = [measures[name] for name in ("tokens_saved", "agreement", "accuracy")]
        cells = ("" if share is None else f"{100 * share['mean']:.3f}" for share in shares)
        print(f"  {label:38s} {measures['samples']['mean']:7.2f} {' '.join(f'{cell:>9s}' for cell in cells)}")

    for label, measures in result["rules"].items():
        line(label, measures)
    for label, found in result["peers"].items():
        line(label, found["peer"])
        for title, key in (
            ("equal agreement", "curtailment_at_equal_agreement"),
            ("default", "curtailment_at_its_default"),
        ):
            less = found[key]["less_peer"]
            saved, agreed = (
                "{mean:+.3f} ({low:+.3f} to {high:+.3f})".format(
                    **{key: 100 * value for key, value in less[name].items()}
                )
                for name in ("tokens_saved", "agreement")
            )
            deltas = found[key].get("deltas_chosen_on_the_other_half", "")
            print(f"    curtailment at {title} {deltas}: saves {saved} points more, agrees {agreed} points more")
    for wave, found in result["waves_of_curtailment"].items():
        print(f"  curtailment, waves of {wave} or fewer: {found}")
    elsewhere = result["our_adaptive_consistency_stops_elsewhere_than_the_package"]
    print(f"  orders in which our adaptive_consistency stops elsewhere than the package: {elsewhere}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--permutations", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer-python")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    python = peer_python(arguments.peer_python)
    played = {path.name: play(path, arguments, python) for path in arguments.files}
    peers = next(iter(played.values()))[0].peers
    chosen = {
        peer: [as_frugal_as_it_may([halves[1 - index] for halves in played.values()], peer) for index in (0, 1)]
        for peer in peers
    }
    results = {name: measure(halves, chosen, arguments, python) for name, halves in played.items()}
    if arguments.json:
        print(json.dumps(results))
        return
    for name, result in results.items():
        report(name, result)


if __name__ == "__main__":
    main()
