"""``suffice replay`` as its users run it."""

import json
import random

import pytest
from suffice.server.cli import app
from typer.testing import CliRunner


@pytest.fixture
def votes(tmp_path):
    chance = random.Random(1)
    lines = []
    for index in range(12):
        right = 0.3 + 0.7 * chance.random()
        drawn = [
            {"answer": "7" if chance.random() < right else chance.choice(["8", None]), "tokens": chance.randint(5, 60)}
            for _ in range(16)
        ]
        lines.append(json.dumps({"id": f"q{index}", "gold": "7", "samples": drawn}))
    path = tmp_path / "votes.jsonl"
    path.write_text("\n".join(lines))
    return path


def suffice(*arguments):
    return CliRunner().invoke(app, ["replay", *map(str, arguments)])


def test_one_rule_prints_its_measures(votes):
    result = suffice("--votes", votes, "--rule", "curtailment", "--permutations", 3, "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert list(shown) == ["samples", "tokens_saved", "agreement", "accuracy", "certified", "runs"]
    assert shown["runs"] == {"questions": 12, "permutations": 3}
    for name in ("samples", "tokens_saved", "agreement", "accuracy", "certified"):
        assert shown[name]["low"] <= shown[name]["mean"] <= shown[name]["high"]


def test_several_rules_and_files_print_by_name_and_the_seed_decides(votes, tmp_path):
    other = tmp_path / "more.jsonl"
    other.write_text('{"id": "z", "samples": [{"answer": 1, "tokens": 2}]}')
    arguments = ("--votes", votes, other, "--rule", "majority_lock", "--rule", "all", "--permutations", 4, "--json")
    first = suffice(*arguments, "--seed", 5)
    shown = json.loads(first.stdout)
    assert list(shown) == ["majority_lock", "all"]
    assert shown["all"]["runs"]["questions"] == 13
    assert shown["majority_lock"]["agreement"]["mean"] == 1
    assert suffice(*arguments, "--seed", 5).stdout == first.stdout
    assert suffice(*arguments, "--seed", 6).stdout != first.stdout


def test_gold_that_is_unknown_gives_no_accuracy(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text('{"id": "z", "gold": null, "samples": [{"answer": 1, "tokens": 2}]}')
    assert json.loads(suffice("--votes", path, "--json").stdout)["accuracy"] is None


def test_parameters_go_to_the_rules_that_take_them(votes):
    common = ("--votes", votes, "--rule", "curtailment", "--rule", "bayesian", "--permutations", 2, "--json")
    plain = json.loads(suffice(*common, "--param", "delta=0.2").stdout)
    assert plain["curtailment"] == plain["bayesian"]
    one = json.loads(suffice(*common, "--param", "curtailment.delta=0.2").stdout)
    assert one["curtailment"] == plain["curtailment"]
    assert one["bayesian"] != plain["bayesian"]


def test_waves_draw_no_more_samples_and_fewer_are_allowed_by_most(votes):
    common = ("--votes", votes, "--rule", "curtailment", "--permutations", 5, "--json")
    one, four = (json.loads(suffice(*common, "--wave", wave).stdout) for wave in (1, 4))
    assert one["samples"] == four["samples"]
    assert one["agreement"] == four["agreement"]
    assert json.loads(suffice(*common, "--most", 3).stdout)["samples"]["mean"] <= 3


def test_a_table_names_rules_and_measures(votes):
    result = suffice("--votes", votes, "--rule", "certificate", "--rule", "all", "--permutations", 2)
    assert result.exit_code == 0
    for word in ("certificate", "all", "samples", "saved", "agreement", "accuracy", "12 questions"):
        assert word in result.stdout


@pytest.mark.parametrize("rule", ["curtailment", "majority_lock"])
def test_a_price_draws_fewer_samples_and_none_at_all_changes_nothing(votes, rule):
    common = ("--votes", votes, "--rule", rule, "--permutations", 3, "--json")
    unpriced, free, time, memory = (
        json.loads(suffice(*common, *more).stdout)
        for more in ((), ("--price", 0), ("--price", 0.05), ("--price", "0:0.05"))
    )
    assert free == unpriced
    for priced in (time, memory):
        assert priced.keys() == unpriced.keys()
        assert 1 <= priced["samples"]["mean"] < unpriced["samples"]["mean"]


@pytest.mark.parametrize("more", [("--allocate",), ("--log", "x", "--policy", "y")], ids=["allocate", "log"])
def test_a_price_is_named_only_where_it_does_something(votes, more):
    files = () if "--log" in more else ("--votes", votes)
    assert suffice(*files, "--price", 1, *more).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--price", "much"), "SECOND:BLOCK_SECOND"),
        (("--price", "1:x"), "SECOND:BLOCK_SECOND"),
        (("--price", "-1"), "from 0 up"),
        (("--price", "inf"), "from 0 up"),
        (("--rule", "curtailmant"), "did you mean 'curtailment'"),
        (("--param", "windw=2"), "takes 'windw'"),
        (("--param", "delta"), "NAME=VALUE"),
        (("--param", "delta=7"), "from"),
        (("--param", "all.delta=0.1"), "takes 'all.delta'"),
        (("--answer", "numbr"), "did you mean 'number'"),
    ],
    ids=str,
)
def test_wrong_use_ends_with_two(votes, arguments, message):
    result = suffice("--votes", votes, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_bad_files_end_with_two(tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": 1}\n')
    result = suffice("--votes", bad, "--json")
    assert result.exit_code == 2
    assert "bad.jsonl:1: samples must be" in result.stderr
    assert suffice("--json").exit_code == 2
    assert suffice("--votes", tmp_path / "missing").exit_code == 2
