"""Samples that vote: waves in launch order, losers aborted and counted, one answer or all of them."""

import pytest
from fake_vllm import Script
from gateway.rig import events, wait

CHAT = "/v1/chat/completions"
SEED = 1000
QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "vote"}]}


def ask(gate, *, stream=False, answer="number", budget=None, extra=None, **sampling):
    suffice = {"sampling": {"max": 12, "wave": 3} | sampling, "answer": {"kind": answer}}
    if budget:
        suffice["budget"] = budget
    body = QUESTION | {"stream": stream, "max_tokens": 40, "seed": SEED, "suffice": suffice} | (extra or {})
    if stream:
        body["stream_options"] = {"include_usage": True}
    return gate.post(CHAT, body)


def says(gate, *answers):
    """The first samples answer these in launch order, all later ones the last; a sample's seed tells its place."""

    def script(ask):
        place = min(ask.seed - SEED, len(answers) - 1)
        return Script.of(thought="hm hm", answer=f"The answer is {answers[place]}.")

    gate.fake.says(script)


def test_unanimous_samples_end_the_vote_and_the_winner_is_the_answer(make):
    gate = make()
    says(gate, "7")
    body = ask(gate).json()
    (choice,) = body["choices"]
    assert choice["index"] == 0
    assert choice["message"]["content"] == "The answer is 7."
    receipt = body["suffice"]
    drawn = receipt["spent"]["samples"]
    assert 1 < drawn < 12
    assert receipt["saved"]["samples"] == 12 - drawn
    assert receipt["votes"]["winner"] == "7"
    assert receipt["votes"]["counts"] == {"7": drawn}
    assert receipt["votes"]["rule"] == "curtailment"
    assert body["usage"]["completion_tokens"] == gate.fake.generated_tokens
    assert len(gate.fake.requests) == drawn


def test_the_minority_does_not_win(make):
    gate = make()
    says(gate, "1", "2", "2", "2", "2", "2", "2", "2")
    body = ask(gate).json()
    assert body["choices"][0]["message"]["content"] == "The answer is 2."
    assert body["suffice"]["votes"]["counts"]["1"] == 1


def test_the_winner_streams_as_one_message(make):
    gate = make()
    says(gate, "3", "7")
    *frames, done = events(ask(gate, stream=True).text)
    assert done.data == "[DONE]"
    chunks = [frame.data for frame in frames]
    assert {choice["index"] for chunk in chunks for choice in chunk["choices"]} == {0}
    assert "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"]) == "The answer is 7."
    assert [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]] == ["stop"]
    assert chunks[-1]["suffice"]["votes"]["winner"] == "7"


def test_all_samples_can_be_shown_in_launch_order(make):
    gate = make()
    says(gate, "3", "7")
    body = ask(gate, **{"return": "all"}).json()
    drawn = body["suffice"]["spent"]["samples"]
    assert [choice["index"] for choice in body["choices"]] == list(range(drawn))
    assert body["choices"][0]["message"]["content"] == "The answer is 3."


def test_first_finish_aborts_the_losers_and_counts_their_tokens(make):
    gate = make()
    lengths = iter([60, 3, 60, 60])
    gate.fake.says(lambda _: Script(thought=(" hm",) * next(lengths), answer=(" 5",)))
    gate.fake.settings.token_s = 0.01
    body = ask(gate, rule="first_finish", m=1, max=4, wave=4, extra={"max_tokens": 100}).json()
    spent = body["suffice"]["spent"]
    assert body["choices"][0]["message"]["content"] == " 5"
    assert spent["cancelled_tokens"] > 0
    assert body["usage"]["completion_tokens"] == spent["completion_tokens"] + spent["cancelled_tokens"]
    gate.fake.wait_idle()
    assert gate.fake.aborted == 3


def test_samples_without_an_answer_never_win(make):
    gate = make()
    says(gate, "none", "none", "none", "none", "9")
    body = ask(gate, max=6, rule="all").json()
    assert body["choices"][0]["message"]["content"] == "The answer is 9."
    assert body["suffice"]["votes"]["counts"] == {"9": 2}


def test_a_tight_total_ends_the_drawing_and_holds(make):
    gate = make()
    gate.fake.says(lambda ask: Script(thought=(" hm",) * 10, answer=(f" {ask.seed}",)))
    body = ask(gate, rule="certificate", budget={"total_tokens": 60, "answer_reserve": 2}).json()
    assert body["usage"]["completion_tokens"] == gate.fake.generated_tokens <= 60
    assert body["suffice"]["spent"]["samples"] < 12


def test_tool_calls_vote(make):
    gate = make()
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    body = ask(gate, answer="tool_call", extra={"tools": [tool], "tool_choice": "required"}).json()
    assert body["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "look"
    assert len(body["suffice"]["votes"]["counts"]) == 1


def test_a_failed_sample_fails_the_request_and_charges_once(make):
    gate = make()
    says(gate, "7")
    gate.fake.fail("status", times=None)
    assert ask(gate).status_code == 502
    assert {one.state for one in gate.settled()} == {"settled"}


def test_answers_stay_out_of_the_event_log(make):
    gate = make()
    says(gate, "876543")
    receipt = ask(gate).json()["suffice"]
    assert receipt["votes"]["winner"] == "876543"
    log = gate.data_dir / "events.jsonl"
    wait(lambda: f'"request_id":"{receipt["request_id"]}","event":"Settled"' in log.read_text())
    assert "876543" not in log.read_text()


@pytest.mark.parametrize(
    ("sampling", "extra", "param"),
    [
        pytest.param({"rule": "curtailmant"}, {}, "suffice.sampling.rule", id="rule"),
        pytest.param({"dleta": 0.1}, {}, "suffice.sampling.dleta", id="parameter"),
        pytest.param({"delta": 3}, {}, "suffice.sampling.delta", id="range"),
        pytest.param({"max": 0}, {}, "suffice.sampling.max", id="max"),
        pytest.param({}, {"n": 2}, "n", id="beside-n"),
    ],
)
def test_mistakes_are_the_clients(make, sampling, extra, param):
    gate = make()
    answer = ask(gate, extra=extra, **sampling)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert gate.fake.requests == []
