import pytest
from suffice.policies.errors import InvalidBudget
from suffice.policies.rules import Kind, Parameter, Registry

PARAMETERS = {
    "count": Parameter(default=4, least=1, most=9),
    "share": Parameter(default=0.5, least=0, most=1),
    "loud": Parameter(default=False),
    "way": Parameter(default="fast", choices=("fast", "slow")),
    "limit": Parameter(default=None, least=0),
}
RULES = Registry(
    path="suffice.test",
    kinds={
        "first": Kind(name="first", make=dict, parameters=PARAMETERS, what="", guarantee=""),
        "bare": Kind(name="bare", make=dict, parameters={}, what="", guarantee=""),
    },
)


def test_a_rule_is_built_with_what_was_given_and_the_defaults_of_the_rest():
    made = RULES.make("first", {"count": 9, "limit": 2}, family="passed on")
    assert made == {"count": 9, "share": 0.5, "loud": False, "way": "fast", "limit": 2, "family": "passed on"}


@pytest.mark.parametrize("value", [0, 1, 0.25])
def test_whole_numbers_are_numbers_too(value):
    assert RULES.make("first", {"share": value})["share"] == value


def test_what_is_off_may_be_said_to_be_off():
    assert RULES.make("first", {"limit": None})["limit"] is None


@pytest.mark.parametrize(
    ("name", "given", "param", "says"),
    [
        pytest.param("frist", {}, "suffice.test.rule", "'first'", id="near-rule"),
        pytest.param("xyz", {}, "suffice.test.rule", "there are bare, first", id="no-rule"),
        pytest.param("first", {"cuont": 1}, "suffice.test.cuont", "'count'", id="near-parameter"),
        pytest.param("bare", {"x": 1}, "suffice.test.x", "there are none", id="no-parameters"),
        pytest.param("first", {"count": 0}, "suffice.test.count", "from 1 to 9", id="too-small"),
        pytest.param("first", {"count": 10}, "suffice.test.count", "from 1 to 9", id="too-large"),
        pytest.param("first", {"count": 1.5}, "suffice.test.count", "whole number", id="not-whole"),
        pytest.param("first", {"count": True}, "suffice.test.count", "true or false", id="bool-for-number"),
        pytest.param("first", {"count": None}, "suffice.test.count", "whole number", id="nothing"),
        pytest.param("first", {"share": "x"}, "suffice.test.share", "a number", id="text-for-number"),
        pytest.param("first", {"share": float("nan")}, "suffice.test.share", "from 0 to 1", id="nan"),
        pytest.param("first", {"loud": 1}, "suffice.test.loud", "true or false", id="number-for-bool"),
        pytest.param("first", {"way": 5}, "suffice.test.way", "a text", id="number-for-text"),
        pytest.param("first", {"way": "odd"}, "suffice.test.way", "one of fast, slow", id="no-choice"),
        pytest.param("first", {"limit": -1}, "suffice.test.limit", "from 0", id="below"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_path(name, given, param, says):
    with pytest.raises(InvalidBudget, match=says) as caught:
        RULES.make(name, given)
    assert caught.value.param == param
