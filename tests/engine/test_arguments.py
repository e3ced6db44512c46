"""What a request may ask of the plugin, and what is refused before it reaches the engine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.policies.errors import InvalidBudget
from suffice.server.engine.plugin.arguments import Arguments, read_arguments
from suffice.server.engine.plugin.rules import make_rules, measures, reads_confidence, registry

SLOT = {"suffice_slot": 17, "suffice_nonce": 2**53 - 1}


def test_all_keys_are_read():
    asked = read_arguments({
        "suffice_rules": "engine_entropy:threshold=0.2,least_steps=3;repetition",
        "suffice_thinking_tokens": 0,
        "suffice_think_start": 5,
        "suffice_think_end": [6, 7],
        "suffice_step_ids": [1, 2],
        "another_plugins": True,
        **SLOT,
    })  # fmt: skip

    assert asked == Arguments(
        rules=(("engine_entropy", {"threshold": 0.2, "least_steps": 3}), ("repetition", {})),
        thinking_tokens=0,
        slot=17,
        nonce=2**53 - 1,
        think_start=(5,),
        think_end=(6, 7),
        step_ids=(1, 2),
    )


@pytest.mark.parametrize("extra", [None, {}, {"other": 1}, {"sufficient": 1}], ids=["none", "empty", "other", "alike"])
def test_who_asks_nothing_has_no_arguments(extra):
    assert read_arguments(extra) is None


@pytest.mark.parametrize(
    ("extra", "names"),
    [
        pytest.param({"suffice_rule": "repetition"}, "suffice_rules", id="unknown-key"),
        pytest.param({"suffice_slot": 1}, "suffice_nonce", id="slot-alone"),
        pytest.param({"suffice_nonce": 1}, "suffice_slot", id="nonce-alone"),
        pytest.param(SLOT | {"suffice_slot": -1}, "suffice_slot", id="slot-below"),
        pytest.param(SLOT | {"suffice_slot": 4096}, "suffice_slot", id="slot-above"),
        pytest.param(SLOT | {"suffice_slot": True}, "suffice_slot", id="slot-true"),
        pytest.param(SLOT | {"suffice_slot": 1.0}, "suffice_slot", id="slot-float"),
        pytest.param(SLOT | {"suffice_slot": "1"}, "suffice_slot", id="slot-text"),
        pytest.param(SLOT | {"suffice_nonce": 0}, "suffice_nonce", id="nonce-zero"),
        pytest.param(SLOT | {"suffice_nonce": 2**53}, "suffice_nonce", id="nonce-above"),
        pytest.param({"suffice_thinking_tokens": -1}, "suffice_thinking_tokens", id="cap-below"),
        pytest.param({"suffice_think_end": []}, "suffice_think_end", id="mark-empty"),
        pytest.param({"suffice_think_end": [1] * 33}, "suffice_think_end", id="mark-long"),
        pytest.param({"suffice_think_end": [2**31]}, "suffice_think_end", id="mark-above"),
        pytest.param({"suffice_think_start": "<think>"}, "suffice_think_start", id="mark-text"),
        pytest.param({"suffice_step_ids": [1] * 4097}, "suffice_step_ids", id="steps-many"),
        pytest.param({"suffice_rules": ""}, "suffice_rules", id="rules-empty"),
        pytest.param({"suffice_rules": 5}, "suffice_rules", id="rules-number"),
        pytest.param({"suffice_rules": "a" * 1025}, "suffice_rules", id="rules-long"),
        pytest.param({"suffice_rules": "repetition;"}, "empty", id="rules-semicolon"),
        pytest.param({"suffice_rules": "repetition;repetition"}, "twice", id="rules-twice"),
        pytest.param({"suffice_rules": "repetition:least"}, "least", id="parameter-bare"),
        pytest.param({"suffice_rules": "repetition:least=2,least=3"}, "least", id="parameter-twice"),
        pytest.param({"suffice_rules": ";".join(f"a{n}" for n in range(9))}, "9", id="rules-many"),
    ],
)
def test_what_cannot_be_meant_is_refused(extra, names):
    with pytest.raises(InvalidBudget, match=names) as refused:
        read_arguments(extra)
    assert refused.value.param.startswith("vllm_xargs.suffice_")


TEXT = st.text("abr:;=,.-019e", max_size=20)
VALUE = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.lists(st.integers() | TEXT, max_size=5)
KEY = st.sampled_from([
    "suffice_rules", "suffice_thinking_tokens", "suffice_slot", "suffice_nonce", "suffice_think_start",
    "suffice_think_end", "suffice_step_ids", "suffice_x",
])  # fmt: skip


@given(st.dictionaries(KEY, VALUE))
def test_anything_is_read_or_refused(extra):
    try:
        asked = read_arguments(extra)
    except InvalidBudget:
        return
    assert (asked is None) == (not extra)


def rules(text, cap=None):
    return make_rules(read_arguments({"suffice_rules": text}), thinking_tokens=cap, max_tokens=None)


def test_the_engine_runs_the_rules_that_live_on_what_it_knows():
    assert {"engine_entropy", "repetition", "static_cap", "boundary", "length"} <= set(registry().kinds)


@pytest.mark.parametrize("name", ["convergence", "deadline", "extend"])
def test_rules_that_live_on_probes_time_or_pauses_stay_in_the_gateway(name):
    with pytest.raises(InvalidBudget, match="no rule is named"):
        rules(name)


@pytest.mark.parametrize(
    "text",
    ["engine_entropy:threshold=high", "engine_entropy:threshold=-1", "engine_entropy:treshold=1", "nothing"],
    ids=["text", "range", "name", "rule"],
)
def test_parameters_are_checked_as_in_the_gateway(text):
    with pytest.raises(InvalidBudget):
        rules(text)


@pytest.mark.parametrize(
    ("text", "on_logits", "on_confidence"),
    [("repetition", False, False), ("engine_entropy", True, False), ("static_cap;boundary", True, False)],
    ids=["ids", "entropy", "close"],
)
def test_only_what_rules_live_on_is_measured(text, on_logits, on_confidence):
    made = rules(text)
    assert (measures(made), reads_confidence(made)) == (on_logits, on_confidence)


def test_the_length_rule_is_told_its_lengths():
    (rule,) = rules("length:thought_tokens=9")
    assert (rule.thought_tokens, rule.answer_tokens) == (9, None)
