"""Guards live: loops, runaways, good places to stop, deadlines, thoughts that end too soon."""

import pytest
from fake_vllm import Script
from gateway.rig import Gateway, events

CHAT = "/v1/chat/completions"
QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "think"}]}
LOOP = Script(thought=(" so", " on"), answer=(" 42",), endless_thought=True)
REPETITION = {"repetition": {"max_pattern": 4, "min_count": 4, "least": 16}}


def guards(**named):
    return {"policies": {"guards": named}}


def ask(gate, *, stream=False, extra=None, **budget):
    body = QUESTION | {"stream": stream, "suffice": {"budget": {"total_tokens": 600, "answer_reserve": 10} | budget}}
    if stream:
        body["stream_options"] = {"include_usage": True}
    return gate.post(CHAT, body | (extra or {}))


def stops(body):
    return [(stop["rule"], stop["by"]) for stop in body["suffice"]["stops"]]


@pytest.mark.parametrize("kind", [{}, {"plugin": True}], ids=["gateway", "engine"])
def test_a_thought_that_loops_is_closed_and_answered(make, kind):
    gate = make(guards(**REPETITION), **kind)
    gate.fake.says(LOOP)
    gate.fake.settings.token_s = 0.003
    body = ask(gate).json()
    assert stops(body)[0] == ("repetition", "engine" if kind else "gateway")
    assert body["choices"][0]["message"]["content"] == " 42"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] < 200
    asked = gate.fake.requests[0].body["repetition_detection"]
    assert asked["min_count"] == 4
    assert asked["max_pattern_size"] >= 4


def test_an_answer_that_loops_ends_within_openais_words(make):
    gate = make(guards(**REPETITION))
    gate.fake.says(Script(answer=(" over",), endless=True))
    gate.fake.settings.token_s = 0.003
    body = ask(gate).json()
    assert stops(body) == [("repetition", "gateway")]
    assert body["choices"][0]["finish_reason"] == "stop"


def test_an_engine_that_ends_a_looping_thought_itself_still_gets_an_answer(make):
    gate = make(guards(repetition={"least": 4096}))
    gate.fake.says(Script(thought=(" so",) * 9, answer=(" 42",), loops_at=6))
    body = ask(gate).json()
    assert stops(body) == [("repetition", "engine")]
    assert body["choices"][0]["message"]["content"] == " 42"
    assert body["choices"][0]["finish_reason"] == "stop"


def test_loops_are_the_engines_only_where_a_thought_can_be_resumed(make):
    gate = make(guards(**REPETITION))
    gate.fake.says(Script(thought=(" a",), answer=(" 42",)))
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    assert ask(gate, extra={"tools": [tool]}).status_code == 200
    assert "repetition_detection" not in gate.fake.requests[0].body


def test_a_clients_own_detection_stands(make):
    gate = make(guards(**REPETITION))
    own = {"max_pattern_size": 9, "min_pattern_size": 3, "min_count": 7}
    assert ask(gate, extra={"repetition_detection": own}).status_code == 200
    assert gate.fake.requests[0].body["repetition_detection"] == own


def test_presets_carry_guards(make):
    gate = make({"presets": {"balanced": {}, "careful": {"guards": REPETITION}}})
    gate.fake.says(LOOP)
    gate.fake.settings.token_s = 0.003
    body = gate.post(CHAT, QUESTION | {"model": "fake@careful", "max_tokens": 300}).json()
    assert stops(body) == [("repetition", "gateway")]
    gate.fake.says(Script(thought=(" a",), answer=(" 42",)))
    gate.fake.forget()
    assert ask(gate).status_code == 200
    assert "repetition_detection" not in gate.fake.requests[0].body


def test_a_model_without_thoughts_has_its_answers_watched(make):
    gate = make(guards(**REPETITION, extend={}) | {"upstream": {"think_start": "no such mark"}})
    gate.fake.settings.token_s = 0.003
    gate.fake.says(Script(answer=(" over",), endless=True, opens_thought=False))
    body = gate.post("/v1/completions", {"model": "fake", "prompt": "a", "max_tokens": 400}).json()
    assert stops(body) == [("repetition", "gateway")]
    assert "not_applied" not in body["suffice"]


def test_lengths_are_learned_and_a_runaway_ends(make):
    gate = make(guards(length={"alpha": 0.1}))
    gate.fake.says(Script(thought=(" a",) * 8, answer=(" 42",) * 3))
    for _ in range(12):
        assert stops(ask(gate).json()) == []
    gate.fake.says(Script(thought=(" b",), answer=(" 42",), endless_thought=True))
    gate.fake.settings.token_s = 0.003
    body = ask(gate).json()
    assert stops(body)[0] == ("length", "gateway")
    assert body["suffice"]["stops"][0]["at_token"] < 60
    assert body["choices"][0]["message"]["content"] == " 42"


def test_lengths_outlive_the_gateway(make, tmp_path):
    fake = make().fake
    config = guards(length={"alpha": 0.1})
    fake.says(Script(thought=(" a",) * 8, answer=(" 42",) * 3))
    first = Gateway(fake, tmp_path, config).start()
    for _ in range(12):
        ask(first)
    route = first.key_id, "chat", "fake"
    first.stop()
    second = Gateway(fake, tmp_path, config).start()
    try:
        lengths = second.call(lambda: second.service.experience.lengths(*route))
        assert lengths.thoughts.upper(0.1) == 8
        assert len(lengths.answers) == 12
    finally:
        second.stop()


def test_what_cannot_be_read_is_learned_anew(make, tmp_path):
    (tmp_path / "experience.json").write_text("{")
    gate = Gateway(make().fake, tmp_path, {}).start()
    try:
        assert ask(gate).status_code == 200
    finally:
        gate.stop()
    assert '"version":1' in (tmp_path / "experience.json").read_text()


@pytest.mark.parametrize(
    ("thought", "close_logprob", "least", "most"),
    [
        pytest.param((" hm",) * 200, -0.5, 50, 70, id="about-to-close"),
        pytest.param((" hm",) * 70 + (".",) + (" hm",) * 200, -9.0, 70, 90, id="end-of-sentence"),
    ],
)
def test_a_thought_is_closed_at_a_good_place_before_its_cap(make, thought, close_logprob, least, most):
    gate = make(guards(boundary={"soft": 0.5}))
    gate.fake.says(Script(thought=thought, answer=(" 42",), close_logprob=close_logprob))
    gate.fake.settings.token_s = 0.003
    body = ask(gate, thinking_tokens=100).json()
    assert stops(body)[0] == ("boundary", "gateway")
    assert least <= body["suffice"]["stops"][0]["at_token"] <= most
    assert body["choices"][0]["message"]["content"] == " 42"
    assert body["choices"][0]["logprobs"] is None
    assert len(gate.fake.requests[0].body["logprob_token_ids"]) == 1


def test_a_clients_own_likeliest_tokens_stay_what_it_asked_for(make):
    gate = make(guards(boundary={}))
    gate.fake.says(Script(thought=(" hm",) * 3, answer=(" 42",)))
    body = ask(gate, extra={"logprobs": True, "top_logprobs": 2}).json()
    assert "logprob_token_ids" not in gate.fake.requests[0].body
    assert {len(one["top_logprobs"]) for one in body["choices"][0]["logprobs"]["content"]} == {2}


@pytest.mark.parametrize("kind", [{}, {"plugin": True}], ids=["gateway", "engine"])
def test_a_deadline_leaves_time_for_the_answer(make, kind):
    gate = make(guards(deadline={"switch_s": 0.6}), **kind)
    gate.fake.says(Script(thought=(" hm",), answer=(" 4", "2"), endless_thought=True))
    gate.fake.settings.token_s = 0.01
    body = ask(gate, deadline_ms=2500, total_tokens=2000).json()
    assert stops(body)[0] == ("deadline", "engine" if kind else "gateway")
    assert body["choices"][0]["message"]["content"] == " 42"
    assert body["choices"][0]["finish_reason"] == "stop"


def thinks_longer(ask):
    """A short thought, and another one after it was asked to wait."""
    more = (" but", " then") if "Wait" in ask.prompt else ()
    return Script(thought=(" first", ".") + (("\n", "Wait", ",", *more) if more else ()), answer=(" 42",))


@pytest.mark.parametrize("kind", [{}, {"plugin": True}], ids=["gateway", "engine"])
def test_a_thought_that_ends_too_soon_goes_on_as_one_message(make, kind):
    gate = make(guards(extend={"least": 10}), **kind)
    gate.fake.says(thinks_longer)
    body = ask(gate).json()
    message = body["choices"][0]["message"]
    assert message["reasoning"] == " first.\nWait, but then"
    assert message["content"] == " 42"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert stops(body) == [("extend", "gateway")]
    assert body["usage"]["completion_tokens"] == gate.fake.generated_tokens


def test_an_extended_thought_streams_in_order(make):
    gate = make(guards(extend={"least": 10}))
    gate.fake.says(thinks_longer)
    *frames, done = events(ask(gate, stream=True).text)
    assert done.data == "[DONE]"
    chunks = [frame.data for frame in frames]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert "".join(delta.get("reasoning") or "" for delta in deltas) == " first.\nWait, but then"
    assert "".join(delta.get("content") or "" for delta in deltas) == " 42"
    kinds = [kind for delta in deltas for kind in ("reasoning", "content") if delta.get(kind)]
    assert kinds == sorted(kinds, reverse=True), "thought first, then the answer"
    assert len({chunk["id"] for chunk in chunks}) == 1
    ends = [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]]
    assert [end for end in ends if end] == ["stop"]


def test_guards_that_cannot_run_are_named(make):
    gate = make(guards(deadline={}))
    body = gate.post("/v1/responses", {"model": "fake", "input": "hi", "max_output_tokens": 40}).json()
    assert "guards" in [item["rule"] for item in body["suffice"]["not_applied"]]
