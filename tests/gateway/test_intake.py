import pytest
from suffice.server.errors import InvalidJson, InvalidRequest, UnknownSufficeKey
from suffice.server.gateway.field import parse_field
from suffice.server.gateway.intake import parse_object


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b"", "not valid JSON", id="empty"),
        pytest.param(b'{"a": 1', "line 1 column", id="cut"),
        pytest.param(b"[1]", "JSON object", id="array"),
        pytest.param(b'{"a": 1, "a": 2}', "same key twice", id="duplicate"),
        pytest.param(b'{"a": NaN}', "NaN", id="nan"),
        pytest.param(b'{"a": "\xff"}', "UTF-8", id="bad-utf8"),
        pytest.param(b'{"a": "\\ud800"}', "UTF-8", id="lone-surrogate"),
        pytest.param(b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "deep", id="deep"),
        pytest.param(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deep", id="very-deep"),
        pytest.param(b'{"a": ' + b"1" * 5000 + b"}", "too long", id="long-number"),
    ],
)
def test_bad_bodies_are_refused(body, says):
    with pytest.raises(InvalidJson, match=says):
        parse_object(body)


def test_surrogate_pairs_are_fine():
    assert parse_object(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.parametrize(
    ("value", "kind", "param", "says"),
    [
        pytest.param(
            {"budget": {"total_token": 1}}, UnknownSufficeKey, "suffice.budget.total_token", "'total_tokens'", id="near"
        ),
        pytest.param({"buget": {}}, UnknownSufficeKey, "suffice.buget", "'budget'", id="near-top"),
        pytest.param({"xyz": {}}, UnknownSufficeKey, "suffice.xyz", "known keys are", id="far"),
        pytest.param({"budget": {"samples": 0}}, InvalidRequest, "suffice.budget.samples", "greater", id="zero"),
        pytest.param({"budget": {"samples": "4"}}, InvalidRequest, "suffice.budget.samples", "integer", id="text"),
        pytest.param({"budget": {"samples": True}}, InvalidRequest, "suffice.budget.samples", "integer", id="bool"),
        pytest.param([], InvalidRequest, "suffice", "object", id="array"),
    ],
)
def test_the_suffice_field_is_strict(value, kind, param, says):
    with pytest.raises(kind, match=says) as caught:
        parse_field(value)
    assert caught.value.param == param
