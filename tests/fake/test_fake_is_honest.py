"""The same requests to the fake and to a real vLLM: kinds in order, shapes of frames, errors, counts.

Everything else that is tested against the fake rests on this. Where the two differ the fake is wrong. What the model
says plays no part: either it may say one word only, or the fake repeats what the engine's model says.
"""

from __future__ import annotations

import json

import pytest
from fake import mirror as mirrored
from fake.shapes import ask, counts_hold, differences, error, order, shape, spent
from fake_vllm import Script

pytestmark = pytest.mark.live

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
USER = [{"role": "user", "content": "What is 2 + 3?"}]
CONTINUOUS = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
LAST = {"stream": True, "stream_options": {"include_usage": True}}
PLAIN = {"stream": True}
LONG = "1 " * 9000


@pytest.fixture(scope="module")
def fake(live_engine):
    with mirrored.mirror(live_engine) as fake:
        yield fake


def both(live, fake, path, body, **how):
    """Ask both; a body that names token ids is a function of the server's id of the one word."""
    if callable(body):
        bodies = [body(mirrored.word_id(url, live.model)) for url in (live.url, fake.url)]
    else:
        bodies = [body, body]
    return tuple(ask(url, path, one, **how) for url, one in zip((live.url, fake.url), bodies, strict=True))


def opened(said):
    """Messages that leave off within the model's turn, so that any model is where the test wants it."""
    turns = [*USER, {"role": "assistant", "content": said}]
    return {"messages": turns, "continue_final_message": True, "add_generation_prompt": False}


def same(real, faked, *, counted=True):
    assert faked.status == real.status, (real.frames, faked.frames)
    assert faked.media_type == real.media_type
    assert faked.broke_off == real.broke_off
    if real.status == 200:
        assert order(faked) == order(real)
        assert differences(real, faked) == []
        assert not counted or spent(faked) == spent(real)
    else:
        assert error(faked) == error(real)


# One word only: any model does the same.

WORDS = {
    "plain": {},
    "n": {"n": 3},
    "thinking-budget": {"thinking_token_budget": 2},
    "thinking-budget-ids": {"thinking_token_budget": 2, "return_token_ids": True},
    "no-thinking": {"thinking_token_budget": 0},
    "ids": {"return_token_ids": True},
    "stop": {"stop": ["11"]},
    "stop-in-output": {"stop": ["11"], "include_stop_str_in_output": True},
    "stop-in-answer": {"stop": ["11"], "thinking_token_budget": 0},
    "stop-never-met": {"stop": ["never"], "thinking_token_budget": 1},
    "one-token": {"max_tokens": 1},
    "seed": {"seed": 7, "n": 2},
    "n-ids-budget": {"n": 2, "return_token_ids": True, "thinking_token_budget": 3},
}
CHAT_WORDS = WORDS | {
    "logprobs": {"logprobs": True},
    "top-logprobs": {"logprobs": True, "top_logprobs": 2, "thinking_token_budget": 1},
    "logprobs-ids-n": {"logprobs": True, "top_logprobs": 1, "return_token_ids": True, "n": 2},
    "hidden-thought": {"include_reasoning": False, "thinking_token_budget": 2},
    "hidden-thought-ids": {"include_reasoning": False, "thinking_token_budget": 2, "return_token_ids": True},
    "logprobs-hidden": {"include_reasoning": False, "thinking_token_budget": 2, "logprobs": True},
    "completion-tokens-field": {"max_completion_tokens": 3, "max_tokens": None},
    "unlimited-thought": {"thinking_token_budget": -1},
    "thought-closed": opened("<think>1</think>"),
    "thought-closed-budget": opened("<think>1</think>") | {"thinking_token_budget": 2, "return_token_ids": True},
    "no-thought": opened("1"),
    "budget-used-up": opened("<think>1 1 1 1") | {"thinking_token_budget": 2, "return_token_ids": True},
    "stop-without-thought": opened("<think>1</think>") | {"stop": ["11"]},
}
COMPLETIONS_WORDS = WORDS | {
    "logprobs": {"logprobs": 0},
    "top-logprobs": {"logprobs": 2, "return_token_ids": True},
    "prompts": {"prompt": ["a", "b"], "n": 2},
    "prompts-ids": {"prompt": ["a", "b"], "return_token_ids": True},
    "default-length": {"max_tokens": None},
}
HOW = {"whole": {}, "stream": PLAIN, "stream-usage": LAST, "stream-counts": CONTINUOUS}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("case", CHAT_WORDS)
def test_chat(live_engine, fake, case, how):
    body = {"model": live_engine.model, "max_tokens": 6} | opened("<think>") | CHAT_WORDS[case] | HOW[how]
    real, faked = both(live_engine, fake, CHAT, lambda word: body | {"allowed_token_ids": [word]})
    same(real, faked)
    if how == "stream-counts" and "error" not in order(real)[None]:
        counts_hold(real)
        counts_hold(faked)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("case", COMPLETIONS_WORDS)
def test_completions(live_engine, fake, case, how):
    body = {"model": live_engine.model, "prompt": "1 + 1", "max_tokens": 6} | COMPLETIONS_WORDS[case] | HOW[how]
    real, faked = both(live_engine, fake, COMPLETIONS, lambda word: body | {"allowed_token_ids": [word]})
    same(real, faked)
    if how == "stream-counts" and "error" not in order(real)[None]:
        counts_hold(real)
        counts_hold(faked)


# The fake repeats what the engine's model says.

TOOL = {
    "name": "look",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"deep": {"type": "boolean"}},
        "required": ["deep"],
        "additionalProperties": False,
    },
}
SCHEMA = {"type": "object", "properties": {"sum": {"enum": [5]}}, "required": ["sum"], "additionalProperties": False}
ONE = {"whole": {}, "stream": PLAIN}

RESPONSES_CASES = {
    "cut": {"max_output_tokens": 5},
    "longer": {"max_output_tokens": 48},
    "instructions": {"max_output_tokens": 5, "instructions": "Be brief."},
    "top-logprobs": {"max_output_tokens": 5, "include": ["message.output_text.logprobs"], "top_logprobs": 2},
    "messages": {"max_output_tokens": 5, "input": USER},
}
MESSAGES_CASES = {
    "cut": {"max_tokens": 5},
    "longer": {"max_tokens": 48},
    "system": {"max_tokens": 5, "system": "Be brief."},
    "thinking": {"max_tokens": 1100, "thinking": {"type": "enabled", "budget_tokens": 1024}},
    "stop-never-met": {"max_tokens": 5, "stop_sequences": ["never"]},
}


@pytest.mark.parametrize("how", ONE)
@pytest.mark.parametrize("case", RESPONSES_CASES)
def test_responses(live_engine, fake, case, how):
    body = {"model": live_engine.model, "input": USER[0]["content"], "temperature": 0} | RESPONSES_CASES[case]
    fake.says(mirrored.repeats(live_engine, USER, system=body.get("instructions"), tokens=body["max_output_tokens"]))
    same(*both(live_engine, fake, RESPONSES, body | ONE[how]))


@pytest.mark.parametrize("how", ONE)
@pytest.mark.parametrize("case", MESSAGES_CASES)
def test_messages(live_engine, fake, case, how):
    body = {"model": live_engine.model, "messages": USER, "temperature": 0} | MESSAGES_CASES[case]
    budget = {"thinking_token_budget": 1024} if "thinking" in body and fake.settings.reasoning_config else {}
    fake.says(mirrored.repeats(live_engine, USER, system=body.get("system"), tokens=body["max_tokens"], **budget))
    same(*both(live_engine, fake, MESSAGES, body | ONE[how]))


# The model is made to call a tool, or to write JSON.

NO_SPACE = {" ": -100, "\n": -100, "\t": -100, "\r": -100}
WARM = {"temperature": 0.5}
CHAT_TOOLS = [{"type": "function", "function": TOOL}]
FORCED = {
    "tool-required": {"tools": CHAT_TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
    "tool-named": {"tools": CHAT_TOOLS, "tool_choice": {"type": "function", "function": {"name": "look"}}},
    "tool-none": {"tools": CHAT_TOOLS, "tool_choice": "none", "max_tokens": 4},
    "tool-auto": {"tools": CHAT_TOOLS, "max_tokens": 4},
    "tool-named-n": {"tools": CHAT_TOOLS, "tool_choice": {"type": "function", "function": {"name": "look"}}, "n": 2}
    | WARM
    | {"return_token_ids": True},
    "tool-required-cut": {"tools": CHAT_TOOLS, "tool_choice": "required", "max_tokens": 3},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA}}},
    "schema-n": {"response_format": {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA}}, "n": 2}
    | WARM,
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("case", FORCED)
def test_tools_and_schemas(live_engine, fake, case, how):
    bias = mirrored.biases(live_engine, NO_SPACE)
    body = {"model": live_engine.model, "max_tokens": 128, "temperature": 0, "logit_bias": bias}
    # The thought is closed at once: its end must stand in the answer for vLLM to find it there.
    body |= opened("<think>") | {"thinking_token_budget": 0} | FORCED[case] | HOW[how]
    fake.says(mirrored.ENDLESS if case in ("tool-none", "tool-auto") else Script())
    # Into how many tokens a call or an object is cut is the tokenizer's business.
    same(*both(live_engine, fake, CHAT, body), counted=False)


RESPONSES_FORCED = {
    "required": {"tool_choice": "required"},
    "named": {"tool_choice": {"type": "function", "name": "look"}},
}


@pytest.mark.parametrize("how", ONE)
@pytest.mark.parametrize("case", RESPONSES_FORCED)
def test_tools_of_responses(live_engine, fake, case, how):
    body = {"model": live_engine.model, "input": "hi", "max_output_tokens": 600, "temperature": 0}
    body |= {"tools": [{"type": "function", **TOOL}], "parallel_tool_calls": False} | RESPONSES_FORCED[case] | ONE[how]
    thinks = fake.settings.reasoning_parser
    fake.says(Script(thought=(mirrored.WORD,)) if thinks else Script(opens_thought=False))
    same(*both(live_engine, fake, RESPONSES, body), counted=False)


MESSAGES_FORCED = {"any": {"type": "any"}, "named": {"type": "tool", "name": "look"}}


@pytest.mark.parametrize("how", ONE)
@pytest.mark.parametrize("case", MESSAGES_FORCED)
def test_tools_of_messages(live_engine, fake, case, how):
    if not fake.settings.reasoning_parser:
        pytest.skip("this API holds no model to a schema, and the packaged model calls tools with nonsense")
    body = {"model": live_engine.model, "messages": USER, "max_tokens": 600, "temperature": 0}
    body |= {"tools": [{"name": "look", "input_schema": TOOL["parameters"]}], "tool_choice": MESSAGES_FORCED[case]}
    fake.says(Script(thought=(mirrored.WORD,)))
    same(*both(live_engine, fake, MESSAGES, body | ONE[how]), counted=False)


# What is refused, and in which words.

BAD = {
    "length-no-number": {"max_tokens": "many"},
    "temperature-no-number": {"temperature": "hot"},
    "negative-temperature": {"temperature": -1},
    "unknown-model": {"model": "nothing"},
    "no-length": {"max_tokens": 0},
    "longer-than-context": {"max_tokens": 1 << 20},
    "no-choices": {"n": 0},
    "too-many-choices": {"n": 20000},
    "budget-below-unlimited": {"thinking_token_budget": -5},
    "empty-salt": {"cache_salt": ""},
    "options-without-stream": {"stream_options": {"include_usage": True}},
    "unknown-schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "y"}}}
    },
    "budget": {"thinking_token_budget": 3},
}
CHAT_BAD = BAD | {
    "no-messages": {"messages": []},
    "messages-no-list": {"messages": "hi"},
    "too-long": {"messages": [{"role": "user", "content": LONG}]},
    "top-without-logprobs": {"top_logprobs": 2},
    "too-many-logprobs": {"logprobs": True, "top_logprobs": 50},
    "choice-without-tools": {"tool_choice": "required"},
}
COMPLETIONS_BAD = BAD | {
    "no-prompt": {"prompt": ""},
    "no-prompts": {"prompt": []},
    "too-long": {"prompt": LONG},
    "too-many-logprobs": {"logprobs": 50},
    "out-of-vocabulary": {"prompt": [5_000_000]},
}
RESPONSES_BAD = {
    "unknown-model": {"model": "nothing"},
    "too-long": {"input": LONG},
    "no-input": {"input": None},
    "length-no-number": {"max_output_tokens": "many"},
    "longer-than-context": {"max_output_tokens": 1 << 20},
}
MESSAGES_BAD = {
    "unknown-model": {"model": "nothing"},
    "too-long": {"messages": [{"role": "user", "content": LONG}]},
    "budget-too-small": {"thinking": {"type": "enabled", "budget_tokens": 100}},
    "budget-not-below-length": {"max_tokens": 1100, "thinking": {"type": "enabled", "budget_tokens": 1100}},
    "length-no-number": {"max_tokens": "many"},
    "no-length": {"max_tokens": 0},
    "longer-than-context": {"max_tokens": 1 << 20},
    "messages-no-list": {"messages": "hi"},
}
GOOD = {
    CHAT: {"messages": USER, "max_tokens": 4, "temperature": 0},
    COMPLETIONS: {"prompt": "1 + 1", "max_tokens": 4, "temperature": 0},
    RESPONSES: {"input": "hi", "max_output_tokens": 4, "temperature": 0},
    MESSAGES: {"messages": USER, "max_tokens": 4, "temperature": 0},
}
REFUSED = [
    pytest.param(path, case, id=f"{path.rpartition('/')[2]}-{name}")
    for path, cases in (
        (CHAT, CHAT_BAD),
        (COMPLETIONS, COMPLETIONS_BAD),
        (RESPONSES, RESPONSES_BAD),
        (MESSAGES, MESSAGES_BAD),
    )
    for name, case in cases.items()
]


@pytest.mark.parametrize("how", ONE)
@pytest.mark.parametrize(("path", "case"), REFUSED)
def test_refusals(live_engine, fake, path, case, how):
    fake.says(mirrored.ENDLESS)
    body = {"model": live_engine.model} | GOOD[path] | case | ONE[how]
    real, faked = both(live_engine, fake, path, body)
    assert faked.status == real.status, (real.frames, faked.frames)
    assert faked.broke_off == real.broke_off
    if real.streamed:
        assert order(faked) == order(real)
        assert differences(real, faked) == []
    elif real.status != 200:
        assert error(faked) == error(real)


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("case", ["no-json", "no-object", "no-media-type"])
def test_bodies_that_cannot_be_read(live_engine, fake, path, case):
    raw = {"no-json": b"{", "no-object": b"[]"}.get(case) or json.dumps(GOOD[path]).encode()
    headers = {"content-type": "text/plain"} if case == "no-media-type" else None
    real, faked = both(live_engine, fake, path, raw, headers=headers)
    assert real.status >= 400
    assert (faked.status, error(faked)) == (real.status, error(real))


COUNTED = {
    "plain": {},
    "system": {"system": "Be brief."},
    "tools": {"tools": [{"name": "look", "input_schema": {"type": "object", "properties": {}}}]},
    "unknown-model": {"model": "nothing"},
    "no-messages": {"messages": None},
}


@pytest.mark.parametrize("case", COUNTED)
def test_count_tokens(live_engine, fake, case):
    body = {"model": live_engine.model, "messages": USER} | COUNTED[case]
    body = {name: value for name, value in body.items() if value is not None}
    real, faked = both(live_engine, fake, "/v1/messages/count_tokens", body)
    assert faked.status == real.status
    if real.status == 200:
        assert differences(real, faked) == []
    else:
        assert error(faked) == error(real)


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("path", [*GOOD, "/v1/nothing"])
def test_routes(live_engine, fake, path, method):
    real, faked = (mirrored.send(url, method, path) for url in (live_engine.url, fake.url))
    assert (faked.status_code, faked.json()) == (real.status_code, real.json())


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/version", "/metrics"])
def test_pages(live_engine, fake, path):
    real, faked = (mirrored.send(url, "GET", path) for url in (live_engine.url, fake.url))
    assert faked.status_code == real.status_code
    if path == "/metrics":
        shown, known = mirrored.series(faked.text), mirrored.series(real.text)
        assert shown.keys() <= known.keys()
        assert all(labels <= known[name] for name, labels in shown.items())
    elif path == "/v1/models":
        assert shape(faked.json()) == shape(real.json())


# suffice's plugin, as far as it answers without a running request.

SIGNALS = {
    "no-action": {},
    "unknown-action": {"slot": 1, "nonce": 5, "action": "open_thought"},
    "missing": {"slot": 1, "action": "stop"},
    "extra": {"slot": 1, "nonce": 5, "action": "stop", "value": 3},
    "cap-without-value": {"slot": 1, "nonce": 5, "action": "cap"},
    "slot-out-of-range": {"slot": 4096, "nonce": 5, "action": "stop"},
    "slot-no-number": {"slot": "1", "nonce": 5, "action": "stop"},
    "nonce-out-of-range": {"slot": 1, "nonce": 0, "action": "stop"},
    "nobody-there": {"slot": 4095, "nonce": 5, "action": "close_thought"},
    "cap-for-nobody": {"slot": 4095, "nonce": 5, "action": "cap", "value": 7},
}
SLOTS = ["4095?nonce=5", "4096?nonce=5", "x?nonce=5", "1?nonce=0", "1"]


@pytest.mark.parametrize("case", SIGNALS)
def test_signals_that_reach_nobody(live_engine, fake, case):
    real, faked = (mirrored.post(url, "/suffice/v1/signal", SIGNALS[case]) for url in (live_engine.url, fake.url))
    assert (faked.status_code, faked.json()) == (real.status_code, real.json())


@pytest.mark.parametrize("slot", SLOTS)
def test_slots_that_nobody_holds(live_engine, fake, slot):
    real, faked = (mirrored.get(url, f"/suffice/v1/slots/{slot}") for url in (live_engine.url, fake.url))
    assert (faked.status_code, faked.json()) == (real.status_code, real.json())


def test_what_the_plugin_says_of_itself(live_engine, fake):
    real, faked = (mirrored.get(url, "/suffice/v1/plugin").json() for url in (live_engine.url, fake.url))
    # The fake runs fewer rules, and its tokens have numbers of their own.
    assert faked["rules"].pop("names").items() <= real["rules"].pop("names").items()
    marks = [told.pop("thought") for told in (real, faked)]
    assert marks[0].keys() == marks[1].keys()
    assert faked == real


def test_a_signal_closes_the_thought_and_the_slot_tells_it(live_engine, fake, monkeypatch):
    fake.says(mirrored.ENDLESS)
    monkeypatch.setattr(fake.settings, "token_s", 0.005)
    told = []
    for number, server in enumerate((live_engine, fake)):
        word = mirrored.word_id(server.url, live_engine.model)
        slot = {"suffice_slot": 4000 + number, "suffice_nonce": 77 + number}
        body = {"model": live_engine.model, "max_tokens": 1500, "allowed_token_ids": [word], "vllm_xargs": slot}
        told.append(mirrored.closed_by_signal(server.url, body | opened("<think>")))
    real, faked = told
    assert faked.keys() == real.keys()
    assert faked["closed"]["rule"] == real["closed"]["rule"] == "signal"
    assert faked["closed"].keys() == real["closed"].keys()
    assert faked["stopped"] == real["stopped"] is None
    assert all(0 < one["closed"]["at_token"] <= one["tokens"] for one in told)
