import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.policies.events import Phase
from suffice.policies.thought import ThoughtTracker

OPEN, CLOSE, WORD = 1, 2, 3


def tracker():
    return ThoughtTracker(start=OPEN, end=CLOSE)


@pytest.mark.parametrize(
    ("prompt", "phase"),
    [
        pytest.param([], Phase.ANSWER, id="empty"),
        pytest.param([WORD, WORD], Phase.ANSWER, id="none"),
        pytest.param([WORD, OPEN], Phase.THINKING, id="opened-last"),
        pytest.param([OPEN, WORD, WORD], Phase.THINKING, id="opened"),
        pytest.param([OPEN, WORD, CLOSE, WORD], Phase.ANSWER, id="closed"),
        pytest.param([OPEN, CLOSE, OPEN, WORD], Phase.THINKING, id="reopened"),
    ],
)
def test_a_prompt_may_leave_a_thought_open(prompt, phase):
    read = tracker()
    read.read_prompt(prompt)
    assert read.phase is phase


@pytest.mark.parametrize(
    ("tokens", "counts", "phase"),
    [
        pytest.param([], (0, 0), Phase.ANSWER, id="nothing"),
        pytest.param([WORD], (0, 1), Phase.ANSWER, id="answer"),
        pytest.param([OPEN, WORD], (2, 0), Phase.THINKING, id="its-opening-counts"),
        pytest.param([OPEN, WORD, CLOSE, WORD], (2, 2), Phase.ANSWER, id="its-closing-does-not"),
        pytest.param([CLOSE, CLOSE], (0, 2), Phase.ANSWER, id="closed-twice"),
    ],
)
def test_tokens_are_told_apart(tokens, counts, phase):
    read = tracker()
    assert read.read(tokens) == counts
    assert read.phase is phase


@given(tokens=st.lists(st.sampled_from([OPEN, CLOSE, WORD])), cut=st.integers(0, 30))
def test_how_tokens_are_cut_changes_no_sum(tokens, cut):
    whole, parts = tracker(), tracker()
    first, second = parts.read(tokens[:cut]), parts.read(tokens[cut:])
    assert whole.read(tokens) == (first[0] + second[0], first[1] + second[1])
    assert whole.phase is parts.phase
