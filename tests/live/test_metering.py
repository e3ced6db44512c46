"""What the gateway says was spent is what the engine says it spent, by the engine's own counters."""

from __future__ import annotations

import pytest
from live.asking import THOUGHT, ask, body
from live.engine_truth import settled, spending, token_count

pytestmark = pytest.mark.live

STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
JSON = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA}}
FUNCTION = {"name": "look", "parameters": {"type": "object", "properties": {"deep": {"type": "boolean"}}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
FLAT_TOOLS = [{"type": "function", **FUNCTION}]
ANTHROPIC_TOOLS = [{"name": "look", "input_schema": FUNCTION["parameters"]}]
NAMED = {"type": "function", "function": {"name": "look"}}

NATURAL = {
    "chat": ("chat", {}),
    "chat-n3": ("chat", {"n": 3, "seed": 1}),
    "chat-greedy-n3": ("chat", {"n": 3, "temperature": 0}),
    "chat-logprobs": ("chat", {"logprobs": True, "top_logprobs": 2, "n": 2, "seed": 1}),
    "chat-tools": ("chat", {"tools": TOOLS}),
    "chat-tool-required": ("chat", {"tools": TOOLS, "tool_choice": "required"}),
    "chat-tool-named": ("chat", {"tools": TOOLS, "tool_choice": NAMED}),
    "chat-json": ("chat", {"response_format": JSON}),
    "chat-effort": ("chat", {"reasoning_effort": "low"}),
    "chat-no-thinking": ("chat", {"reasoning_effort": "none"}),
    "chat-thinking-capped": ("chat", {"suffice": {"budget": {"thinking_tokens": 8}}}),
    "chat-hidden-thought": ("chat", {"include_reasoning": False}),
    "chat-stop": ("chat", {"stop": ["e", "1"]}),
    "completions": ("completions", {}),
    "completions-n3": ("completions", {"n": 3, "seed": 1}),
    "completions-json": ("completions", {"response_format": JSON}),
    "completions-stop": ("completions", {"stop": ["e"]}),
    "completions-logprobs": ("completions", {"logprobs": 2}),
    "responses": ("responses", {}),
    "responses-tools": ("responses", {"tools": FLAT_TOOLS, "tool_choice": "required"}),
    "responses-json": ("responses", {"text": {"format": {"type": "json_schema", "name": "sum", "schema": SCHEMA}}}),
    "responses-stop": ("responses", {"stop": ["e"]}),
    "messages": ("messages", {}),
    "messages-tools": ("messages", {"tools": ANTHROPIC_TOOLS, "tool_choice": {"type": "any"}}),
    "messages-json": ("messages", {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
    "messages-stop": ("messages", {"stop_sequences": ["e"]}),
}


def agree(gateway, told, spent, *, prompts=1):
    """Receipt, usage, ledger and engine say the same.

    ``prompts`` is how often the engine read the prompt: once for each sample and each resumed segment.
    """
    assert told.status == 200, told.body
    assert told.receipt is not None
    prompt, generated = told.spent
    assert told.usage == (prompt, generated)
    assert generated == spent.generated
    if prompts is not None:
        assert prompt * prompts == spent.prompt
    row = settled(gateway.data_dir, told.receipt["request_id"])
    assert (row.used, row.outcome) == (prompt + generated, "completed")
    assert row.used <= row.reserved
    assert "estimated" not in told.receipt["spent"]


@STREAM
@pytest.mark.parametrize("case", NATURAL)
def test_as_the_model_likes(live_engine, gateway, case, stream):
    api, more = NATURAL[case]
    with spending(live_engine.url) as spent:
        told = ask(gateway, api, body(api, live_engine.model, tokens=48, **more), stream=stream)
    agree(gateway, told, spent, prompts=more.get("n", 1))


@STREAM
@pytest.mark.parametrize("api", ["chat", "completions", "responses", "messages"])
def test_a_whole_thought_and_answer(live_engine, gateway, api, stream):
    with spending(live_engine.url) as spent:
        told = ask(gateway, api, body(api, live_engine.model, tokens=600, temperature=0), stream=stream)
    agree(gateway, told, spent)


@STREAM
def test_several_prompts(live_engine, gateway, stream):
    request = body("completions", live_engine.model, tokens=5) | {"prompt": ["Start at 1.", "Start at 1."], "n": 3}
    with spending(live_engine.url) as spent:
        told = ask(gateway, "completions", request, stream=stream)
    agree(gateway, told, spent, prompts=None)
    assert told.spent[0] * 3 == spent.prompt


WORDS = {
    "engine-cap": ({"suffice": {"budget": {"thinking_tokens": 5}}}, 20),
    "engine-cap-n3": ({"suffice": {"budget": {"thinking_tokens": 5}}, "n": 3}, 60),
    "stop": ({"stop": ["111"]}, 3),
    "total": ({"suffice": {"budget": {"total_tokens": 21}}, "n": 3, "max_tokens": None}, 21),
}


@STREAM
@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("case", WORDS)
def test_to_the_token(live_engine, thinks, word, api, case, stream):
    more, tokens = WORDS[case]
    request = body(api, live_engine.model, tokens=20, thinking=THOUGHT, allowed_token_ids=[word]) | more
    request = {name: value for name, value in request.items() if value is not None}
    with spending(live_engine.url) as spent:
        told = ask(thinks, api, request, stream=stream)
    agree(thinks, told, spent, prompts=more.get("n", 1))
    assert spent.generated == tokens


@STREAM
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_thoughts_that_the_gateway_closes(live_engine, thinks, no_budgets, word, api, n, stream):
    gateway, wire = no_budgets
    wire.asked.clear()
    cap = {"suffice": {"budget": {"thinking_tokens": 7}}, "n": n}
    request = body(api, live_engine.model, tokens=20, thinking=THOUGHT, allowed_token_ids=[word], **cap)
    with spending(live_engine.url) as spent:
        told = ask(gateway, api, request, stream=stream)
    agree(gateway, told, spent, prompts=None)
    assert [path for path, _ in wire.asked].count("/v1/completions") == (n if api == "chat" else 2 * n)
    assert {(stop["rule"], stop["by"]) for stop in told.receipt["stops"]} >= {("thinking_tokens", "gateway")}
    # Closing a thought costs no generated token: the mark stands in the prompt of the segment that follows.
    assert told.spent[1] == spent.generated == 20 * n
    assert all(told.texts.values())


DEADLINE = {"suffice": {"budget": {"deadline_ms": 1500}}}


@STREAM
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_cut_by_a_deadline_with_running_counts(live_engine, slow, word, api, stream):
    gateway, wire = slow
    wire.seen.clear()
    request = body(api, live_engine.model, tokens=400, allowed_token_ids=[word], ignore_eos=True, **DEADLINE)
    with spending(live_engine.url) as spent:
        told = ask(gateway, api, request, stream=stream)
    assert told.status == 200, told.body
    assert told.usage == told.spent
    shown = token_count(live_engine.url, live_engine.model, told.texts.get(0) or told.thoughts[0])
    # What reached the gateway before the deadline is charged, and nothing else, however far the engine had got.
    assert shown == told.spent[1] <= spent.generated
    assert told.receipt["spent"]["cancelled_tokens"] == told.spent[1]
    assert [(stop["rule"], stop["by"]) for stop in told.receipt["stops"]] == [("deadline_ms", "gateway")]
    assert "estimated" not in told.receipt["spent"]
    assert settled(gateway.data_dir, told.receipt["request_id"]).used == sum(told.spent)


@STREAM
@pytest.mark.parametrize("api", ["responses", "messages"])
def test_cut_by_a_deadline_without_running_counts(live_engine, slow, api, stream):
    """These streams tell no counts before their end: what was shown is counted by the tokeniser, and so marked."""
    gateway, _ = slow
    with spending(live_engine.url) as spent:
        told = ask(gateway, api, body(api, live_engine.model, tokens=400, **DEADLINE), stream=stream)
    assert told.status == 200, told.body
    assert told.receipt["spent"]["estimated"] is True
    assert told.spent[0] == spent.prompt
    assert told.usage == told.spent
    shown = told.thoughts.get(0, "") + told.texts.get(0, "")
    assert shown
    assert 0 < told.spent[1] <= spent.generated
    assert told.spent[1] >= token_count(live_engine.url, live_engine.model, shown) or not stream
    assert settled(gateway.data_dir, told.receipt["request_id"]).used == sum(told.spent)
