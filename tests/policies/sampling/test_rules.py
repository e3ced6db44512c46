"""What each vote rule decides on votes that show it."""

import random

import pytest
from making import feed, make, voted
from suffice.policies.decisions import CONTINUE, EndRequest, Finish, StopSample
from suffice.policies.errors import InvalidBudget
from suffice.policies.events import Chunk, Phase
from suffice.policies.sampling import RULES, Tally, VoteRule


def stops_after(rule, answers):
    """How many votes it takes; None where they do not suffice."""
    for sample, answer in enumerate(answers):
        if isinstance(rule.observe(voted(sample, answer)), EndRequest):
            return sample + 1
    return None


@pytest.mark.parametrize(
    ("name", "parameters", "answers", "expected"),
    [
        ("majority_lock", {}, [0] * 40, 20),
        ("majority_lock", {}, [0, 1] * 20, 39),
        ("majority_lock", {}, [None] * 10 + [0] * 30, 25),
        ("curtailment", {}, [0] * 40, 4),
        ("curtailment", {"delta": 0.1}, [0] * 40, 2),
        ("curtailment", {"pseudo_votes": 1.0, "delta": 0.05}, [0] * 40, 4),
        ("curtailment", {}, [0, 1, 0, 0, 0, 0, 0, 0, 0], 8),
        ("adaptive_consistency", {}, [0] * 40, 4),
        ("adaptive_consistency", {"threshold": 0.99}, [0] * 40, 6),
        ("early_stopping_window", {}, [0] * 40, 5),
        ("early_stopping_window", {}, [0, 0, 1, 0, 0] + [0] * 10, 10),
        ("early_stopping_window", {"window": 2}, [0, 1, 1, 0, 2, 2], 6),
        ("early_stopping_window", {"window": 2}, [None, None, 0, 0], 4),
        ("certificate", {}, [0] * 40, 8),
        ("certificate", {}, [1, *[0] * 40], 14),
        ("certificate", {}, [0, 1] * 20, None),
        ("all", {}, [0] * 40, None),
        ("first_finish", {"m": 2}, [None, 0, None, 1], 4),
        ("confidence", {"warm_up": 4}, [0] * 40, 4),
        ("confidence", {"warm_up": 4}, [0, 1, 0, 0, *[0] * 36], 20),
    ],
    ids=str,
)
def test_votes_that_suffice(name, parameters, answers, expected):
    assert stops_after(make(name, 40, prior=None, **parameters), answers) == expected


def test_a_stop_names_its_rule_and_is_no_cut():
    decision = feed(make("curtailment"), [0] * 10)
    assert decision == EndRequest(rule="curtailment", finish=Finish.STOP)


def test_a_tie_goes_to_who_reached_the_count_first():
    tally = Tally()
    for sample, answer in enumerate([0, 1, 1, 0]):
        tally.vote(sample, answer)
    assert (tally.winner, tally.lead, tally.second, tally.rest, tally.counts) == (1, 2, 2, 0, (2, 2))


def test_a_tally_is_what_counting_anew_gives():
    chance = random.Random(5)
    for _ in range(300):
        answers = [chance.choice([None, 0, 1, 2, 3]) for _ in range(chance.randint(1, 25))]
        tally, reached = Tally(), {}
        for sample, answer in enumerate(answers):
            tally.vote(sample, answer)
            if answer is not None:
                reached[answer] = (reached.get(answer, (0, 0))[0] + 1, -sample)
        ranked = sorted(reached.items(), key=lambda item: item[1], reverse=True)
        assert tally.drawn == len(answers)
        if ranked:
            assert tally.leader == ranked[0][0]
            assert tally.lead == ranked[0][1][0]
            assert tally.winner == answers.index(tally.leader)
        assert tally.second == (ranked[1][1][0] if len(ranked) > 1 else 0)


def test_a_certificate_needs_evidence_from_after_the_discovery():
    rule = make("certificate")
    feed(rule, [0] * 7)
    assert not rule.certified
    assert rule.confidence == pytest.approx(1 - 1 / (0.9 * 127 / 7))
    feed(rule, [0], start=7)
    assert rule.certified
    assert rule.winner == 0
    assert rule.confidence >= 0.95


def test_a_certificate_of_a_later_answer_costs_more_and_names_its_first_sample():
    rule = make("certificate")
    feed(rule, [1, 0, 1] + [0] * 40)
    assert rule.certified
    assert rule.winner == 1
    assert rule.confidence >= 0.95


def test_answers_discovered_too_late_are_not_certified_and_cost_nothing():
    rule = make("certificate", 200)
    feed(rule, [*range(50), *[49] * 60])
    assert not rule.certified
    assert rule.confidence == 0.0
    assert rule.winner == 49


def test_confidence_ends_weak_samples_and_their_votes_do_not_count():
    rule = make("confidence", 8, warm_up=2, window=2, eta=90.0)
    for sample in (0, 1):
        rule.observe(
            Chunk(
                at=0, sample=sample, tokens=4, phase=Phase.THINKING, confidences=(9.0, 9.0, 5.0 + sample, 5.0 + sample)
            )
        )
        rule.observe(voted(sample, sample))
    assert rule.threshold == 5.0
    strong = Chunk(at=0, sample=2, tokens=2, phase=Phase.THINKING, confidences=(5.0, 5.1))
    weak = Chunk(at=0, sample=3, tokens=3, phase=Phase.THINKING, confidences=(9.0, 4.0, 4.0))
    assert rule.observe(strong) is CONTINUE
    assert rule.observe(weak) == StopSample(sample=3, rule="confidence", finish=Finish.STOP)
    assert rule.observe(weak) == StopSample(sample=3, rule="confidence", finish=Finish.STOP)
    rule.observe(voted(2, 0))
    rule.observe(voted(3, 1))
    assert rule.counts == (2, 1)
    assert rule.winner == 0
    assert rule.confidence == pytest.approx((5.0 + 5.05) / (5.0 + 5.05 + 6.0))


def test_confidence_weighs_votes():
    rule = make("confidence", 40, warm_up=3)
    for sample, (answer, weight) in enumerate([(0, 1.0), (0, 1.0), (1, 60.0)]):
        decision = rule.observe(voted(sample, answer, confidence=weight))
    assert rule.winner == 2
    assert decision == EndRequest(rule="confidence", finish=Finish.STOP)


@pytest.mark.parametrize(("eta", "threshold"), [(90.0, 1.0), (50.0, 5.0), (10.0, 9.0), (0.0, 10.0), (100.0, 1.0)])
def test_the_threshold_is_a_percentile_of_the_warm_up(eta, threshold):
    rule = make("confidence", 40, warm_up=10, eta=eta, consensus=1.0)
    for sample in range(10):
        rule.observe(voted(sample, sample % 3, confidence=float(10 - sample)))
    assert rule.threshold == threshold


def test_best_of_n_takes_the_best_score_and_stops_when_more_is_not_worth_it():
    cheap, dear = (make("best_of_n", 200, cost=cost, least=4) for cost in (1e-4, 1e-1))
    chance = random.Random(3)
    scores = [chance.expovariate(1.0) for _ in range(200)]
    drawn = []
    for rule in (cheap, dear):
        for sample, score in enumerate(scores):
            if isinstance(rule.observe(voted(sample, 0, tokens=1000, score=score)), EndRequest):
                break
        drawn.append(sample + 1)
        assert rule.winner == max(range(sample + 1), key=scores.__getitem__)
    assert drawn[1] < drawn[0]
    assert dear.reservation_value <= scores[dear.winner]


def test_best_of_n_nets_more_than_any_fixed_number_where_questions_differ():
    """Reward less cost against the best fixed number in hindsight: exponential tails of unequal scale, 1,000 tokens."""
    chance, cost, most, rounds = random.Random(11), 0.05, 60, 500
    drawn = []
    for _ in range(rounds):
        scale = chance.lognormvariate(0, 1)
        drawn.append([chance.expovariate(1 / scale) for _ in range(most)])
    net = 0.0
    for scores in drawn:
        rule = make("best_of_n", most, cost=cost)
        for sample, score in enumerate(scores):
            if isinstance(rule.observe(voted(sample, 0, tokens=1000, score=score)), EndRequest):
                break
        net += scores[rule.winner] - cost * (sample + 1)
    fixed = max(sum(max(scores[:n]) - cost * n for scores in drawn) for n in range(1, most + 1))
    assert net > fixed


def test_best_of_n_without_scores_falls_back_to_the_first_answer():
    rule = make("best_of_n", 5)
    feed(rule, [None, 1, 0, 0, 0])
    assert rule.winner == 1
    assert rule.reservation_value is None


def test_alike_scores_end_best_of_n_at_once():
    rule = make("best_of_n", 40, least=3)
    for sample in range(3):
        decision = rule.observe(voted(sample, 0, tokens=10, score=1.0))
    assert isinstance(decision, EndRequest)


@pytest.mark.parametrize(
    ("name", "given", "word"),
    [
        ("curtailmant", {}, "did you mean 'curtailment'"),
        ("curtailment", {"delte": 0.1}, "did you mean 'delta'"),
        ("curtailment", {"delta": 0.9}, "from"),
        ("curtailment", {"delta": "x"}, "a number"),
        ("early_stopping_window", {"window": 2.5}, "a whole number"),
        ("adaptive_consistency", {"threshold": 0.5}, "from"),
    ],
    ids=str,
)
def test_what_is_not_a_rule_or_parameter_is_refused(name, given, word):
    with pytest.raises(InvalidBudget, match=word):
        RULES.make(name, given, most=8)


def test_the_base_of_all_rules_never_stops():
    rule = VoteRule(most=3)
    assert feed(rule, [0] * 10) is CONTINUE
    assert (rule.fewest(4), rule.left, rule.confidence) == (1, 0, None)


def test_values_that_are_no_numbers_are_no_confidence():
    rule = make("confidence", 40, warm_up=2, window=1)
    for sample, values in enumerate([(float("nan"), 5.0, float("inf")), (float("nan"),)]):
        rule.observe(Chunk(at=0, sample=sample, tokens=1, phase=Phase.ANSWER, confidences=values))
        rule.observe(voted(sample, 0, confidence=float("nan")))
    assert rule.threshold == 5.0


def test_a_sample_shorter_than_the_window_has_its_mean_as_confidence():
    rule = make("confidence", 40, warm_up=1, window=100)
    rule.observe(Chunk(at=0, sample=0, tokens=2, phase=Phase.ANSWER, confidences=(4.0, 6.0)))
    rule.observe(voted(0, 0))
    assert rule.threshold == 5.0


def test_every_rule_is_described():
    for kind in RULES.kinds.values():
        assert kind.what
        assert kind.guarantee
        assert all(parameter.what for parameter in kind.parameters.values())
        assert RULES.make(kind.name, {}, most=8).name == kind.name
