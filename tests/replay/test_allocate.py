import json

import pytest
from suffice.policies.errors import InvalidBudget
from suffice.policies.replay import RecordedSample
from suffice.server.cli import app
from suffice.server.replay.allocate import allocate, arrivals, replay_allocation
from suffice.server.replay.bootstrap import Bootstrap
from suffice.server.replay.files import Question
from suffice.server.replay.votes import shuffle
from typer.testing import CliRunner


def question(name, answers, tokens=10, gold="a"):
    samples = tuple(RecordedSample(answer=answer, tokens=tokens) for answer in answers)
    return Question(id=name, gold=gold, samples=samples)


EASY = [question(f"easy{index}", "a" * 12) for index in range(8)]
HARD = [question(f"hard{index}", "bababaabaaaa") for index in range(2)]


def orders(questions):
    return shuffle(questions, permutations=0, seed=0)


def test_the_budget_goes_to_the_doubtful_and_is_the_even_spreads():
    adaptive, uniform = allocate(orders(EASY + HARD), average_samples=4)
    assert sum(adaptive.tokens) == sum(uniform.tokens) == 10 * 4 * 10
    assert uniform.samples == [4.0] * 10
    assert adaptive.samples[:8] == [2.0] * 8
    assert adaptive.samples[8:] == [12.0] * 2
    assert adaptive.agreed == [1.0] * 10
    assert uniform.agreed[8:] == [0.0] * 2


def test_a_broken_average_gives_one_more_to_some():
    _, uniform = allocate(orders(EASY), average_samples=2.5)
    assert sorted(uniform.samples) == [2.0] * 4 + [3.0] * 4


def test_a_sample_that_the_budget_cuts_is_paid_and_has_no_answer():
    long = question("long", ["a", "b", "a", "a"], tokens=100)
    short = question("short", ["a"] * 4, tokens=1)
    adaptive, uniform = allocate(orders([short, long]), average_samples=1.5, least=1)
    assert sum(adaptive.tokens) == sum(uniform.tokens)


def test_measures_come_with_intervals_and_certificates_are_locks():
    certain = [question("q", "aaaa", gold=None)]
    adaptive, uniform = replay_allocation(orders(certain), average_samples=3, bootstrap=Bootstrap(1, 0, 50))
    assert set(adaptive) == {"samples", "tokens_saved", "agreement", "accuracy", "certified"}
    assert adaptive["certified"].mean == 1.0
    assert uniform["samples"].to_json() == {"mean": 3.0, "low": 3.0, "high": 3.0}
    assert adaptive["accuracy"] is None


@pytest.mark.parametrize("average", [0, -1, 13])
def test_an_average_beyond_the_record_is_refused(average):
    with pytest.raises(InvalidBudget):
        allocate(orders(EASY), average_samples=average)


def test_questions_that_arrive_spend_what_is_aimed_at():
    many = [question(f"{index}", "ab" * 10 if index % 5 == 0 else "a" * 20) for index in range(400)]
    totals = arrivals(orders(many), average_samples=5, concurrent=4)
    assert sum(totals.samples) / 400 == pytest.approx(5, rel=0.1)
    doubtful = totals.samples[::5]
    assert sum(doubtful) / len(doubtful) > 2 * sum(totals.samples) / 400


def test_the_command_prints_both_spreads(tmp_path):
    file = tmp_path / "votes.jsonl"
    lines = [
        {
            "id": one.id,
            "gold": one.gold,
            "samples": [{"answer": sample.answer, "tokens": sample.tokens} for sample in one.samples],
        }
        for one in EASY + HARD
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    options = ["replay", "--votes", str(file), "--allocate", "--average-samples", "4", "--permutations", "0"]
    told = json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout)
    for key in ("samples", "tokens_saved", "agreement", "accuracy", "certified"):
        assert set(told[key]) == {"mean", "low", "high"}
        assert set(told["uniform"][key]) == {"mean", "low", "high"}
    assert told["agreement"]["mean"] == 1.0
    assert told["uniform"]["samples"]["mean"] == 4.0
    shown = CliRunner().invoke(app, options)
    assert "allocation" in shown.stdout
    assert "uniform" in shown.stdout
