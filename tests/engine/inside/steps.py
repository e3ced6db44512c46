"""Steps of a batch on both runners' interfaces: caps, rules, signals, rows that move, measurements."""

from __future__ import annotations

import math

import torch
from runners import First, Second, on_both
from setting import CAP, CONFIG, END, EOS, START, VOCABULARY, WORD, params, table, ticket
from suffice.server.engine.plugin import processor as plugin
from suffice.server.engine.plugin.measuring import measure
from suffice.server.engine.plugin.setting import EngineSetting
from suffice.server.engine.plugin.table import Action


def check_measurements_equal_their_definitions():
    logits = torch.randn(3, 50, dtype=torch.float32) * 4
    logits[1, 5:] = -math.inf
    got = measure(logits, torch.tensor([4, 4, -1]), confidence=True)
    for row in range(3):
        logprobs = torch.log_softmax(logits[row].double(), dim=0)
        p = logprobs.exp()
        entropy = -(p[p > 0] * logprobs[p > 0]).sum()
        assert abs(got[row, 0] - entropy) < 1e-4
        assert abs(got[row, 2] + logprobs.topk(5).values.mean()) < 1e-4
    assert abs(got[0, 1] - torch.log_softmax(logits[0], 0)[4]) < 1e-5
    assert got[2, 1] == -100
    assert torch.isfinite(got).all()


def check_measuring_changes_nothing():
    logits = torch.randn(3, 50)
    before = logits.clone()
    measure(logits, torch.tensor([4, 4, -1]), confidence=False)
    assert torch.equal(logits, before)


@on_both
def check_a_batch_that_asks_nothing_is_not_touched(runner):
    runner.add("a", params())
    runner.add("b", params({"other": 1}))
    for _ in range(3):
        given = runner.fresh_logits(2)
        before = given.clone()
        assert runner.processor.apply(given) is given
        assert torch.equal(given, before)


@on_both
def check_the_cap_closes_one_thought_and_leaves_the_neighbours_alone(runner):
    runner.add("plain", params())
    runner.add("capped", params(CAP | {"suffice_thinking_tokens": 3}))
    runner.add("other", params())
    for _ in range(6):
        runner.step()
        for row, name in enumerate(runner.rows if isinstance(runner, First) else runner.slots):
            if name != "capped":
                assert torch.equal(runner.logits[row], runner.raw[row])
    assert runner.outputs("capped") == [WORD, WORD, WORD, END, WORD, WORD]
    assert runner.outputs("plain") == [WORD] * 6


@on_both
def check_rows_that_move_keep_their_requests(runner):
    runner.add("first", params())
    runner.add("second", params())
    runner.add("capped", params(CAP | {"suffice_thinking_tokens": 4}))
    runner.steps(2)
    runner.remove("first")
    runner.steps(1)
    runner.swap("capped", "second")
    runner.steps(3)
    assert runner.outputs("capped") == [WORD] * 4 + [END, WORD]
    assert END not in runner.outputs("second")


@on_both
def check_a_newcomer_in_the_place_of_one_that_asked_is_free(runner):
    runner.add("capped", params(CAP | {"suffice_thinking_tokens": 2}))
    runner.steps(1)
    runner.remove("capped")
    runner.add("plain", params())
    runner.steps(4)
    assert runner.outputs("plain") == [WORD] * 4


@on_both
def check_the_thought_may_be_opened_by_the_model(runner):
    runner.add("a", params(CAP | {"suffice_thinking_tokens": 2}), prompt=[WORD])
    runner.steps(1)
    runner.outputs("a")[0] = START
    if isinstance(runner, Second):
        runner.state.all_token_ids.gpu[runner.slots["a"], 1] = START
    runner.steps(3)
    assert runner.outputs("a") == [START, WORD, END, WORD]


@on_both
def check_parts_of_a_prompt_are_not_taken_for_tokens(runner):
    runner.add("long", params(CAP | {"suffice_thinking_tokens": 2}), prompt=[WORD, START, WORD, WORD])
    runner.step(discard=("long",))
    runner.step(discard=("long",))
    runner.steps(4)
    assert runner.outputs("long") == [WORD, WORD, END, WORD]


@on_both
def check_a_rule_on_entropy_sees_the_whole_distribution(runner):
    runner.add("a", params(CAP | {"suffice_rules": "engine_entropy:threshold=20,variance=100,least_steps=2,"
                                  "least_tokens=4,step_tokens=2"}))  # fmt: skip
    rule = next(iter(runner.processor._seats.values()))[0].machine.rules[0]
    seen = []
    observe = rule.observe

    def watched(event):
        seen.append(event)
        return observe(event)

    rule.observe = watched
    runner.seed = 100
    runner.step()
    first = runner.raw[0].clone()
    runner.steps(5)
    assert runner.outputs("a") == [WORD] * 4 + [END, WORD]
    logprobs = torch.log_softmax(first, 0)
    assert abs(seen[0].entropies[0] + float((logprobs.exp() * logprobs).sum())) < 1e-4
    assert abs(seen[0].close_logprobs[0] - float(logprobs[END])) < 1e-4
    assert all(len(event.entropies) == 1 for event in seen)


@on_both
def check_a_loop_in_the_answer_ends_it(runner):
    runner.add("a", params({"suffice_rules": "repetition:min_count=2,least=6,max_pattern=2"}), prompt=[WORD])
    runner.steps(8)
    assert runner.outputs("a")[:7] == [WORD] * 6 + [EOS]


@on_both
def check_a_grammar_is_not_broken_by_a_forced_end(runner):
    grammar = params({"suffice_rules": "repetition:min_count=2,least=6,max_pattern=2"})
    grammar.structured_outputs = object()
    runner.add("a", grammar, prompt=[WORD])
    runner.steps(9)
    assert runner.outputs("a") == [WORD] * 9


@on_both
def check_a_signal_closes_at_the_next_token_and_is_told(runner):
    mine = ticket()
    runner.add("a", params(CAP | mine))
    runner.steps(3)
    front = table()
    front.post(mine["suffice_slot"], mine["suffice_nonce"], Action.CLOSE_THOUGHT)
    runner.steps(3)
    assert runner.outputs("a") == [WORD] * 3 + [END, WORD, WORD]
    status = front.status(mine["suffice_slot"], mine["suffice_nonce"])
    assert (status.closed.rule, status.closed.at_token, status.thinking) == ("signal", 3, 3)
    assert status.tokens == 5  # the newest is taken in at the next step
    front.close()


@on_both
def check_a_signal_to_a_former_tenant_does_nothing(runner):
    mine = ticket()
    runner.add("old", params(CAP | mine))
    runner.steps(1)
    front = table()
    front.post(mine["suffice_slot"], mine["suffice_nonce"], Action.STOP)
    runner.remove("old")
    runner.add("new", params(CAP | {"suffice_slot": mine["suffice_slot"], "suffice_nonce": mine["suffice_nonce"] ^ 1}))
    runner.steps(4)
    assert runner.outputs("new") == [WORD] * 4
    front.close()


@on_both
def check_a_preempted_request_keeps_its_state_and_its_signals(runner):
    mine = ticket()
    runner.add("a", params(CAP | mine | {"suffice_thinking_tokens": 6, "suffice_rules": "length:thought_tokens=4"}))
    runner.steps(3)
    runner.remove("a")
    front = table()
    front.post(mine["suffice_slot"], mine["suffice_nonce"], Action.CAP, 50)
    runner.add("b", params())
    runner.steps(2)
    runner.come_back("a")
    runner.steps(4)
    assert runner.outputs("a") == [WORD] * 5 + [END, WORD]
    assert front.status(mine["suffice_slot"], mine["suffice_nonce"]).closed.rule == "length"
    front.close()


@on_both
def check_a_preempted_request_without_a_slot_is_read_again(runner):
    runner.add("a", params(CAP | {"suffice_thinking_tokens": 5}))
    runner.steps(3)
    runner.remove("a")
    runner.come_back("a")
    runner.steps(4)
    assert runner.outputs("a") == [WORD] * 5 + [END, WORD]


@on_both
def check_marks_outside_the_vocabulary_do_no_harm(runner):
    runner.add("a", params({"suffice_think_start": START, "suffice_think_end": VOCABULARY,
                            "suffice_thinking_tokens": 0}))  # fmt: skip
    runner.steps(2)
    assert runner.outputs("a") == [WORD, WORD]


@on_both
def check_a_mistake_in_a_step_ends_no_engine(runner):
    runner.add("a", params(CAP | {"suffice_thinking_tokens": 2}))
    runner.processor._measure = lambda *_: 1 / 0
    runner.steps(4)
    assert runner.outputs("a") == [WORD] * 4


@on_both
def check_many_requests_at_once(runner):
    for index in range(6):
        runner.add(f"r{index}", params(CAP | {"suffice_thinking_tokens": index, "suffice_rules": "boundary",
                                              **ticket()}))  # fmt: skip
    runner.steps(8)
    for index in range(6):
        assert runner.outputs(f"r{index}") == [WORD] * index + [END] + [WORD] * (7 - index), index


def check_the_second_runner_is_told_who_asks():
    runner = Second()
    runner.add("plain", params())
    assert runner.asked is False
    runner.add("asks", params(ticket()))
    assert runner.asked is True


def check_ranks_act_on_a_signal_at_the_same_token():
    """Two ranks of one engine, the one ahead of the other in either order, read a signal between their steps."""
    for order in ((0, 1), (1, 0)):
        ranks = [First(), First()]
        for rank in ranks:
            rank.processor.setting = EngineSetting.of(CONFIG).__class__(**{
                name: getattr(rank.processor.setting, name) if name != "ranks" else 2
                for name in rank.processor.setting.__slots__
            })  # fmt: skip
        ranks[1].processor._leads = False
        mine = ticket()
        for rank in ranks:
            rank.add("a", params(CAP | mine))
        front = table()
        for step in range(20):
            for number in order:
                ranks[number].step()
                if step == 3 and number == order[0]:
                    front.post(mine["suffice_slot"], mine["suffice_nonce"], Action.CLOSE_THOUGHT)
        one, other = (rank.outputs("a") for rank in ranks)
        assert one == other
        assert one.index(END) in (3 + plugin.AGREEMENT_TOKENS, 4 + plugin.AGREEMENT_TOKENS), one
        front.close()
