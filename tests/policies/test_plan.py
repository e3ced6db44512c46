import pytest
from suffice.policies.budget import Budget
from suffice.policies.errors import InvalidBudget, PromptTooLong
from suffice.policies.plan import ApiFacts, Asked, ModelFacts, ThinkingCap, make_plan

PLAIN = ModelFacts(context=4096)
THINKS = ModelFacts(context=4096, thinks=True, engine_cap=True, close_tokens=2)
NO_ENGINE = ModelFacts(context=4096, thinks=True, close_tokens=2)


def asked(**limits):
    samples = limits.pop("n", 1)
    return Asked(samples=samples, prompt_tokens=10, sources=(("request", Budget(**limits)),))


def test_samples_share_the_total():
    plan = make_plan(asked(total_tokens=100, n=3), PLAIN, ApiFacts())
    assert (plan.samples, plan.sample_tokens, plan.total_tokens) == (3, 33, 99)


def test_the_worst_case_counts_prompt_and_answer():
    assert make_plan(asked(total_tokens=100), PLAIN, ApiFacts()).worst_case_tokens == 110


def test_without_any_limit_there_is_a_default():
    plan = make_plan(Asked(samples=1, prompt_tokens=10), ModelFacts(), ApiFacts())
    assert plan.sample_tokens == 4096
    assert plan.limits["sample_tokens"].source == "default"


def test_the_answer_is_fitted_to_the_context():
    plan = make_plan(asked(sample_tokens=9999), PLAIN, ApiFacts())
    assert plan.limits["sample_tokens"].value == 4086
    assert plan.limits["sample_tokens"].source == "model"


def test_a_prompt_that_fills_the_context_is_refused():
    full = Asked(samples=1, prompt_tokens=5000, prompt_exact=True)
    with pytest.raises(PromptTooLong, match="5000 tokens"):
        make_plan(full, PLAIN, ApiFacts())


@pytest.mark.parametrize(
    ("limits", "param"),
    [
        pytest.param({"total_tokens": 3, "n": 4}, "suffice.budget.total_tokens", id="less-than-a-token-each"),
        pytest.param({"samples": 2, "n": 4}, "suffice.budget.samples", id="n-above-own-samples"),
        pytest.param({"total_tokens": 9, "answer_reserve": 9}, "suffice.budget.answer_reserve", id="reserve-too-large"),
        pytest.param({"total_tokens": 2}, "suffice.budget.total_tokens", id="no-room-for-close-and-answer"),
    ],
)
def test_impossible_budgets_name_their_field(limits, param):
    with pytest.raises(InvalidBudget) as caught:
        make_plan(asked(**limits), THINKS, ApiFacts())
    assert caught.value.param == param


def test_a_ceiling_of_the_operators_lowers_n():
    both = Asked(samples=8, prompt_tokens=1, sources=(("key", Budget(samples=2)), ("request", Budget())))
    plan = make_plan(both, PLAIN, ApiFacts())
    assert plan.samples == 2
    assert plan.limits["samples"].source == "key"


@pytest.mark.parametrize(
    ("model", "api", "cap"),
    [
        pytest.param(THINKS, ApiFacts(), ThinkingCap.ENGINE, id="engine"),
        pytest.param(NO_ENGINE, ApiFacts(), ThinkingCap.GATEWAY, id="gateway"),
        pytest.param(THINKS, ApiFacts(engine_cap_min=1024), ThinkingCap.GATEWAY, id="below-the-apis-least"),
        pytest.param(NO_ENGINE, ApiFacts(can_resume=False), ThinkingCap.NONE, id="nobody"),
    ],
)
def test_who_caps_thinking(model, api, cap):
    plan = make_plan(asked(total_tokens=100, thinking_tokens=40), model, api)
    assert plan.thinking_cap is cap
    assert bool(plan.not_applied) == (cap is ThinkingCap.NONE)


@pytest.mark.parametrize("total", [3, 4, 8, 64, 1000])
def test_the_answer_always_fits_beside_the_thought(total):
    plan = make_plan(asked(total_tokens=total), THINKS, ApiFacts())
    assert plan.thinking_tokens + THINKS.close_tokens + plan.limits["answer_reserve"].value <= plan.sample_tokens
    assert plan.limits["answer_reserve"].value >= 1


def test_thinking_asked_of_a_model_that_does_not_think_is_reported():
    plan = make_plan(asked(thinking_tokens=10), PLAIN, ApiFacts())
    assert [item.rule for item in plan.not_applied] == ["thinking_tokens"]
