import itertools

from suffice.policies.allocation.patience import MOST_FAILURES, Patience


def test_pauses_grow_until_it_is_over():
    patience = Patience()
    moments = []
    while not patience.over:
        moments.append(patience.resumes_at)
        patience.failed(patience.resumes_at)
    assert len(moments) == MOST_FAILURES
    pauses = [after - before for before, after in itertools.pairwise(moments)]
    assert all(second > first > 0 for first, second in itertools.pairwise(pauses))
    patience.succeeded()
    patience.failed(1e9)
    assert patience.over


def test_streams_that_break_together_are_one_failure():
    patience = Patience()
    for _ in range(100):
        patience.failed(1.0)
    assert not patience.over


def test_a_success_begins_anew():
    patience = Patience()
    at = 0.0
    for _ in range(10 * MOST_FAILURES):
        patience.failed(at)
        at = patience.resumes_at
        patience.succeeded()
    assert not patience.over
