"""A thought that is capped is followed by an answer, whatever the cap, the total, the reserve, the API and who caps."""

from __future__ import annotations

import pytest
from live.asking import THOUGHT, ask, body

pytestmark = pytest.mark.live

STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
APIS = pytest.mark.parametrize("api", ["chat", "completions"])
MARK = "</think>"
CAPS = [0, 1, 2, 5, 20, 100, 400]
LIMITS = {
    "total": {"total_tokens": 24},
    "small-total": {"total_tokens": 4},
    "reserve": {"total_tokens": 40, "answer_reserve": 30},
    "cap-above-room": {"total_tokens": 40, "thinking_tokens": 400},
    "cap-and-reserve": {"total_tokens": 64, "answer_reserve": 8, "thinking_tokens": 16},
    "roomy": {"total_tokens": 300, "answer_reserve": 5},
}


def answers(told, api):
    """The answer of each choice: in completions it is what follows the closing mark."""
    assert told.status == 200, told.body
    if api == "chat":
        return list(told.texts.values())
    assert all(text.count(MARK) == 1 for text in told.texts.values()), told.texts
    return [text.partition(MARK)[2] for text in told.texts.values()]


def stops(told):
    return [(stop["rule"], stop["by"]) for stop in told.receipt["stops"]]


def endless(api, live, word, **suffice):
    """A request whose thought never ends by itself, nor its answer."""
    return body(api, live.model, tokens=None, thinking=THOUGHT, allowed_token_ids=[word], suffice={"budget": suffice})


@STREAM
@APIS
@pytest.mark.parametrize("cap", CAPS)
def test_the_engine_closes_at_the_cap(live_engine, thinks, word, api, cap, stream):
    told = ask(thinks, api, endless(api, live_engine, word, thinking_tokens=cap, total_tokens=cap + 9), stream=stream)
    (answer,) = answers(told, api)
    assert answer
    assert told.receipt["plan"]["thinking_cap"] == "engine"
    assert told.receipt["plan"]["limits"]["thinking_tokens"][0] <= cap
    # All was used: what the thought took, its mark, and the answer to the end of the total.
    assert told.spent[1] == cap + 9


@STREAM
@APIS
@pytest.mark.parametrize("cap", CAPS)
def test_the_gateway_closes_at_the_cap(live_engine, thinks, no_budgets, word, api, cap, stream):
    gateway, _ = no_budgets
    told = ask(gateway, api, endless(api, live_engine, word, thinking_tokens=cap, total_tokens=cap + 9), stream=stream)
    (answer,) = answers(told, api)
    assert answer
    assert told.receipt["plan"]["thinking_cap"] == "gateway"
    assert ("thinking_tokens", "gateway") in stops(told)
    assert told.spent[1] == cap + 9


@STREAM
@APIS
@pytest.mark.parametrize("limits", LIMITS)
def test_limits_that_leave_room_for_an_answer(live_engine, thinks, no_budgets, word, api, limits, stream):
    for gateway, by in ((thinks, "engine"), (no_budgets[0], "gateway")):
        told = ask(gateway, api, endless(api, live_engine, word, **LIMITS[limits]), stream=stream)
        (answer,) = answers(told, api)
        reserve, source = told.receipt["plan"]["limits"]["answer_reserve"]
        assert source == ("request" if "answer_reserve" in LIMITS[limits] else "default")
        # Each token is one character of the one word that the model may say.
        assert len(answer) >= reserve
        assert told.receipt["plan"]["thinking_cap"] == by
        assert told.spent[1] == LIMITS[limits]["total_tokens"]


@STREAM
@APIS
def test_every_sample_answers(live_engine, thinks, no_budgets, word, api, stream):
    for gateway in (thinks, no_budgets[0]):
        request = endless(api, live_engine, word, thinking_tokens=6, total_tokens=60) | {"n": 3}
        told = ask(gateway, api, request, stream=stream)
        found = answers(told, api)
        assert len(found) == 3
        assert all(found)
        assert sorted(stop["sample"] for stop in told.receipt["stops"] if stop["rule"] == "thinking_tokens") == [
            0,
            1,
            2,
        ]


@STREAM
@APIS
@pytest.mark.parametrize("field", ["thinking_token_budget", "suffice"])
def test_who_closed_stands_in_the_receipt(live_engine, thinks, no_budgets, word, api, field, stream):
    for gateway, by in ((thinks, "engine"), (no_budgets[0], "gateway")):
        request = endless(api, live_engine, word, total_tokens=40)
        if field == "suffice":
            request["suffice"]["budget"]["thinking_tokens"] = 5
        else:
            request["thinking_token_budget"] = 5
        told = ask(gateway, api, request, stream=stream)
        assert stops(told) == [("thinking_tokens", by), ("total_tokens", "engine")]
        assert told.receipt["plan"]["limits"]["thinking_tokens"] == [
            5,
            "request" if field == "suffice" else "thinking_token_budget",
        ]


@STREAM
@pytest.mark.parametrize("effort", ["none", "minimal", "low"])
def test_efforts_answer(live_engine, thinks, word, effort, stream):
    request = body(
        "chat", live_engine.model, tokens=600, thinking=THOUGHT, allowed_token_ids=[word], reasoning_effort=effort
    )
    told = ask(thinks, "chat", request, stream=stream)
    assert answers(told, "chat")[0]
    assert ("thinking_tokens", "engine") in stops(told) or effort == "none"


@STREAM
@pytest.mark.parametrize("api", ["chat", "completions", "responses", "messages"])
@pytest.mark.parametrize("cap", [0, 3, 40])
def test_as_the_model_likes(live_engine, thinks, api, cap, stream):
    """Without any help, the model opens its own thought; an API that cannot cap it says so in the receipt."""
    request = body(api, live_engine.model, tokens=400, temperature=0, suffice={"budget": {"thinking_tokens": cap}})
    told = ask(thinks, api, request, stream=stream)
    assert told.status == 200
    if api in ("responses", "messages"):
        assert [item["rule"] for item in told.receipt["not_applied"]] == ["thinking_tokens"]
        assert told.receipt["plan"]["thinking_cap"] == "none"
    else:
        assert told.receipt["plan"]["thinking_cap"] == "engine"
        assert told.texts[0]
