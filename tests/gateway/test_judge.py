"""A judge of answers: asked only where answers read unlike, charged to the request, and seen in the receipt."""

import pytest
from fake_vllm import Script
from gateway.rig import wait
from gateway.test_event_log import logged, told_again

CHAT = "/v1/chat/completions"
SEED = 1000
QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "which animal barks"}]}
JUDGES = {"policies": {"judges": {"peer": {"model": "fake", "max_tokens": 8, "timeout_s": 2}}}}
ANSWERS = ("a dog", "the dog", "a cat", "a dog", "the dog", "a dog")


def ask(gate, *, most=6, rule="all", budget=None, **answer):
    suffice = {
        "sampling": {"rule": rule, "max": most, "wave": 2},
        "answer": {"kind": "judge", "judge": "peer"} | answer,
    }
    if budget:
        suffice["budget"] = budget
    return gate.post(CHAT, QUESTION | {"max_tokens": 200, "seed": SEED, "suffice": suffice})


def judgements(gate):
    return [one for one in gate.fake.requests if "-judge-" in one.headers["x-request-id"]]


def model(verdict):
    """Answers in launch order; a judge's question is answered by the verdict."""

    def says(ask):
        if "Known answers" in ask.prompt:
            return Script.of(thought="", answer=verdict(ask.prompt))
        return Script.of(thought="hm", answer=ANSWERS[max(0, min(ask.seed - SEED, len(ANSWERS) - 1))])

    return says


def dogs(prompt):
    return "1" if "dog" in prompt.rpartition("New answer:")[2] else "0"


def test_answers_that_a_judge_finds_equal_are_one(make):
    gate = make(JUDGES)
    gate.fake.says(model(dogs))
    body = ask(gate).json()
    votes = body["suffice"]["votes"]
    assert sorted(votes["counts"].values()) == [1, 5]
    assert len(judgements(gate)) == votes["judge"]["asked"] == 2, "once for each answer that reads unlike"
    assert votes["judge"] == {"name": "peer", "asked": 2, "merged": 1}
    spent = body["suffice"]["spent"]
    assert spent["probe_tokens"] == sum(one.generated_tokens for one in judgements(gate)) > 0
    assert body["usage"]["completion_tokens"] == gate.fake.generated_tokens
    assert {one.body["cache_salt"] for one in gate.fake.requests} == {gate.fake.requests[0].body["cache_salt"]}


def test_equal_answers_are_never_shown_to_a_judge(make):
    gate = make(JUDGES)
    gate.fake.says(lambda ask: Script.of(thought="hm", answer="a dog"))
    body = ask(gate, rule="curtailment").json()
    assert judgements(gate) == []
    assert body["suffice"]["spent"]["probe_tokens"] == 0


def test_a_judge_that_says_no_number_leaves_answers_apart(make):
    gate = make(JUDGES)
    gate.fake.says(model(lambda _: "I cannot tell"))
    body = ask(gate).json()
    assert sorted(body["suffice"]["votes"]["counts"].values()) == [1, 2, 3]
    assert body["suffice"]["votes"]["judge"]["merged"] == 0


def test_a_judge_that_cannot_be_asked_leaves_answers_apart(make):
    gate = make({"policies": {"judges": {"peer": {"model": "nothing", "timeout_s": 2}}}})
    gate.fake.says(model(dogs))
    body = ask(gate).json()
    assert sorted(body["suffice"]["votes"]["counts"].values()) == [1, 2, 3]
    assert gate.metric("suffice_judged_total", judge="peer", outcome="failed") == 2


def test_a_judge_spends_no_more_than_the_request_has(make):
    gate = make(JUDGES)
    gate.fake.says(model(dogs))
    body = ask(gate, budget={"total_tokens": 240, "answer_reserve": 8}).json()
    assert body["usage"]["completion_tokens"] == gate.fake.generated_tokens <= 240
    assert sum(one.allowed_tokens for one in judgements(gate)) <= 240 // 8


def test_settled_with_all_that_the_judge_generated(make):
    gate = make(JUDGES)
    gate.fake.says(model(dogs))
    body = ask(gate).json()
    wait(lambda: gate.settled()[-1].state == "settled")
    assert gate.settled()[-1].used == body["usage"]["total_tokens"]
    told_again(logged(gate, body["suffice"]["request_id"]))


@pytest.mark.parametrize(
    ("answer", "param"),
    [
        pytest.param({"judge": "nobody"}, "suffice.answer.judge", id="unknown"),
        pytest.param({"jugde": "peer"}, "suffice.answer.jugde", id="misspelt"),
    ],
)
def test_mistakes_are_the_clients(make, answer, param):
    gate = make(JUDGES)
    found = ask(gate, **answer)
    assert found.status_code == 400
    assert found.json()["error"]["param"] == param
