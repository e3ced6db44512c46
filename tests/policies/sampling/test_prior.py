"""What finished votes teach."""

import json
import random
from collections import Counter

import pytest
from making import PRIOR, feed, make, voted
from suffice.policies.decisions import EndRequest
from suffice.policies.sampling import Learner, Prior
from suffice.policies.sampling.prior import Forecast, Split


def easy(votes=400, seed=1):
    learner, chance = Learner(), random.Random(seed)
    for _ in range(votes):
        counts = Counter(chance.choices(range(4), weights=[chance.choice([90, 30, 5]), 5, 3, 2], k=40))
        learner.learn(list(counts.values()))
    return learner


@pytest.mark.parametrize("value", [easy(50), Learner()], ids=["some", "none"])
def test_a_learner_survives_json(value):
    again = Learner.from_json(json.loads(json.dumps(value.to_json())))
    assert again.learned == value.learned
    assert again.fit() == value.fit()


def test_a_prior_survives_json():
    assert Prior.from_json(json.loads(json.dumps(PRIOR.to_json()))) == PRIOR
    assert Prior.from_json(Prior().to_json()) == Prior()


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"version": 2, "learned": 0, "splits": []},
        {"version": 1, "learned": 5, "splits": [[0.9, 0.1, 0.5]]},
        {"version": 1, "learned": 5, "splits": [[0.4, 0.1, 1.0]]},
        {"version": 1, "learned": 5, "splits": [[0.9, 0.1, 0.0], [0.9, 0.2, 1.0]]},
        {"version": 1, "learned": 5, "splits": [["x", 0.1, 1.0]]},
    ],
    ids=str,
)
def test_what_is_no_prior_is_refused(value):
    with pytest.raises(ValueError, match="prior of votes"):
        Prior.from_json(value)


@pytest.mark.parametrize(
    "value",
    [{}, {"version": 1, "votes": [[1, 2, 0, 1]]}, {"version": 1, "votes": [[1, 2]]}, {"version": 2, "votes": []}],
    ids=str,
)
def test_what_is_no_record_of_votes_is_refused(value):
    with pytest.raises(ValueError, match="record of votes"):
        Learner.from_json(value)


def test_votes_without_answers_teach_nothing():
    learner = Learner()
    learner.learn([0, 0])
    learner.learn([])
    assert learner.learned == 0
    assert learner.fit() == Prior()


def test_a_split_that_all_votes_come_from_is_found():
    chance, learner = random.Random(2), Learner()
    for _ in range(500):
        counts = Counter(chance.choices("abc", weights=[0.72, 0.18, 0.1], k=40))
        learner.learn(list(counts.values()))
    splits = learner.fit().splits
    assert sum(split.weight * split.share for split in splits) == pytest.approx(0.8, abs=0.03)
    assert sum(split.weight * split.rest for split in splits) == pytest.approx(0.1, abs=0.03)


def test_a_forecast_agrees_with_playing_the_votes_out():
    split = Split(share=0.6, rest=0.2, weight=1.0)
    forecast, chance = Forecast(Prior(learned=1, splits=(split,)), 20), random.Random(4)
    lead, second, left, rounds = 6, 4, 8, 20_000
    likely, other = 0.8 * 0.6, 0.8 * 0.4
    right, wrong = likely**lead * other**second, other**lead * likely**second
    # The rest's own answers are given no chance; here, with half the second's weight at most, they have next to none.
    won = 0
    for _ in range(rounds):
        up = likely if chance.random() < right / (right + wrong) else other
        a, b, ahead = lead, second, True
        for _ in range(left):
            draw = chance.random()
            if draw < up:
                a += 1
                ahead = ahead or a > b
            elif draw < 0.8:
                b += 1
                ahead = ahead and a >= b
        won += ahead
    assert forecast.chance(lead, second, left) <= won / rounds + 0.02
    assert forecast.chance(lead, second, left) >= won / rounds - 0.25


def test_stopping_errs_no_more_often_than_it_says_on_traffic_it_learned_from():
    chance, prior, delta = random.Random(9), easy(600, seed=8).fit(), 0.05
    wrong = stopped = 0
    for _ in range(600):
        votes = chance.choices(range(4), weights=[chance.choice([90, 30, 5]), 5, 3, 2], k=40)
        rule = make("bayesian", 40, prior=prior, delta=delta)
        for sample, answer in enumerate(votes):
            if isinstance(rule.observe(voted(sample, answer)), EndRequest):
                break
        full = make("all", 40)
        feed(full, votes)
        stopped += 1
        wrong += votes[rule.winner] != votes[full.winner]
    assert wrong / stopped <= delta


def test_with_too_little_learned_it_is_curtailment():
    thin = easy(150).fit()
    bayesian, curtailment = make("bayesian", 40, prior=thin), make("curtailment", 40)
    for sample in range(4):
        assert isinstance(bayesian.observe(voted(sample, 0)), EndRequest) == isinstance(
            curtailment.observe(voted(sample, 0)), EndRequest
        )
    assert bayesian.confidence == curtailment.confidence
