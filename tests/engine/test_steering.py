"""One request inside the engine: its thought, its rules, and the tokens that are forced."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.policies.decisions import CONTINUE, CloseThought, StopSample
from suffice.policies.events import Chunk, Phase
from suffice.policies.thought import ThoughtTracker
from suffice.server.engine.plugin.steering import Marks, Measured, Steering
from suffice.server.engine.plugin.table import Action, Fired

START, END, EOS, WORD = 1, 2, 3, 9
MARKS = Marks(start=(START,), end=(END,), force=(END,))
PHRASE = Marks(start=(START,), end=(7, 8), force=(5, 6, 7, 8, 4))


class AfterTokens:
    """Closes a thought of ``tokens`` tokens and stops an answer of as many; keeps what it saw."""

    name = "after_tokens"
    listens = frozenset({Chunk})
    needs = frozenset()

    def __init__(self, tokens):
        self.tokens = tokens
        self.seen = []

    def observe(self, event):
        self.seen.append(event)
        if sum(event.phase is one.phase for one in self.seen) < self.tokens:
            return CONTINUE
        kind = CloseThought if event.phase is Phase.THINKING else StopSample
        return kind(sample=event.sample, rule=self.name)


class Broken:
    name = "broken"
    listens = frozenset({Chunk})
    needs = frozenset()

    def observe(self, event):
        raise ZeroDivisionError


def thinking(marks=MARKS, **given_):
    machine = Steering(marks=marks, stop_id=EOS, **given_)
    machine.read_prompt([WORD, *marks.start])
    return machine


def run(machine, steps):
    """Let a model that always says WORD write; what came out."""
    out = []
    for _ in range(steps):
        forced = machine.forced()
        token = WORD if forced is None else forced
        out.append(token)
        machine.take(token)
    return out


@pytest.mark.parametrize(
    ("prompt", "phase"),
    [
        ([], Phase.ANSWER),
        ([WORD, START], Phase.THINKING),
        ([START, WORD, END], Phase.ANSWER),
        ([START, END, START, WORD], Phase.THINKING),
    ],
    ids=["empty", "open", "closed", "reopened"],
)
def test_the_prompt_tells_whether_a_thought_is_open(prompt, phase):
    machine = Steering(marks=MARKS)
    machine.read_prompt(prompt)
    assert machine.phase is phase


@given(st.lists(st.sampled_from([START, END, WORD, EOS])), st.lists(st.sampled_from([START, END, WORD])))
def test_it_counts_as_the_gateway_does(tokens, prompt):
    gateway = ThoughtTracker(start=START, end=END)
    gateway.read_prompt(prompt)
    thought, _ = gateway.read(tokens)
    machine = Steering(marks=MARKS)
    machine.read_prompt(prompt)
    for token in tokens:
        machine.take(token)
    assert (machine.thinking, machine.phase, machine.tokens) == (thought, gateway.phase, len(tokens))


def test_a_mark_of_several_tokens_is_seen_across_prompt_and_output():
    machine = Steering(marks=Marks(start=(1, 2, 1), end=(5,), force=(5,)))
    machine.read_prompt([WORD, 1, 2])
    machine.take(1)
    assert machine.phase is Phase.THINKING


def test_a_rule_closes_the_thought_at_its_very_token():
    machine = thinking(rules=(AfterTokens(3),))
    assert run(machine, 5) == [WORD, WORD, WORD, END, WORD]
    assert machine.closed == Fired(rule="after_tokens", at_token=3)
    assert machine.phase is Phase.ANSWER


def test_a_rule_ends_the_answer():
    machine = thinking(rules=(AfterTokens(2),))
    assert run(machine, 5) == [WORD, WORD, END, WORD, EOS]
    assert machine.stopped == Fired(rule="after_tokens", at_token=4)


def test_rules_hear_of_every_token_with_what_was_measured():
    rule = AfterTokens(100)
    machine = thinking(rules=(rule,))
    machine.take(WORD, Measured(1.5, -2.0, 0.5))
    machine.take(END)

    assert [event.phase for event in rule.seen] == [Phase.THINKING, Phase.ANSWER]
    assert (rule.seen[0].entropies, rule.seen[0].close_logprobs, rule.seen[0].confidences) == ((1.5,), (-2.0,), (0.5,))
    assert (rule.seen[1].entropies, rule.seen[1].token_ids) == ((), (END,))
    assert {event.at for event in rule.seen} == {0.0}


@pytest.mark.parametrize("cap", [0, 1, 5])
def test_the_cap_is_exact(cap):
    machine = thinking(cap=cap)
    assert run(machine, cap + 2) == [WORD] * cap + [END, WORD]
    assert machine.closed == Fired(rule="thinking_tokens", at_token=cap)
    assert machine.thinking == cap


def test_a_running_cap_can_be_raised_and_lowered():
    machine = thinking(cap=3)
    run(machine, 2)
    machine.obey(Action.CAP, 10)
    assert run(machine, 4) == [WORD] * 4
    machine.obey(Action.CAP, 5)
    assert run(machine, 1) == [END]


def test_a_signal_closes_the_thought():
    machine = thinking()
    run(machine, 2)
    machine.obey(Action.CLOSE_THOUGHT, 0)
    assert run(machine, 2) == [END, WORD]
    assert machine.closed == Fired(rule="signal", at_token=2)


def test_a_signal_to_close_does_nothing_to_an_answer():
    machine = Steering(marks=MARKS, stop_id=EOS)
    machine.obey(Action.CLOSE_THOUGHT, 0)
    assert (machine.forced(), machine.closed) == (None, None)


def test_a_signal_stops():
    machine = thinking()
    machine.obey(Action.STOP, 0)
    assert run(machine, 1) == [EOS]
    assert machine.stopped == Fired(rule="signal", at_token=0)


def test_stopping_is_stronger_than_closing():
    machine = thinking()
    machine.obey(Action.CLOSE_THOUGHT, 0)
    machine.obey(Action.STOP, 0)
    assert machine.forced() == EOS


def test_without_a_token_that_ends_it_nothing_is_stopped_or_claimed():
    machine = Steering(marks=MARKS)
    machine.obey(Action.STOP, 0)
    assert (machine.forced(), machine.stopped) == (None, None)


def test_a_closing_phrase_is_forced_to_its_end():
    machine = thinking(PHRASE)
    machine.obey(Action.CLOSE_THOUGHT, 0)
    assert run(machine, 6) == [5, 6, 7, 8, 4, WORD]
    assert machine.phase is Phase.ANSWER


def test_a_closing_phrase_that_the_model_began_is_finished_not_doubled():
    machine = thinking(PHRASE)
    machine.take(5)
    machine.take(6)
    machine.obey(Action.CLOSE_THOUGHT, 0)
    assert run(machine, 4) == [7, 8, 4, WORD]


def test_a_forced_token_that_did_not_come_is_forced_again():
    machine = thinking(PHRASE)
    machine.obey(Action.CLOSE_THOUGHT, 0)
    machine.take(5)
    machine.take(WORD)
    assert run(machine, 5) == [5, 6, 7, 8, 4]


def test_nothing_is_forced_once_another_has_closed_the_thought():
    machine = thinking(PHRASE)
    machine.obey(Action.CLOSE_THOUGHT, 0)
    machine.take(7)
    machine.take(8)
    assert machine.forced() is None


def test_a_thought_that_is_opened_again_is_closed_again_by_its_cap():
    machine = thinking(cap=2)
    run(machine, 3)
    machine.take(START)
    assert machine.forced() == END
    assert machine.closed == Fired(rule="thinking_tokens", at_token=2)


def test_a_rule_that_raises_is_put_aside_and_the_others_go_on():
    machine = thinking(rules=(Broken(), AfterTokens(1)))
    machine.take(WORD)
    assert machine.failed == "broken"
    assert machine.forced() == END
    assert [rule.name for rule in machine.rules] == ["after_tokens"]


@given(
    tokens=st.lists(st.sampled_from([START, END, EOS, WORD, 5, 6, 7, 8, 4])),
    signals=st.lists(st.tuples(st.integers(0, 30), st.sampled_from(Action), st.integers(0, 20))),
    marks=st.sampled_from([None, MARKS, PHRASE]),
)
def test_whatever_comes_only_known_tokens_are_forced(tokens, signals, marks):
    machine = Steering(marks=marks, stop_id=EOS, cap=10)
    machine.read_prompt([START])
    allowed = {None, EOS, *(marks.force if marks else ())}
    for position, token in enumerate(tokens):
        for at, action, value in signals:
            if at == position:
                machine.obey(action, value)
        assert machine.forced() in allowed
        machine.take(token)
    assert machine.tokens == len(tokens)
