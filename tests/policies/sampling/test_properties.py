"""What every vote rule must hold, whatever it decides."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import PRIOR, Upstream, answers, feed, make, recorded, voted
from suffice.policies.decisions import CONTINUE, DrawSamples, EndRequest, StopSample
from suffice.policies.events import Chunk, Phase, Tick, Voted
from suffice.policies.replay import RecordedSample, full_vote, replay_votes
from suffice.policies.sampling import RULES, Draw, Tally

ALL = pytest.mark.parametrize("name", sorted(RULES.kinds))
IN_ORDER = [name for name in sorted(RULES.kinds) if make(name).order == "launch"]
MONOTONE = ["majority_lock", "curtailment", "adaptive_consistency", "early_stopping_window", "certificate", "all"]

events = st.one_of(
    st.builds(
        Voted,
        at=st.just(0.0),
        sample=st.integers(0, 60),
        answer=answers,
        tokens=st.integers(0, 100),
        score=st.one_of(st.none(), st.floats()),
        confidence=st.one_of(st.none(), st.floats()),
    ),
    st.builds(
        Chunk,
        at=st.just(0.0),
        sample=st.integers(0, 60),
        tokens=st.integers(0, 5),
        phase=st.just(Phase.ANSWER),
        confidences=st.lists(st.floats(), max_size=5).map(tuple),
    ),
    st.just(Tick(at=0.0)),
)


def as_recorded(samples):
    return [
        RecordedSample(
            answer=None if answer is None else f"answer {answer}", tokens=tokens, score=score, confidence=confidence
        )
        for answer, tokens, score, confidence in samples
    ]


@ALL
@given(sequence=st.lists(events, max_size=60), most=st.integers(1, 50), window=st.integers(1, 4))
def test_a_rule_takes_any_events_and_stays_stopped(name, sequence, most, window):
    parameters = {"warm_up": 3, "window": window} if name == "confidence" else {}
    rule = make(name, most, **parameters)
    stop = None
    for event in sequence:
        decision = rule.observe(event)
        assert isinstance(decision, EndRequest | StopSample) or decision is CONTINUE
        if stop is not None:
            assert decision is stop
        elif isinstance(decision, EndRequest):
            stop = decision
            frozen = (rule.winner, rule.confidence, rule.certified, rule.counts)
        assert rule.confidence is None or 0 <= rule.confidence <= 1 + 1e-9
        assert 1 <= rule.fewest(3) <= 3
    if stop is not None:
        assert (rule.winner, rule.confidence, rule.certified, rule.counts) == frozen
        assert stop.rule == name


@ALL
@given(sequence=st.lists(events, max_size=80), most=st.integers(1, 30), wave=st.integers(1, 8))
def test_the_drawing_takes_any_events_and_never_asks_for_more_than_allowed(name, sequence, most, wave):
    draw = Draw(make(name, most), wave=wave, most=most)
    launched, stop = draw.first, None
    for event in sequence:
        decision = draw.observe(event)
        if stop is not None:
            assert decision is stop
        elif isinstance(decision, EndRequest):
            stop = decision
        elif isinstance(decision, DrawSamples):
            assert decision.count >= 1
            launched += decision.count
    assert launched == draw.launched <= most
    assert draw.saved_samples == most - launched
    assert (draw.stopped_by is None) == (stop is None)


@ALL
@given(samples=st.lists(recorded, min_size=1, max_size=20), most=st.integers(1, 20))
def test_a_sample_without_an_answer_never_wins(name, samples, most):
    rule = make(name, most)
    for index, (answer, tokens, score, confidence) in enumerate(samples):
        rule.observe(voted(index, answer, tokens, score=score, confidence=confidence))
        if rule.winner is not None:
            assert samples[rule.winner][0] is not None
        else:
            assert all(one[0] is None for one in samples[: index + 1])


@ALL
def test_no_answers_at_all_have_no_winner(name):
    rule = make(name, 30)
    feed(rule, [None] * 30)
    assert rule.winner is None
    assert rule.counts == ()
    assert not rule.certified


@given(sequence=st.lists(answers, min_size=1, max_size=40))
def test_the_majority_lock_is_the_full_vote(sequence):
    rule, full = make("majority_lock", len(sequence)), Tally()
    feed(rule, sequence)
    for sample, answer in enumerate(sequence):
        full.vote(sample, answer)
    assert rule.winner == full.winner or sequence[rule.winner] == sequence[full.winner]
    assert rule.stopped or full.winner is None


@pytest.mark.parametrize("name", IN_ORDER)
@given(data=st.data(), samples=st.lists(recorded, min_size=1, max_size=16), wave=st.integers(1, 6))
def test_the_order_of_arrival_changes_no_decision(name, data, samples, wave):
    def outcome(shuffle):
        draw = Draw(make(name, len(samples)), wave=wave, most=len(samples))
        running, decisions = list(range(draw.first)), []
        while running and draw.stopped_by is None:
            for index in shuffle(running):
                answer, tokens, score, confidence = samples[index]
                decision = draw.observe(voted(index, answer, tokens, score=score, confidence=confidence))
                if decision is not CONTINUE:
                    decisions.append(decision)
                    if isinstance(decision, EndRequest):
                        break
            running = list(range(max(running) + 1, draw.launched))
        return decisions, draw.winner, draw.confidence, draw.counts, draw.launched, draw.stopped_by

    in_order = outcome(list)
    assert outcome(lambda running: data.draw(st.permutations(running))) == in_order


@pytest.mark.parametrize("name", MONOTONE)
@given(samples=st.lists(recorded, min_size=2, max_size=30), data=st.data())
def test_fewer_samples_allowed_never_draw_more(name, samples, data):
    fewer = data.draw(st.integers(1, len(samples)))
    votes = as_recorded(samples)
    drawn = [
        replay_votes(votes, lambda most=most: make(name, most), range(most)).drawn for most in (fewer, len(samples))
    ]
    assert drawn[0] <= drawn[1]


@pytest.mark.parametrize("name", IN_ORDER)
@given(samples=st.lists(recorded, min_size=1, max_size=24), wave=st.integers(2, 8))
def test_waves_draw_no_sample_that_drawing_one_by_one_spares(name, samples, wave):
    votes = as_recorded(samples)
    outcomes = [
        replay_votes(votes, lambda: make(name, len(samples)), range(len(samples)), wave=size) for size in (1, wave)
    ]
    if name != "confidence":  # Its next wave rests on the mean weight of a vote, which a heavier one can beat.
        assert outcomes[0].drawn == outcomes[1].drawn
    assert outcomes[0].winner == outcomes[1].winner
    assert outcomes[0].stopped_by == outcomes[1].stopped_by


@ALL
@given(samples=st.lists(recorded, min_size=1, max_size=16), wave=st.integers(1, 6))
def test_replay_is_what_the_chain_does_live(name, samples, wave):
    draw = Draw(make(name, len(samples)), wave=wave, most=len(samples))
    live = Upstream(draw, samples).run()
    votes = as_recorded(samples)
    replayed = replay_votes(votes, lambda: make(name, len(samples)), range(len(samples)), wave=wave)
    assert live.launched == replayed.drawn
    assert live.chain.meter.used == replayed.tokens
    assert draw.stopped_by == replayed.stopped_by
    assert (None if draw.winner is None else votes[draw.winner].answer) == replayed.winner
    assert live.now == replayed.time


@given(samples=st.lists(recorded, min_size=1, max_size=20), data=st.data())
def test_all_is_the_full_vote(samples, data):
    votes = as_recorded(samples)
    order = data.draw(st.permutations(range(len(samples))))
    outcome = replay_votes(votes, lambda: make("all", len(samples)), order)
    assert outcome.winner == full_vote(votes, order)
    assert outcome.drawn == len(samples)
    assert outcome.waves == 1
    assert outcome.tokens == sum(one.tokens for one in votes)


def size(value, seen):
    """Numbers and references held by a rule, caches of whole tables apart."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, dict):
        return sum(1 + size(one, seen) for one in value.values())
    if isinstance(value, list | set | frozenset):
        return len(value) + sum(size(one, seen) for one in value)
    if hasattr(value, "__slots__"):
        return sum(size(getattr(value, slot, None), seen) for slot in value.__slots__)
    return size(vars(value), seen) if hasattr(value, "__dict__") else 1


@ALL
@pytest.mark.parametrize("distinct", [1, 3, 400], ids=["one-answer", "three-answers", "all-differ"])
def test_state_grows_by_a_constant_a_vote(name, distinct):
    rule = make(name, 400, prior=None)
    seen_tables = {id(value) for value in vars(rule).values() if isinstance(value, tuple)}
    sizes = []
    for sample in range(400):
        rule.observe(voted(sample, sample % distinct, score=float(sample % 7)))
        if sample % 100 == 99:
            sizes.append(size(rule, set(seen_tables)))
    growth = [after - before for before, after in itertools.pairwise(sizes)]
    assert max(growth) <= 100 * 24
    assert growth[-1] <= growth[0] + 24


def test_a_prior_without_enough_votes_is_not_trusted():
    assert not make("bayesian", 40, prior=PRIOR).falls_back
    assert make("bayesian", 40, prior=None).falls_back
    assert math.isclose(sum(split.weight for split in PRIOR.splits), 1)
