"""Whether calibrated thresholds keep their promise on questions they have not seen.

    python tests/bench/calibration.py [--traces FILE] [--runs 100] [--json]

A population of questions is replayed once at every threshold, so that the true risk of each is known. Then threshold
after threshold is calibrated, each on a fresh draw from the population, and its true risk compared with the limit. The
same is done with the rule of thumb that takes the most aggressive threshold whose measured risk is below the limit.
Populations: simulated thoughts whose early answers are sometimes confident and wrong, and recorded samples where a
file of them is there. Exits with 1 if the promise is broken more often than it says.
"""

import argparse
import json
import random
import sys
from pathlib import Path

from suffice.policies.calibration import DriftAlarm, calibrate, control_expected_risk
from suffice.policies.replay_traces import RecordedProbe, Trace
from suffice.policies.stopping.thresholds import AXES, Axis
from suffice.server.replay.trace_files import Question, Traces, read_traces
from suffice.server.replay.traces import Replayer

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "traces" / "svamp_qwen05_dev.jsonl.gz"


def simulated(count: int, seed: int) -> Traces:
    """Thoughts that find their answer at some place; until then probes waver, and some thoughts are sure of the wrong.

    Lengths are a twentieth of real ones and so is the cost of a probe.
    """
    chance = random.Random(seed)
    questions = []
    for number in range(count):
        length = chance.randint(48, 128)
        found = int(length * chance.betavariate(1.5, 2))
        misled = chance.random() < 0.3
        probes, wrong = [], "wrong"
        for at in range(6, length, 2):
            right = at >= found
            if chance.random() > (0.6 if misled else 0.2):
                wrong = f"wrong {chance.randrange(50)}"
            mind = (60, 1.0) if right else (8, 2) if misled else (3, 3)
            answer = "right" if right else wrong
            probes.append(RecordedProbe(at=at, answer=answer, confidence=chance.betavariate(*mind), tokens=1))
        trace = Trace(pieces=("t",) * length, thought=length, answer="right", probes=tuple(probes))
        questions.append(Question(str(number), "right", (trace,)))
    return Traces(tuple(questions), "")


FINE = Axis("threshold", tuple(1 - 0.005 * 1.08**step for step in range(60)))
"""A finer ladder than the one in use: the more thresholds, the easier it is to fool oneself."""


def population(traces: Traces, rule: str, axis: Axis, given: dict) -> dict:
    """Losses and tokens of every question at every threshold, and the true risks."""
    replayer = Replayer(traces)
    losses, saved = {}, {}
    for value in axis.values:
        played = list(replayer.play(rule, {**given, axis.parameter: value}))
        losses[value] = [one.loss for one in played]
        outcomes = [outcome for one in played for outcome in one.outcomes]
        saved[value] = 1 - sum(one.tokens for one in outcomes) / sum(one.full_tokens for one in outcomes)
    count = len(traces.questions)
    return {"losses": losses, "saved": saved, "risks": {value: sum(each) / count for value, each in losses.items()}}


def rule_of_thumb(losses: list, limit: float) -> float | None:
    """The most aggressive threshold whose measured risk is below the limit."""
    passing = [threshold for threshold, values in losses if sum(values) / len(values) <= limit]
    return passing[-1] if passing else None


def trial(known: dict, *, runs: int, questions: int, limit: float, delta: float, seed: int) -> dict:
    """Calibrate again and again; count how often the true risk of what came out is below the limit."""
    chance = random.Random(seed)
    count = len(next(iter(known["losses"].values())))
    chosen = {"learn_then_test": [], "conformal_risk_control": [], "rule_of_thumb": []}
    for _ in range(runs):
        picks = chance.choices(range(count), k=questions)
        losses = [(value, [each[index] for index in picks]) for value, each in known["losses"].items()]
        chosen["learn_then_test"].append(calibrate(losses, limit, delta).threshold)
        chosen["conformal_risk_control"].append(control_expected_risk(losses, limit).threshold)
        chosen["rule_of_thumb"].append(rule_of_thumb(losses, limit))
    report = {"runs": runs, "questions": questions, "limit": limit, "delta": delta}
    for way, thresholds in chosen.items():
        risks = [0.0 if one is None else known["risks"][one] for one in thresholds]
        savings = [0.0 if one is None else known["saved"][one] for one in thresholds]
        report[way] = {
            "held": sum(risk <= limit for risk in risks),
            "refused": sum(one is None for one in thresholds),
            "mean_risk": sum(risks) / runs,
            "worst_risk": max(risks),
            "mean_tokens_saved": sum(savings) / runs,
        }
    return report


def drift(*, runs: int, limit: float, alpha: float, audits: int, seed: int) -> dict:
    """False alarms while the risk is at its limit, and audits until the alarm once it is twice or four times that."""
    chance = random.Random(seed)

    def until_alarm(risk: float) -> int | None:
        alarm = DriftAlarm(limit, alpha)
        return next((n for n in range(1, audits + 1) if alarm.audited(float(chance.random() < risk))), None)

    report = {"runs": runs, "limit": limit, "alpha": alpha, "audits": audits}
    for times in (1, 2, 4):
        seen = [until_alarm(times * limit) for _ in range(runs)]
        noticed = sorted(one for one in seen if one is not None)
        report[f"risk_times_{times}"] = {
            "alarms": len(noticed),
            "median_audits": noticed[len(noticed) // 2] if noticed else None,
        }
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=RECORDED)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--population", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    terms = {"runs": options.runs, "questions": 400, "limit": 0.05, "delta": 0.05, "seed": options.seed}
    schedule = {"probe_first": 6, "probe_growth": 1.15, "probe_tokens": 1}
    made = simulated(options.population, options.seed)
    report = {
        "simulated confidence": trial(population(made, "confidence", FINE, schedule), **terms),
        "simulated convergence": trial(population(made, "convergence", AXES["convergence"], schedule), **terms),
        "drift": drift(runs=options.runs, limit=0.02, alpha=0.01, audits=3000, seed=options.seed),
    }
    if options.traces.exists():
        recorded = read_traces(options.traces)
        report["recorded static_cap"] = trial(population(recorded, "static_cap", AXES["static_cap"], {}), **terms)
    sys.stdout.write(json.dumps(report, indent=None if options.json else 2) + "\n")
    trials = [one for name, one in report.items() if name != "drift"]
    broken = any(one["learn_then_test"]["held"] < (1 - one["delta"]) * one["runs"] for one in trials)
    false = report["drift"]["risk_times_1"]["alarms"] > max(3, 3 * 0.01 * options.runs)
    return int(broken or false)


if __name__ == "__main__":
    sys.exit(main())
