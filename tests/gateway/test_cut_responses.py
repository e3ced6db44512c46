"""A responses stream that is cut tells neither counts nor the prompt's length: both are counted beside it."""

from __future__ import annotations

import pytest
from fake_vllm import Script

QUESTION = "How many words are there in this question of mine?"
WORDS = ("some ", "words ", "of ", "an ", "answer ")


@pytest.mark.parametrize(
    ("more", "exact"),
    [
        pytest.param({}, True, id="text"),
        pytest.param({"instructions": "Be brief."}, True, id="with-instructions"),
        pytest.param({"input": [{"role": "user", "content": QUESTION}]}, False, id="items-by-upper-estimate"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_cut_response_pays_for_its_prompt(make, more, exact, stream):
    gate = make(token_s=0.005)
    gate.fake.says(Script(thought=("hm ", "hm "), answer=WORDS, endless=True))
    body = {"model": "fake", "input": QUESTION, "suffice": {"budget": {"deadline_ms": 1000}}} | more
    if stream:
        response = gate.stream("/v1/responses", body)[-1].data["response"]
    else:
        response = gate.post("/v1/responses", body).json()
    receipt = response["suffice"]
    gate.idle()
    (asked,) = gate.fake.requests
    assert (response["status"], response["incomplete_details"]["reason"]) == ("incomplete", "max_output_tokens")
    thought, answer = response["output"]
    assert (thought["content"][0]["text"], thought["status"]) == ("hm hm ", "completed")
    assert "".join(WORDS).startswith(answer["content"][0]["text"][:5])
    assert answer["status"] == "incomplete"
    spent = receipt["spent"]
    assert spent["estimated"] is True
    if exact:
        assert spent["prompt_tokens"] == asked.prompt_tokens
    else:
        assert spent["prompt_tokens"] > asked.prompt_tokens
    (row,) = (row for row in gate.settled() if row.request_id == receipt["request_id"])
    generated = sum(spent[f"{kind}_tokens"] for kind in ("completion", "probe", "cancelled"))
    assert 0 < generated <= asked.generated_tokens
    assert row.used == spent["prompt_tokens"] + generated <= row.reserved
