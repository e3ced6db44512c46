"""What clients may ask for beside text: tools, formats, log-probabilities, samples, ids, stop strings, usage."""

import json

import pytest
from fake_vllm import Script, ToolCall
from gateway.rig import events

CHAT = "/v1/chat/completions"
QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
SCHEMA = {"type": "object", "properties": {"unit": {"type": "string", "enum": ["kelvin"]}}, "required": ["unit"]}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "tells", "parameters": SCHEMA}}
    for name in ("weather", "tide")
]
CALLS = (ToolCall(name="weather", arguments='{"unit": "kelvin"}'), ToolCall(name="tide", arguments='{"at": 3}'))


def assembled(found):
    """Tool calls of a chat stream, put together as clients do."""
    calls = {}
    for event in found:
        for choice in event.data["choices"] if event.data != "[DONE]" else ():
            for part in choice["delta"].get("tool_calls") or ():
                call = calls.setdefault((choice["index"], part["index"]), {"name": "", "arguments": "", "id": None})
                call["id"] = call["id"] or part.get("id")
                call["name"] += part["function"].get("name") or ""
                call["arguments"] += part["function"].get("arguments") or ""
    return calls


def finishes(found):
    """Index and reason of each finish chunk, in order."""
    return [
        (choice["index"], choice["finish_reason"])
        for event in found
        if event.data != "[DONE]"
        for choice in event.data["choices"]
        if choice["finish_reason"] is not None
    ]


@pytest.mark.parametrize("settings", [{}, {"reasoning_config": False}], ids=["engine", "no-engine-cap"])
def test_tools_the_model_chooses(make, settings):
    gate = make(**settings)
    gate.fake.says(Script(thought=(" hm",) * 4, answer=("I", " look"), tool_calls=CALLS))
    body = QUESTION | {"tools": TOOLS, "tool_choice": "auto"}
    choice = gate.post(CHAT, body).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "I look"
    made = [(call["function"]["name"], call["function"]["arguments"]) for call in choice["message"]["tool_calls"]]
    assert made == [(call.name, call.arguments) for call in CALLS]
    assert len({call["id"] for call in choice["message"]["tool_calls"]}) == 2
    found = gate.stream(CHAT, body)
    calls = assembled(found)
    assert [(call["name"], call["arguments"]) for call in calls.values()] == made
    assert all(call["id"] for call in calls.values())
    assert finishes(found) == [(0, "tool_calls")]
    assert all(request.path == CHAT for request in gate.fake.requests)


@pytest.mark.parametrize(
    ("wanted", "name", "finish"),
    [
        pytest.param("required", "weather", "tool_calls", id="required"),
        pytest.param({"type": "function", "function": {"name": "tide"}}, "tide", "stop", id="named"),
    ],
)
def test_tools_the_client_demands(gate, wanted, name, finish):
    body = QUESTION | {"tools": TOOLS, "tool_choice": wanted}
    choice = gate.post(CHAT, body).json()["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == (name, {"unit": "kelvin"})
    assert choice["finish_reason"] == finish
    found = gate.stream(CHAT, body)
    assert [made["name"] for made in assembled(found).values()] == [name]
    assert finishes(found) == [(0, finish)]


def test_tools_with_a_cap_that_only_resuming_could_keep_are_not_cut(make):
    gate = make(reasoning_config=False)
    gate.fake.says(Script(thought=(" hm",) * 30, tool_calls=CALLS[:1]))
    body = QUESTION | {"tools": TOOLS, "suffice": {"budget": {"thinking_tokens": 5}}}
    answer = gate.post(CHAT, body).json()
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert "tool parser" in answer["suffice"]["not_applied"][0]["why"]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_tools_of_the_other_apis(gate, path):
    gate.fake.says(Script(thought=(" hm",), tool_calls=CALLS[:1]))
    if path == "/v1/responses":
        tools = [{"type": "function", "name": "weather", "parameters": SCHEMA}]
        output = gate.post(path, {"model": "fake", "input": "hi", "tools": tools}).json()["output"]
        assert [(item["name"], item["arguments"]) for item in output if item["type"] == "function_call"] == [
            ("weather", '{"unit": "kelvin"}')
        ]
    else:
        tools = [{"name": "weather", "input_schema": SCHEMA}]
        body = QUESTION | {"max_tokens": 500, "tools": tools}
        answer = gate.post(path, body).json()
        assert answer["stop_reason"] == "tool_use"
        assert [(block["name"], block["input"]) for block in answer["content"] if block["type"] == "tool_use"] == [
            ("weather", {"unit": "kelvin"})
        ]
        streamed = gate.stream(path, body)
        parts = [event.data["delta"].get("partial_json", "") for event in streamed if "delta" in event.name]
        assert "".join(parts) == '{"unit": "kelvin"}'


def test_a_response_format_reaches_upstream_as_it_is(gate):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    answer = gate.post(CHAT, QUESTION | {"response_format": form}).json()
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"unit": "kelvin"}
    assert gate.fake.requests[0].body["response_format"] == form


@pytest.mark.parametrize("settings", [{}, {"reasoning_config": False}], ids=["engine", "gateway"])
@pytest.mark.parametrize("top", [None, 0, 2])
def test_log_probabilities_come_for_every_token_that_was_shown(make, settings, top):
    gate = make(**settings)
    gate.fake.says(Script(answer=("one", " two", " three"), endless_thought=True))
    body = QUESTION | {"logprobs": True, "suffice": {"budget": {"thinking_tokens": 3, "total_tokens": 60}}}
    body |= {} if top is None else {"top_logprobs": top}
    whole = gate.post(CHAT, body).json()["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in whole][-4:-1] == ["one", " two", " three"]
    assert all(entry["logprob"] == -0.25 for entry in whole)
    assert {len(entry["top_logprobs"]) for entry in whole} == {top or 0}
    streamed = [
        entry
        for event in gate.stream(CHAT, body)[:-1]
        for choice in event.data["choices"]
        for entry in (choice["logprobs"] or {}).get("content") or ()
    ]
    assert streamed == whole


@pytest.mark.parametrize("settings", [{}, {"reasoning_config": False}], ids=["engine", "gateway"])
def test_log_probabilities_of_completions_keep_their_number(make, settings):
    gate = make(**settings)
    gate.fake.says(Script(answer=("one", " two"), endless_thought=True))
    body = {"model": "fake", "prompt": "a<think>", "logprobs": 3, "max_tokens": 50}
    choice = gate.post("/v1/completions", body | {"suffice": {"budget": {"thinking_tokens": 3}}}).json()["choices"][0]
    assert choice["logprobs"]["tokens"][-3:-1] == ["one", " two"]
    assert {len(top) for top in choice["logprobs"]["top_logprobs"]} <= {3, 4}


def test_no_log_probabilities_unless_asked(gate):
    assert gate.post(CHAT, QUESTION).json()["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_samples_keep_their_indices_and_finish_once_each(gate, path):
    gate.fake.says(lambda ask: Script.of(answer=f"sample {ask.seed} " + "x " * ask.seed))
    gate.fake.settings.token_s = 0.002
    body = QUESTION | {"n": 4, "seed": 10} if path == CHAT else {"model": "fake", "prompt": "a", "n": 4, "seed": 10}
    found = gate.stream(path, body)
    texts = dict.fromkeys(range(4), "")
    closed = set()
    for event in found[:-1]:
        (choice,) = event.data["choices"]
        assert choice["index"] not in closed
        texts[choice["index"]] += choice["text"] if path != CHAT else choice["delta"].get("content") or ""
        if choice["finish_reason"]:
            closed.add(choice["index"])
    assert [text.split()[:2] for text in texts.values()] == [["sample", str(10 + i)] for i in range(4)]
    assert sorted(finishes(found)) == [(i, "stop") for i in range(4)]
    whole = gate.post(path, body).json()["choices"]
    assert [choice["index"] for choice in whole] == [0, 1, 2, 3]
    assert [choice["text"] if path != CHAT else choice["message"]["content"] for choice in whole] == list(
        texts.values()
    )


def test_reasoning_is_told_apart_or_hidden_as_asked(gate):
    gate.fake.says(Script.of(thought="let me see", answer="done"))
    message = gate.post(CHAT, QUESTION).json()["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == ("let me see", "done")
    message = gate.post(CHAT, QUESTION | {"include_reasoning": False}).json()["choices"][0]["message"]
    assert "reasoning" not in message
    assert message["content"] == "done"


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize(
    ("options", "last", "every"),
    [
        pytest.param(None, False, False, id="none"),
        pytest.param({}, False, False, id="empty"),
        pytest.param({"include_usage": False}, False, False, id="no"),
        pytest.param({"include_usage": True}, True, False, id="last"),
        pytest.param({"include_usage": True, "continuous_usage_stats": True}, True, True, id="every"),
    ],
)
def test_usage_comes_only_when_asked_for(gate, path, options, last, every):
    body = QUESTION if path == CHAT else {"model": "fake", "prompt": "a"}
    found = gate.stream(path, body | {"stream_options": options})
    chunks = [event.data for event in found[:-1]]
    assert (chunks[-1]["choices"] == []) is last
    assert ("suffice" in chunks[-1]) is last
    content = [
        chunk for chunk in chunks[: -1 if last else None] if not any(c["finish_reason"] for c in chunk["choices"])
    ]
    assert content
    assert all(("usage" in chunk) is every for chunk in content)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("asked", [False, True])
def test_token_ids_come_only_when_asked_for(gate, path, asked):
    body = (QUESTION if path == CHAT else {"model": "fake", "prompt": "a"}) | (
        {"return_token_ids": True} if asked else {}
    )
    answer = gate.post(path, body)
    assert ("token_ids" in answer.text) is asked
    assert ("prompt_token_ids" in answer.text) is asked
    streamed = gate.post(path, body | {"stream": True}).text
    assert ("token_ids" in streamed) is asked
    if asked:
        ids = answer.json()["choices"][0]["token_ids"]
        assert len(ids) == answer.json()["usage"]["completion_tokens"]
        choices = [choice for event in events(streamed)[:-1] for choice in event.data["choices"]]
        assert sum(len(choice.get("token_ids") or ()) for choice in choices) == gate.fake.requests[1].generated_tokens


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/messages"])
def test_stop_strings_end_the_answer_and_are_named(gate, path):
    # Without a thought: vLLM's parser misplaces the end of one while it holds text back for stop strings.
    gate.fake.says(Script.of(answer="one two STOP three"))
    if path == "/v1/messages":
        body = QUESTION | {"max_tokens": 99, "stop_sequences": ["STOP"], "thinking": {"type": "disabled"}}
        answer = gate.post(path, body).json()
        assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "STOP")
        assert answer["content"][-1]["text"] == "one two "
        return
    plain = QUESTION | {"reasoning_effort": "none"} if path == CHAT else {"model": "fake", "prompt": "a"}
    body = plain | {"stop": ["STOP"]}
    choice = gate.post(path, body).json()["choices"][0]
    text = choice["message"]["content"] if path == CHAT else choice["text"]
    assert (text, choice["finish_reason"], choice["stop_reason"]) == ("one two ", "stop", "STOP")
    last = [event.data["choices"][0] for event in gate.stream(path, body)[:-1]][-1]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", "STOP")


def test_sampling_fields_go_along_when_a_sample_is_resumed(make):
    gate = make(reasoning_config=False)
    gate.fake.says(Script.of(answer="done", endless_thought=True))
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": 3, "stop": ["X"], "presence_penalty": 0.1}
    gate.post(CHAT, QUESTION | sampling | {"suffice": {"budget": {"thinking_tokens": 4}}})
    first, second = gate.fake.requests
    assert second.path == "/v1/completions"
    for name, value in sampling.items():
        assert first.body[name] == second.body[name] == value
    assert second.body["prompt"][-1] == gate.service.served["fake"].thought.end_id
    assert second.body["cache_salt"] == first.body["cache_salt"]
    assert second.body["add_special_tokens"] is False
