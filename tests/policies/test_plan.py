import pytest
from suffice.policies.budget import Budget
from suffice.policies.errors import InvalidBudget, PromptTooLong
from suffice.policies.plan import ApiFacts, Asked, Draws, ModelFacts, ThinkingCap, make_plan

PLAIN = ModelFacts(context=4096)
THINKS = ModelFacts(context=4096, thinks=True, engine_cap=True, close_tokens=2)
SIGNALS = ModelFacts(thinks=True, engine_cap=True, engine_signal=True)
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


def wishes(**more):
    return Asked(samples=4, prompt_tokens=10, sources=(("request", Budget(total_tokens=800)),), **more)


@pytest.mark.parametrize(
    ("model", "api", "closer", "why"),
    [
        pytest.param(THINKS, ApiFacts(), ThinkingCap.GATEWAY, None, id="gateway"),
        pytest.param(
            ModelFacts(thinks=True, engine_cap=True, engine_signal=True),
            ApiFacts(can_resume=False),
            ThinkingCap.ENGINE,
            None,
            id="engine",
        ),
        pytest.param(PLAIN, ApiFacts(), ThinkingCap.NONE, "no thinking tokens", id="no-thought"),
        pytest.param(THINKS, ApiFacts(tells_tokens=False), ThinkingCap.NONE, "no token ids", id="no-ids"),
        pytest.param(THINKS, ApiFacts(can_resume=False), ThinkingCap.NONE, "would lose a parser", id="nobody"),
    ],
)
def test_who_closes_a_thought_early(model, api, closer, why):
    plan = make_plan(wishes(closes=True, probes=True), model, api)
    assert plan.close_by is closer
    assert (plan.probe_tokens > 0) is (closer is not ThinkingCap.NONE)
    assert [item.rule for item in plan.not_applied] == ([] if why is None else ["early_exit"])
    assert why is None or why in plan.not_applied[0].why


def test_nobody_closes_early_what_no_rule_asks_for():
    assert make_plan(wishes(), THINKS, ApiFacts(can_resume=False)).close_by is ThinkingCap.NONE


def test_rules_of_the_engine_are_reported_where_it_has_none():
    able = ModelFacts(thinks=True, engine_rules=frozenset({"entropy"}))
    assert make_plan(wishes(in_engine=("entropy",)), able, ApiFacts()).not_applied == ()
    missing = make_plan(wishes(in_engine=("entropy", "other")), able, ApiFacts()).not_applied
    assert [item.rule for item in missing] == ["other"]


@pytest.mark.parametrize(
    ("ceiling", "most", "first"),
    [pytest.param(None, 16, 4, id="free"), pytest.param(3, 3, 1, id="ceiling")],
)
def test_samples_drawn_by_a_rule_share_only_what_they_launch_with(ceiling, most, first):
    sources = (("key", Budget(samples=ceiling)), ("request", Budget(total_tokens=800)))
    asked = Asked(samples=1, prompt_tokens=1, sources=sources, draws=Draws(most=16, first=lambda most: most // 4))
    plan = make_plan(asked, PLAIN, ApiFacts())
    assert (plan.most_samples, plan.samples, plan.sample_tokens) == (most, first, 800 // first)
    assert plan.total_tokens == 800
    assert plan.votes


def test_a_tiny_standard_length_is_cut_and_not_refused():
    asked = Asked(samples=1, prompt_tokens=1, sources=(("max_tokens", Budget(sample_tokens=1)),))
    plan = make_plan(asked, THINKS, ApiFacts())
    assert (plan.sample_tokens, plan.thinking_tokens) == (1, 0)


@pytest.mark.parametrize("source", ["preset", "reasoning_effort"])
def test_thinking_implied_of_a_model_that_does_not_think_is_no_news(source):
    asked = Asked(samples=1, prompt_tokens=1, sources=((source, Budget(thinking_tokens=5)),))
    assert make_plan(asked, PLAIN, ApiFacts()).not_applied == ()


def test_prompts_share_the_samples_in_order():
    asked = Asked(samples=2, prompts=3, prompt_tokens=9, sources=(("request", Budget(total_tokens=600)),))
    plan = make_plan(asked, PLAIN, ApiFacts())
    assert [plan.prompt_of(sample) for sample in range(6)] == [0, 0, 1, 1, 2, 2]


def test_a_named_length_stands_and_the_thought_within_it_is_fitted_to_the_context():
    asked = Asked(
        samples=1,
        prompt_tokens=4000,
        prompt_exact=True,
        explicit_length=True,
        sources=(("max_tokens", Budget(sample_tokens=3000)),),
    )
    plan = make_plan(asked, THINKS, ApiFacts())
    assert plan.sample_tokens == 3000
    assert plan.thinking_tokens == 96 - 24 - 2
