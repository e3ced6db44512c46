"""No empty answers: whatever caps, exits and APIs meet, a model that thinks answers within what it was given."""

import pytest
from fake_vllm import Script
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KINDS = [
    pytest.param({}, id="engine-caps"),
    pytest.param({"reasoning_config": False}, id="gateway-caps"),
    pytest.param({"plugin": True}, id="plugin"),
    pytest.param({"reasoning_parser": False, "tool_parser": False}, id="thought-as-text"),
    pytest.param({"template_opens_thought": False}, id="opens-its-own-thought"),
]
GUARDS = {
    "policies": {
        "guards": {
            "repetition": {"max_pattern": 2, "min_count": 4, "least": 12},
            "boundary": {"soft": 0.7},
            "extend": {"least": 6},
            "length": {"alpha": 0.2},
        }
    }
}
EXITS = st.sampled_from(
    [
        None,
        {"rule": "convergence", "probe_first": 4, "probe_growth": 1.3, "probe_tokens": 3},
        {"rule": "confidence", "probe_first": 4, "threshold": 0.5, "probe_tokens": 3},
        {"rule": "static_cap", "cap": 7},
        {"rule": "willing", "probability": 0.2},
        {"rule": "engine_entropy"},
    ]
)
SAMPLING = st.sampled_from([None, {"rule": "all", "max": 2}, {"rule": "curtailment", "max": 3, "wave": 2}])
THOUGHTS = st.one_of(
    st.builds(Script, thought=st.just((" hm", " so")), answer=st.just((" 42",)), endless_thought=st.just(True)),
    st.builds(
        lambda count: Script(thought=(" hm", ".") * count, answer=(" 42",), engine_exit=5),
        st.integers(min_value=0, max_value=60),
    ),
)


def said(path, body):
    if path == "/v1/chat/completions":
        return [choice["message"]["content"] for choice in body["choices"]]
    return [choice["text"] for choice in body["choices"]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_thinking_model_always_answers(make, kind, path):
    gate = make(GUARDS, **kind)
    prompt = {"messages": [{"role": "user", "content": "q"}]}
    if path == "/v1/completions":
        prompt = {"prompt": "<|user|>q<|end|><|assistant|><think>"}

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        script=THOUGHTS,
        exits=EXITS,
        sampling=SAMPLING,
        total=st.integers(min_value=1, max_value=200),
        thinking=st.one_of(st.none(), st.integers(min_value=0, max_value=100)),
        reserve=st.one_of(st.none(), st.integers(min_value=2, max_value=40)),
        chunk=st.sampled_from([1, 3, 9]),
        pace=st.sampled_from([0.0, 0.001]),
    )
    def holds(script, exits, sampling, total, thinking, reserve, chunk, pace):
        gate.fake.says(script)
        gate.fake.settings.tokens_per_chunk = chunk
        gate.fake.settings.token_s = pace
        budget = {"total_tokens": total, "thinking_tokens": thinking, "answer_reserve": reserve}
        suffice = {"budget": {name: value for name, value in budget.items() if value is not None}}
        suffice |= {"answer": {"kind": "number"}} | ({"early_exit": exits} if exits else {})
        suffice |= {"sampling": sampling} if sampling else {}
        answer = gate.post(path, {"model": "fake", "suffice": suffice} | prompt)
        if answer.status_code == 400:
            # Only for a total that no answer fits into.
            assert answer.json()["error"]["code"] == "impossible_budget"
            return
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert all(text.rpartition("</think>")[2].strip() for text in said(path, body)), (body, budget, exits)
        assert body["usage"]["completion_tokens"] <= total

    holds()


def text_of(path, body):
    if path == "/v1/messages":
        return "".join(part.get("text", "") for part in body["content"])
    parts = (part for item in body["output"] if item["type"] == "message" for part in item["content"])
    return "".join(part["text"] for part in parts)


@pytest.mark.parametrize("kind", [pytest.param({}, id="engine-caps"), pytest.param({"plugin": True}, id="plugin")])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_where_no_thought_can_be_capped_an_empty_answer_is_explained(make, kind, path):
    gate = make(**kind)
    name = "max_tokens" if path == "/v1/messages" else "max_output_tokens"
    asked = {"messages": [{"role": "user", "content": "q"}]} if path == "/v1/messages" else {"input": "q"}

    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(script=THOUGHTS, most=st.integers(min_value=3, max_value=1600), exits=EXITS)
    def holds(script, most, exits):
        gate.fake.says(script)
        gate.fake.settings.tokens_per_chunk = 9
        suffice = {"suffice": {"early_exit": exits, "answer": {"kind": "number"}}} if exits else {}
        answer = gate.post(path, {"model": "fake", name: most} | asked | suffice)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        unapplied = {item["rule"] for item in body["suffice"].get("not_applied", ())}
        assert text_of(path, body).strip() or "thinking_tokens" in unapplied

    holds()
