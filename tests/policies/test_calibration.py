"""Calibration errs no more often than it says, which small cases show exactly."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.policies.calibration import (
    DriftAlarm,
    calibrate,
    calibrate_two_sided,
    control_expected_risk,
    hoeffding_bentkus,
    questions_needed,
)


def binomial(k, n, p):
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def lost(count, questions):
    return [1.0] * count + [0.0] * (questions - count)


@pytest.mark.parametrize("n", [30, 149, 300])
@pytest.mark.parametrize("limit", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("delta", [0.01, 0.05, 0.2])
def test_a_risk_at_the_limit_is_passed_with_probability_delta_at_most(n, limit, delta):
    passed = sum(binomial(k, n, limit) for k in range(n + 1) if hoeffding_bentkus(k / n, n, limit) <= delta)
    assert passed <= delta


def test_without_a_loss_the_p_value_is_that_of_seeing_none():
    assert hoeffding_bentkus(0.0, 149, 0.02) == pytest.approx(0.98**149)
    assert hoeffding_bentkus(0.02, 149, 0.02) == 1.0
    assert hoeffding_bentkus(1.0, 10, 0.02) == 1.0


@given(n=st.integers(1, 400), limit=st.floats(0.01, 0.9), k=st.integers(0, 400))
def test_more_losses_are_never_better_evidence(n, limit, k):
    k = min(k, n)
    p = hoeffding_bentkus(k / n, n, limit)
    assert 0 <= p <= hoeffding_bentkus(min(k + 1, n) / n, n, limit) + 1e-12 <= 1 + 1e-9


@given(limit=st.floats(0.001, 0.5), delta=st.floats(0.001, 0.5))
def test_with_the_fewest_questions_a_claim_is_possible_and_with_one_less_not(limit, delta):
    needed = questions_needed(limit, delta)
    assert (1 - limit) ** needed <= delta * (1 + 1e-6)
    assert (1 - limit) ** (needed - 1) > delta * (1 - 1e-6)


def test_the_last_threshold_before_the_first_failure_is_taken():
    losses = [(0.99, lost(0, 300)), (0.95, lost(1, 300)), (0.9, lost(20, 300)), (0.8, lost(0, 300))]
    result = calibrate(losses, 0.03, 0.05)
    assert result.threshold == 0.95
    assert result.refusal is None
    assert result.chosen.risk == pytest.approx(1 / 300)
    assert result.chosen.p_value <= 0.05
    # The one after the failure was not looked at: that is what makes many tests cost nothing.
    assert [one.threshold for one in result.tested] == [0.99, 0.95, 0.9]


def test_thresholds_beyond_the_first_failure_are_not_computed():
    def lazy():
        yield 0.9, lost(60, 300)
        raise AssertionError("asked for more")

    assert calibrate(lazy(), 0.03, 0.05).threshold is None


@pytest.mark.parametrize(
    ("losses", "part"),
    [
        pytest.param([(0.9, lost(0, 148))], "148 questions cannot show", id="too-few-questions"),
        pytest.param([(0.9, lost(9, 149))], "already the most conservative threshold, 0.9", id="first-fails"),
        pytest.param([], "no threshold", id="nothing-to-test"),
    ],
)
def test_what_the_data_cannot_support_is_refused_with_the_reason(losses, part):
    result = calibrate(losses, 0.02, 0.05)
    assert result.threshold is None
    assert result.chosen is None
    assert part in result.refusal


@pytest.mark.parametrize(
    ("losses", "limit", "delta"),
    [
        pytest.param([(0.9, [2.0])], 0.5, 0.5, id="loss-above-one"),
        pytest.param([(0.9, [math.nan])], 0.5, 0.5, id="loss-no-number"),
        pytest.param([(0.9, [0.0] * 200), (0.8, [0.0])], 0.5, 0.5, id="other-questions"),
        pytest.param([(0.9, [0.0])], 0.0, 0.5, id="no-risk"),
        pytest.param([(0.9, [0.0])], 0.5, 1.0, id="delta-of-one"),
    ],
)
def test_impossible_numbers_are_errors(losses, limit, delta):
    with pytest.raises(ValueError, match="must"):
        calibrate(losses, limit, delta)


def test_two_thresholds_share_limit_and_delta():
    upper, lower = calibrate_two_sided([(0.9, lost(0, 400))], [(0.1, lost(0, 400))], 0.02, 0.05)
    assert (upper.limit, upper.delta, lower.limit, lower.delta) == (0.01, 0.025, 0.01, 0.025)
    assert (upper.threshold, lower.threshold) == (0.9, 0.1)


@given(
    rows=st.lists(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=3, max_size=3), min_size=2, max_size=25),
    limit=st.floats(0.05, 0.6),
)
def test_the_expected_loss_on_the_next_question_keeps_the_limit(rows, limit):
    # Exchangeability, exactly: each question in turn is the next one. A refusal loses none.
    total = 0.0
    for index, row in enumerate(rows):
        others = rows[:index] + rows[index + 1 :]
        losses = [(step, [other[step] for other in others]) for step in range(3)]
        threshold = control_expected_risk(losses, limit).threshold
        total += 0.0 if threshold is None else row[int(threshold)]
    assert total <= limit * len(rows) + 1e-9


def test_expected_risk_needs_fewer_questions_and_says_its_bound():
    result = control_expected_risk([(0.9, lost(0, 60)), (0.8, lost(4, 60))], 0.02)
    assert result.threshold == 0.9
    assert result.chosen.p_value == pytest.approx(1 / 61)
    assert result.delta is None
    assert "bound" in control_expected_risk([(0.9, lost(0, 10))], 0.02).refusal


def paths(length):
    return itertools.product((0.0, 1.0), repeat=length)


def test_the_evidence_is_a_fair_game_while_the_promise_holds():
    limit, length = 0.3, 8
    expected = 0.0
    for path in paths(length):
        alarm = DriftAlarm(limit)
        for loss in path:
            alarm.audited(loss)
        expected += math.prod(limit if loss else 1 - limit for loss in path) * alarm.evidence
    assert expected == pytest.approx(1.0)


def test_a_false_alarm_is_as_rare_as_promised_at_any_moment():
    limit, alpha = 0.3, 0.1
    false = 0.0
    for path in paths(12):
        alarm = DriftAlarm(limit, alpha)
        raised = [alarm.audited(loss) for loss in path]
        assert raised == sorted(raised)
        false += math.prod(limit if loss else 1 - limit for loss in path) * raised[-1]
    assert false <= alpha


def test_drift_is_noticed_and_its_absence_too():
    drifted, steady = DriftAlarm(0.02), DriftAlarm(0.02)
    alarmed = [drifted.audited(float(n % 10 == 0)) for n in range(300)]
    assert True in alarmed
    assert not any(steady.audited(float(n % 100 == 99)) for n in range(3000))
    assert steady.audits == 3000
    assert steady.evidence < 1


@pytest.mark.parametrize("loss", [-0.1, 1.1, math.nan])
def test_no_loss_is_taken_that_is_none(loss):
    alarm = DriftAlarm(0.02)
    with pytest.raises(ValueError, match="loss"):
        alarm.audited(loss)
    assert alarm.audits == 0
