"""Where address and key come from."""

import openai
import pytest
from clients.conftest import ADDRESS
from suffice import AsyncClient, Client

KINDS = [pytest.param(Client, id="sync"), pytest.param(AsyncClient, id="async")]


@pytest.mark.parametrize("kind", KINDS)
def test_passed_settings_win_over_ours_and_ours_over_the_official_ones(kind, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://official.test/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "official")
    assert (str(kind().base_url), kind().api_key) == ("http://official.test/v1/", "official")

    monkeypatch.setenv("SUFFICE_BASE_URL", "http://ours.test/v1")
    monkeypatch.setenv("SUFFICE_API_KEY", "ours")
    assert (str(kind().base_url), kind().api_key) == ("http://ours.test/v1/", "ours")

    assert str(kind(**ADDRESS).base_url) == "http://gateway.test/v1/"
    assert kind(**ADDRESS).api_key == "sk-suffice-test"


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_address_it_does_not_turn_to_openai(kind):
    with pytest.raises(openai.OpenAIError, match="SUFFICE_BASE_URL"):
        kind(api_key="sk-suffice-test")


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_key_the_official_error_is_raised(kind):
    with pytest.raises(openai.OpenAIError, match="api_key"):
        kind(base_url="http://gateway.test/v1")


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_keyword_is_a_type_error(kind):
    with pytest.raises(TypeError, match="budgets"):
        kind(**ADDRESS, budgets=1)
