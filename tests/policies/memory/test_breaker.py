from hypothesis import given, settings
from hypothesis import strategies as st
from suffice.policies.memory.breaker import Breaker, BreakerRule, Circuit, Health, HealthMonitor

RULE = BreakerRule(failures=3, rest_s=2.0, most_rest_s=7.0)


def opened():
    breaker = Breaker(RULE)
    for _ in range(3):
        breaker.failed(0.0)
    return breaker


def test_failures_in_a_row_open_it_and_a_success_between_does_not():
    breaker = Breaker(RULE)
    for _ in range(5):
        breaker.failed(0.0)
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.state is Circuit.CLOSED
    assert opened().state is Circuit.OPEN


def test_after_its_rest_it_lets_one_trial_through():
    breaker = opened()
    assert not breaker.allows(1.9)
    assert breaker.retry_after(0.5) == 1.5
    assert breaker.allows(2.0)
    breaker.sent()
    assert not breaker.allows(2.1)
    breaker.succeeded()
    assert breaker.state is Circuit.CLOSED
    assert breaker.retry_after(2.2) == 0


def test_each_failed_trial_doubles_the_rest_up_to_its_limit():
    breaker = opened()
    at, rests = 0.0, []
    for _ in range(4):
        rests.append(breaker.retry_after(at))
        at += rests[-1]
        assert breaker.allows(at)
        breaker.sent()
        breaker.failed(at)
    assert rests == [2.0, 4.0, 7.0, 7.0]


def test_a_trial_that_proves_nothing_frees_its_place():
    breaker = opened()
    assert breaker.allows(2.0)
    breaker.sent()
    breaker.released()
    assert breaker.allows(2.0)


def test_late_news_of_old_requests_does_not_move_an_open_breaker():
    breaker = opened()
    breaker.succeeded()
    breaker.failed(1.0)
    assert breaker.state is Circuit.OPEN
    assert breaker.retry_after(0.0) == 2.0


@given(st.lists(st.tuples(st.sampled_from(["sent", "ok", "bad", "free"]), st.floats(0, 3)), max_size=60))
@settings(deadline=None)
def test_it_never_stays_shut_for_longer_than_the_longest_rest(steps):
    breaker, at = Breaker(RULE), 0.0
    for step, later in steps:
        at += later
        if step == "sent" and breaker.allows(at):
            breaker.sent()
        elif step == "ok":
            breaker.succeeded()
        elif step == "bad":
            breaker.failed(at)
        else:
            breaker.released()
        assert breaker.retry_after(at) <= 7.0 + 1e-9  # moments are sums of floats
    breaker.released()
    assert breaker.allows(at + 7.0 + 1e-9)


def test_health_needs_several_bad_probes_to_fall_and_two_good_ones_to_rise():
    monitor = HealthMonitor()
    assert monitor.state(0.0) is Health.UNKNOWN
    assert monitor.observe(0.0, good=True) is Health.UP
    assert monitor.observe(1.0, good=False) is Health.UP
    assert monitor.observe(2.0, good=False) is Health.UP
    assert monitor.observe(3.0, good=False) is Health.DOWN
    assert monitor.observe(4.0, good=True) is Health.DOWN
    assert monitor.observe(5.0, good=True) is Health.UP


def test_silence_makes_health_stale():
    monitor = HealthMonitor(stale_s=10)
    monitor.observe(0.0, good=True)
    assert monitor.state(10.0) is Health.UP
    assert monitor.state(10.1) is Health.STALE
