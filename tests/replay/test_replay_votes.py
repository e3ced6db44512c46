"""What a replay adds up to, checked on votes that can be counted by hand, and on recorded ones where they are there."""

import json
import random
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from suffice.policies.replay import RecordedSample, replay_votes
from suffice.policies.sampling import RULES
from suffice.server.replay.bootstrap import Bootstrap
from suffice.server.replay.files import Question, read_votes
from suffice.server.replay.frontier import SWEEPS, PlotUnavailable, draw_frontier
from suffice.server.replay.votes import Chosen, run, shuffle

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "votes"


def samples(*pairs):
    return [RecordedSample(answer=answer, tokens=tokens) for answer, tokens in pairs]


def make(name, most, **parameters):
    return lambda: RULES.make(name, parameters, most=most)


def test_one_by_one_spends_what_is_drawn():
    outcome = replay_votes(samples(*[("x", 10)] * 8), make("early_stopping_window", 8, window=3), range(8))
    assert (outcome.drawn, outcome.tokens, outcome.winner, outcome.waves, outcome.time) == (3, 30, "x", 3, 30)
    assert outcome.stopped_by == "early_stopping_window"


def test_what_still_runs_at_the_stop_has_spent_as_many_steps():
    votes = samples(("x", 10), ("x", 30), ("y", 100), ("x", 20))
    outcome = replay_votes(votes, make("first_finish", 4, m=2), range(4))
    # The second to finish does so after 20 steps; the two others were ended there.
    assert (outcome.drawn, outcome.tokens, outcome.time, outcome.winner) == (4, 10 + 20 + 20 + 20, 20, "x")


def test_an_order_launches_in_that_order():
    votes = samples(("a", 1), ("b", 1), ("b", 1), ("a", 1))
    assert replay_votes(votes, make("all", 4), [1, 0, 3, 2]).winner == "a"
    assert replay_votes(votes, make("all", 4), [0, 1, 2, 3]).winner == "b"
    assert replay_votes(votes, make("all", 2), [3, 1]).winner == "a"


def questions(count, seed=0):
    chance = random.Random(seed)
    made = []
    for index in range(count):
        easy = chance.random()
        drawn = [
            RecordedSample(answer="r" if chance.random() < easy else chance.choice("xyz"), tokens=chance.randint(1, 50))
            for _ in range(12)
        ]
        made.append(Question(id=str(index), gold="r" if index % 2 else None, samples=tuple(drawn)))
    return made


def test_permutations_depend_on_the_seed_and_the_question_alone():
    some, more = questions(5), questions(9)
    first = shuffle(some, permutations=3, seed=1)
    assert [item.orders for item in first] == [item.orders for item in shuffle(more, permutations=3, seed=1)][:5]
    assert [item.orders for item in first] != [item.orders for item in shuffle(some, permutations=3, seed=2)]
    assert shuffle(some, permutations=0, seed=1, most=4)[0].orders == ((0, 1, 2, 3),)
    assert all(len(order) == 7 for item in shuffle(some, permutations=2, seed=1, most=7) for order in item.orders)


def test_drawing_all_saves_nothing_and_agrees():
    shuffled = shuffle(questions(20), permutations=4, seed=0)
    measures = run(shuffled, Chosen(label="all", rule="all")).measures(Bootstrap(20, 0))
    assert measures["samples"].mean == 12
    assert measures["tokens_saved"].mean == 0
    assert measures["agreement"].mean == 1
    assert measures["certified"].mean == 0


def test_the_lock_always_agrees_and_always_saves():
    shuffled = shuffle(questions(60), permutations=10, seed=3)
    measures = run(shuffled, Chosen(label="lock", rule="majority_lock")).measures(Bootstrap(60, 0))
    assert measures["agreement"].mean == measures["agreement"].low == 1
    assert measures["tokens_saved"].low > 0
    assert measures["accuracy"].low <= measures["accuracy"].mean <= measures["accuracy"].high


def test_accuracy_is_over_the_questions_whose_answer_is_known():
    known, unknown = questions(10)[1::2], questions(10)[0::2]
    chosen = Chosen(label="all", rule="all")
    both = run(shuffle(known + unknown, permutations=2, seed=0), chosen).measures(Bootstrap(10, 0))
    alone = run(shuffle(known, permutations=2, seed=0), chosen).measures(Bootstrap(5, 0))
    assert both["accuracy"].mean == alone["accuracy"].mean
    assert run(shuffle(unknown, permutations=2, seed=0), chosen).measures(Bootstrap(5, 0))["accuracy"] is None


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    chance, held, rounds = random.Random(6), 0, 200
    for index in range(rounds):
        values = [float(chance.random() < 0.3) for _ in range(80)]
        interval = Bootstrap(80, index, resamples=200).ratio(values, [1.0] * 80)
        held += interval.low <= 0.3 <= interval.high
    assert 0.88 <= held / rounds <= 0.99


def test_a_ratio_of_nothing_is_unknown():
    assert Bootstrap(3, 0).ratio([0, 0, 0], [0, 0, 0]) is None
    assert Bootstrap(2, 0).ratio([1, 0], [2, 0]).mean == 0.5


def test_every_rule_with_a_trade_can_be_swept():
    assert set(SWEEPS) == set(RULES.kinds) - {"majority_lock", "all"}
    for name, (parameter, values) in SWEEPS.items():
        for value in values:
            assert RULES.make(name, {parameter: value}, most=4).name == name


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_a_picture_is_written(tmp_path):
    path = tmp_path / "frontier.png"
    chosen = [Chosen(label=name, rule=name) for name in ("curtailment", "majority_lock")]
    draw_frontier(path, shuffle(questions(4), permutations=1, seed=0), chosen, wave=1)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_the_library_a_picture_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(PlotUnavailable, match=r"suffice\[plots\]"):
        draw_frontier(tmp_path / "x.png", shuffle(questions(1), permutations=1, seed=0), [], wave=1)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded votes are not on this machine")
@pytest.mark.parametrize("name", ["gsm8k_dev", "medqa_dev"])
def test_recorded_votes_cost_a_fraction_at_the_same_answers(name):
    recorded = read_votes(RECORDED / f"{name}.jsonl.gz")[::4]
    shuffled = shuffle(recorded, permutations=3, seed=0)
    bootstrap = Bootstrap(len(recorded), 0)
    curtailment = run(shuffled, Chosen(label="", rule="curtailment")).measures(bootstrap)
    certificate = run(shuffled, Chosen(label="", rule="certificate")).measures(bootstrap)
    assert curtailment["tokens_saved"].mean > 0.7
    assert curtailment["agreement"].mean > 0.985
    assert certificate["agreement"].mean > 0.995
    assert certificate["certified"].mean > 0.5


def test_outcomes_are_data():
    outcome = replay_votes(samples(("x", 1)), make("all", 1), [0])
    assert json.dumps([outcome.drawn, outcome.tokens, outcome.winner, outcome.certified, outcome.stopped_by])
