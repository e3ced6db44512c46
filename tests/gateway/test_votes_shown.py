"""How votes are shown while they are drawn and after: keep-alive, tools, all samples streamed; seeds and confidence."""

import pytest
from fake_vllm import Script, ToolCall
from gateway.rig import events
from suffice.server.gateway import generate

CHAT = "/v1/chat/completions"
SEED = 1000
QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "vote"}]}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def ask(gate, *, stream=False, answer="number", extra=None, **sampling):
    suffice = {"sampling": {"rule": "all", "max": 3, "wave": 3} | sampling, "answer": {"kind": answer}}
    body = QUESTION | {"stream": stream, "max_tokens": 60, "seed": SEED, "suffice": suffice} | (extra or {})
    if stream:
        body["stream_options"] = {"include_usage": True}
    return gate.post(CHAT, body)


def place(ask):
    return max(0, ask.seed - SEED)


def test_a_stream_that_has_nothing_to_show_yet_is_kept_alive(make, monkeypatch):
    monkeypatch.setattr(generate, "KEEP_ALIVE_S", 0.05)
    gate = make()
    gate.fake.says(lambda ask: Script(thought=(" hm",) * 20, answer=(" 7",)))
    gate.fake.settings.token_s = 0.02
    text = ask(gate, stream=True).text
    comments, _, rest = text.partition("data:")
    assert comments.count(":") >= 3
    assert all(line == "" or line.startswith(":") for line in comments.splitlines())
    *frames, done = events("data:" + rest)
    assert done.data == "[DONE]"
    assert "".join(c["delta"].get("content") or "" for f in frames for c in f.data["choices"]) == " 7"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_winning_tool_call_is_shown_whole(make, stream):
    gate = make()

    def calls(ask):
        deep = "true" if place(ask) else "false"
        return Script(thought=(" hm",), tool_calls=(ToolCall(name="look", arguments=f'{{"deep": {deep}}}'),))

    gate.fake.says(calls)
    answer = ask(gate, stream=stream, answer="tool_call", extra={"tools": [TOOL]})
    if stream:
        *frames, _ = events(answer.text)
        choices = [choice for frame in frames for choice in frame.data["choices"]]
        pieces = [call for choice in choices for call in choice["delta"].get("tool_calls") or ()]
        name = "".join(piece["function"].get("name") or "" for piece in pieces)
        arguments = "".join(piece["function"].get("arguments") or "" for piece in pieces)
        finishes = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
        assert {choice["index"] for choice in choices} == {0}
    else:
        (choice,) = answer.json()["choices"]
        (call,) = choice["message"]["tool_calls"]
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        finishes = [choice["finish_reason"]]
    assert (name, arguments, finishes) == ("look", '{"deep": true}', ["tool_calls"])


def test_all_samples_stream_in_their_own_places(make):
    gate = make()
    gate.fake.says(lambda ask: Script(thought=(" hm",), answer=(f" {place(ask)}",)))
    *frames, done = events(ask(gate, stream=True, **{"return": "all"}).text)
    assert done.data == "[DONE]"
    said = {}
    for choice in (choice for frame in frames for choice in frame.data["choices"]):
        said[choice["index"]] = said.get(choice["index"], "") + (choice["delta"].get("content") or "")
    assert said == {0: " 0", 1: " 1", 2: " 2"}
    assert frames[-1].data["suffice"]["votes"]["counts"] == {"0": 1, "1": 1, "2": 1}


def test_samples_have_seeds_of_their_own_that_repeat(make):
    gate = make()
    ask(gate)
    assert sorted(one.body["seed"] for one in gate.fake.requests) == [SEED, SEED + 1, SEED + 2]
    ask(gate)
    assert sorted(one.body["seed"] for one in gate.fake.requests[3:]) == [SEED, SEED + 1, SEED + 2]


def test_at_temperature_zero_it_is_done_as_asked_and_said_what_that_means(make):
    gate = make()
    body = ask(gate, extra={"temperature": 0}).json()
    assert body["suffice"]["spent"]["samples"] == 3
    assert [item["rule"] for item in body["suffice"]["not_applied"]] == ["sampling"]
    assert "not_applied" not in ask(gate).json()["suffice"]


def test_confidence_asks_for_as_many_likely_tokens_as_it_looks_at(make):
    gate = make()
    gate.fake.says(lambda ask: Script(thought=(" hm",) * 5, answer=(" 7",)))
    body = ask(gate, rule="confidence", warm_up=3, window=2, top=7, max=6).json()
    assert {one.body["top_logprobs"] for one in gate.fake.requests} == {7}
    assert body["choices"][0]["logprobs"] is None
    assert body["suffice"]["votes"]["rule"] == "confidence"


def test_samples_that_lose_their_confidence_are_ended_and_do_not_vote(make):
    gate = make()

    def says(ask):
        if place(ask) < 3:
            return Script(thought=(" hm",) * 5, answer=(f" {place(ask)}",), logprob=-4.0)
        sure = place(ask) == 3
        return Script(thought=(" hm",) * 30, answer=(" 9",), logprob=-8.0 if sure else -0.1)

    gate.fake.says(says)
    gate.fake.settings.token_s = 0.003
    body = ask(gate, rule="confidence", warm_up=3, window=2, max=5, wave=2).json()
    ended = [stop["sample"] for stop in body["suffice"]["stops"] if stop["rule"] == "confidence"]
    assert 4 in ended
    assert 3 not in ended
    assert body["suffice"]["spent"]["cancelled_tokens"] > 0


def test_where_an_api_tells_no_log_probabilities_confidence_says_so(make):
    gate = make()
    sampling = {"rule": "confidence", "max": 2, "warm_up": 1}
    body = gate.post("/v1/responses", {"model": "fake", "input": "q", "suffice": {"sampling": sampling}}).json()
    assert "confidence" in [item["rule"] for item in body["suffice"]["not_applied"]]
    assert all("logprobs" not in one.body for one in gate.fake.requests)
