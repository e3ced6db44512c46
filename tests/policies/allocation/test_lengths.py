import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suffice.policies.allocation.lengths import EDGES, Coverage, LengthBook, Lengths

WHO = {"key": "k", "route": "/chat", "model": "m"}


def lengths_of(values, cut=()):
    lengths = Lengths(most=1e9)
    for value in values:
        lengths.observe(value)
    for value in cut:
        lengths.observe(value, cut=True)
    return lengths


def test_buckets_are_exact_when_short_and_narrow_when_long():
    assert list(EDGES[:30]) == list(range(1, 31))
    assert all(b > a for a, b in pairwise(EDGES))
    assert all(b <= a * 1.04 + 1 for a, b in pairwise(EDGES))
    assert EDGES[-1] == 1 << 20


def test_a_quantile_is_the_answer_of_its_rank():
    lengths = lengths_of(range(1, 31))
    assert lengths.quantile(0.5) == 16
    assert lengths.quantile(0.9) == 28


def test_too_few_answers_promise_no_high_quantile():
    assert lengths_of(range(10, 20)).quantile(0.95) is None
    assert lengths_of([]).quantile(0.5) is None


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=80),
    st.floats(0.05, 0.98),
    st.integers(0, 400),
)
@settings(deadline=None)
def test_a_conditional_quantile_holds_among_the_answers_that_got_so_far(values, quantile, generated):
    told = lengths_of(values).quantile(quantile, generated)
    edge = next(edge for edge in EDGES if edge >= generated) if generated else 0
    survivors = [value for value in values if value > generated]
    if told is None:
        # Only what got beyond the bucket is sure to count.
        surely = sum(value > edge for value in values)
        assert -(-(surely + 1) * quantile // 1) > surely - 1
        return
    assert told > generated
    # Of the survivors at least this share is no longer, save for the width of a bucket.
    width = told * 1.04 + 1
    beyond = [value for value in survivors if value > edge]
    assert sum(value <= width for value in beyond) >= quantile * len(beyond) - 1 - 1e-9


def test_answers_that_a_limit_cut_are_not_taken_for_their_length():
    naive = lengths_of([100] * 50 + [200] * 50)
    censored = lengths_of([100] * 50, cut=[200] * 50)
    assert naive.quantile(0.8) <= 205
    assert censored.quantile(0.8) is None
    assert censored.quantile(0.4) <= 105


def test_the_mean_of_what_remains_and_of_nothing():
    lengths = lengths_of([10] * 10 + [30] * 10)
    assert lengths.mean() == pytest.approx(20, abs=1)
    assert lengths.mean(15) == pytest.approx(30, abs=1)
    assert lengths.mean(2000) is None
    assert lengths_of([]).mean() is None
    assert lengths_of([10], cut=[10, 10]).mean() == pytest.approx(10)


def test_the_past_fades():
    lengths = Lengths(most=100)
    for _ in range(100):
        lengths.observe(1000)
    for _ in range(600):
        lengths.observe(10)
    assert lengths.weight <= 101
    assert lengths.quantile(0.9) == 10


def test_what_was_seen_once_long_ago_is_forgotten():
    lengths = Lengths(most=10)
    lengths.observe(5000, cut=True)
    for _ in range(80):
        lengths.observe(10)
    assert lengths.to_json()["cut"] == {}


def test_lengths_survive_json():
    lengths = lengths_of([5, 70, 70, 4000], cut=[900])
    again = Lengths.from_json(json.loads(json.dumps(lengths.to_json())))
    assert again.to_json() == lengths.to_json()
    assert again.quantile(0.5) == lengths.quantile(0.5)


def test_the_most_specific_distribution_with_enough_answers_tells():
    book = LengthBook(enough=20)
    for _ in range(20):
        book.observe(key="other", route="/chat", model="m", tokens=1000)
    assert book.remaining(**WHO, limit=4000).source == "route"
    for _ in range(20):
        book.observe(**WHO, tokens=50)
    told = book.remaining(**WHO, limit=4000)
    assert told.source == "key"
    assert 50 <= told.tokens <= 52
    assert book.remaining(key="k", route="/other", model="m", limit=4000).source == "model"


def test_a_long_answer_asks_those_that_saw_long_answers():
    book = LengthBook(enough=20)
    for _ in range(50):
        book.observe(**WHO, tokens=100)
    for _ in range(50):
        book.observe(key="other", route="/chat", model="m", tokens=1000)
    told = book.remaining(**WHO, limit=4000, generated=500)
    assert told.source == "route"
    assert 450 <= told.tokens <= 550


def test_without_knowledge_the_limit_or_the_prior_holds():
    assert LengthBook().remaining(**WHO, limit=300, generated=100).tokens == 200
    assert LengthBook().mean_remaining(**WHO, limit=300).source == "limit"
    prior = lengths_of(range(10, 60))
    told = LengthBook(prior=prior).remaining(**WHO, limit=300, quantile=0.5)
    assert told.source == "prior"
    assert told.tokens < 40


def test_what_is_predicted_never_passes_the_limit():
    book = LengthBook(enough=5)
    for _ in range(50):
        book.observe(**WHO, tokens=1000)
    assert book.remaining(**WHO, limit=300).tokens == 300
    assert book.mean_remaining(**WHO, limit=300).tokens == 300
    assert book.remaining(**WHO, limit=300, generated=400).tokens == 0


def test_a_prior_that_never_saw_so_long_an_answer_says_nothing_of_its_mean():
    prior = lengths_of(range(10, 60))
    book = LengthBook(prior=prior)
    assert book.mean_remaining(**WHO, limit=300).source == "prior"
    assert book.mean_remaining(**WHO, limit=300, generated=200).tokens == 100


def test_cut_answers_leave_only_the_limit():
    book = LengthBook(enough=5)
    for _ in range(50):
        book.observe(**WHO, tokens=100, cut=True)
    assert book.remaining(**WHO, limit=5000).source == "limit"


def test_a_book_is_bounded_and_survives_json():
    book = LengthBook(enough=2, most_books=10)
    for index in range(100):
        book.observe(key=str(index), route="/r", model="m", tokens=10 + index)
    stored = json.loads(json.dumps(book.to_json()))
    assert len(stored["books"]) == 10
    again = LengthBook(enough=2, most_books=10)
    again.load_json(stored)
    assert again.remaining(**WHO | {"route": "/r"}, limit=999) == book.remaining(**WHO | {"route": "/r"}, limit=999)
    small = LengthBook(most_books=3)
    small.load_json(stored)
    assert len(small.to_json()["books"]) == 3


def test_coverage_counts_what_held():
    coverage = Coverage()
    assert coverage.interval() == (0.0, 0.0, 1.0)
    for actual in range(100):
        coverage.observe(89, actual)
    share, low, high = coverage.interval()
    assert share == 0.9
    assert 0.82 < low < 0.9 < high < 0.95
