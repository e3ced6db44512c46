"""Waves, order and the lock that stands beside every rule."""

from dataclasses import replace

import pytest
from making import Upstream, make, voted
from suffice.policies.chain import Chain
from suffice.policies.decisions import CONTINUE, DrawSamples, EndRequest, Finish
from suffice.policies.events import Chunk, Phase
from suffice.policies.sampling import Draw


def test_a_wave_is_no_larger_than_the_votes_that_could_suffice():
    draw = Draw(make("curtailment", 40, prior=None), wave=8, most=40)
    assert draw.first == 4
    for sample, answer in enumerate([0, 0, 1]):
        assert draw.observe(voted(sample, answer)) is CONTINUE
    assert draw.observe(voted(3, 0)) == DrawSamples(count=4, rule="curtailment")
    assert draw.launched == 8


def test_votes_wait_for_those_launched_before():
    draw = Draw(make("adaptive_consistency"), wave=4, most=40)
    for sample in (3, 2, 1):
        assert draw.observe(voted(sample, 0)) is CONTINUE
    assert draw.drawn == 0
    stop = EndRequest(rule="adaptive_consistency", finish=Finish.STOP)
    assert draw.observe(voted(0, 0)) == stop
    assert draw.observe(voted(4, 1)) == stop
    assert (draw.winner, draw.counts, draw.lead(), draw.saved_samples) == (0, (4,), (4, 0), 36)


def test_first_finishers_do_not_wait():
    draw = Draw(make("first_finish", 8, m=2), wave=2, most=8)
    assert draw.first == 8
    assert draw.observe(voted(7, 1)) is CONTINUE
    assert draw.observe(voted(5, 1)) == EndRequest(rule="first_finish", finish=Finish.STOP)
    assert draw.winner == 5


def test_a_decided_vote_ends_any_rule_whose_winner_is_the_majority():
    draw = Draw(make("early_stopping_window", 6, window=6), wave=1, most=6)
    for sample in range(2):
        assert draw.observe(voted(sample, 0)) == DrawSamples(count=1, rule="early_stopping_window")
    assert draw.observe(voted(2, 0)) == EndRequest(rule="majority_lock", finish=Finish.STOP)
    assert draw.stopped_by == "majority_lock"
    assert draw.confidence == 1.0
    assert not draw.certified


@pytest.mark.parametrize("name", ["all", "best_of_n", "confidence", "first_finish"])
def test_a_decided_vote_ends_no_rule_with_another_winner(name):
    draw = Draw(make(name, 6, prior=None), wave=6, most=6)
    for sample in range(5):
        draw.observe(voted(sample, 0, score=float(sample)))
    assert draw.stopped_by != "majority_lock"


def test_a_vote_that_comes_twice_counts_once():
    draw = Draw(make("majority_lock", 9), wave=9, most=9)
    for _ in range(5):
        assert draw.observe(voted(0, 0)) is CONTINUE
    assert draw.drawn == 1


def test_chunks_reach_a_rule_that_listens_to_them():
    draw = Draw(make("confidence", 8, warm_up=1, window=1), wave=8, most=8)
    assert Chunk in draw.listens
    draw.observe(Chunk(at=0, sample=0, tokens=1, phase=Phase.ANSWER, confidences=(5.0,)))
    draw.observe(voted(0, 0))
    assert draw.stopped_by == "confidence"
    assert Chunk not in Draw(make("curtailment", 8), wave=1, most=8).listens


@pytest.mark.parametrize("wave", [1, 3, 8])
def test_a_budget_that_runs_out_ends_the_request(wave):
    samples = [(index % 2, 1, None, None) for index in range(20)]
    draw = Draw(make("curtailment", 20), wave=wave, most=20)
    upstream = Upstream(draw, samples)
    upstream.chain = Chain(replace(upstream.chain.plan, total_tokens=9), upstream.chain.rules)
    upstream.run()
    assert upstream.chain.complete
    assert upstream.launched < 20


def test_failed_samples_vote_none_and_nobody_waits_for_them():
    samples = [(None, 5, None, None)] * 12
    draw = Draw(make("curtailment", 12), wave=4, most=12)
    upstream = Upstream(draw, samples).run()
    assert upstream.launched == 12
    assert draw.winner is None
    assert draw.stopped_by is None
