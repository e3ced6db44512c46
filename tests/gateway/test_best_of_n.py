"""Best of n: who scores, what wins, and that a verifier can neither hang nor break a request."""

import re
import time

import pytest
from fake_vllm import Script
from gateway.verifiers import Scorer

CHAT = "/v1/chat/completions"
SEED = 1000
QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "write a number"}]}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}


def number(answer):
    return float(re.findall(r"\d+", answer)[-1])


@pytest.fixture(scope="module")
def scorer():
    with Scorer(number) as found:
        yield found


def ask(gate, verifier, *, extra=None, most=4, **sampling):
    drawn = {"rule": "best_of_n", "max": most, "wave": 4, "least": 3, "verifier": verifier} | sampling
    return gate.post(CHAT, QUESTION | {"seed": SEED, "suffice": {"sampling": drawn}} | (extra or {}))


def says(gate, *answers):
    gate.fake.says(lambda ask: Script.of(thought="hm", answer=answers[max(0, min(ask.seed - SEED, len(answers) - 1))]))


def verifiers(**sections):
    return {"policies": {"verifiers": sections}}


def test_an_http_verifier_chooses_the_winner(make, scorer, monkeypatch):
    monkeypatch.setenv("SCORER_KEY", "secret")
    section = {"kind": "http", "url": f"{scorer.url}/check", "api_key": "env:SCORER_KEY"}
    gate = make(verifiers(mine=section))
    says(gate, "It is 3.", "It is 9.", "It is 5.", "It is 4.")
    body = ask(gate, "mine").json()
    assert body["choices"][0]["message"]["content"] == "It is 9."
    assert body["suffice"]["spent"]["samples"] == 4
    path, told, headers = scorer.asked[-1]
    assert path == "/check"
    assert told["request"]["messages"] == QUESTION["messages"]
    assert headers["authorization"] == "Bearer secret"
    assert "suffice" not in told["request"]


def test_vllms_score_api_chooses_the_winner(make, scorer):
    section = {"kind": "score", "url": scorer.url, "model": "reward"}
    gate = make(verifiers(reward=section))
    says(gate, "It is 3.", "It is 2.", "It is 8.", "It is 4.")
    body = ask(gate, "reward").json()
    assert body["choices"][0]["message"]["content"] == "It is 8."
    path, told, _ = scorer.asked[-1]
    assert (path, told["model"], told["queries"]) == ("/score", "reward", "write a number")


def test_drawing_stops_when_another_sample_is_not_worth_its_tokens(make, scorer):
    gate = make(verifiers(mine={"kind": "http", "url": f"{scorer.url}/check"}))
    says(gate, "5", "6", "7", "7", "7", "7", "7")
    body = ask(gate, "mine", most=12, cost=1e6).json()
    assert body["suffice"]["spent"]["samples"] < 12
    assert body["suffice"]["votes"]["rule"] == "best_of_n"


@pytest.mark.parametrize("own", [True, False], ids=["operators", "requests"])
def test_a_schema_decides(make, own):
    section = {"kind": "json_schema"} | ({"schema": SCHEMA} if own else {})
    gate = make(verifiers(form=section))
    answers = ['{"n": 1}', "no JSON", 'Here: {"n": 7}', '{"n": "7"}']
    extra = {}
    if not own:
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
        extra = {"response_format": form}
        # The fake keeps to the kinds of a schema, not to its ranges: no answer passes.
        body = ask(gate, "form", extra=extra).json()
        assert gate.metric("suffice_verified_total", verifier="form", outcome="scored") > 0
        assert body["choices"][0]["message"]["content"] == '{"n": 3}'
        return
    says(gate, *answers)
    assert ask(gate, "form").json()["choices"][0]["message"]["content"] == answers[2]


def test_a_request_without_a_schema_has_no_scores(make):
    gate = make(verifiers(form={"kind": "json_schema"}))
    says(gate, "It is 1.", "It is 2.")
    before = gate.metric("suffice_verified_total", verifier="form", outcome="unscored")
    assert ask(gate, "form").json()["choices"][0]["message"]["content"] == "It is 1."
    assert gate.metric("suffice_verified_total", verifier="form", outcome="unscored") == before + 4


def test_code_is_run_only_where_the_operator_says_so(make, tmp_path_factory):
    tests = tmp_path_factory.mktemp("tests") / "check.py"
    tests.write_text("import os\nassert double(4) == 8\nassert set(os.environ) <= {'LC_CTYPE'}\n")
    section = {"kind": "unit_test", "tests": str(tests), "run_untrusted_code": True, "timeout_s": 5, "cpu_s": 1}
    gate = make(verifiers(tests=section))
    wrong, right = "def double(n):\n    return n + 1\n", "```python\ndef double(n):\n    return 2 * n\n```"
    says(gate, wrong, "no code", f"Here:\n{right}", "def double(n):\n    while True: pass\n")
    body = ask(gate, "tests").json()
    assert body["choices"][0]["message"]["content"] == f"Here:\n{right}"
    assert gate.metric("suffice_verified_total", verifier="tests", outcome="scored") == 4


@pytest.mark.parametrize(
    ("score", "delay_s", "outcome"),
    [
        pytest.param(number, 1.0, "late", id="slow"),
        pytest.param(lambda _: int("x"), 0.0, "unscored", id="failing"),
        pytest.param(lambda _: "many", 0.0, "unscored", id="no-number"),
    ],
)
def test_a_verifier_that_says_nothing_costs_the_score_and_no_more(make, score, delay_s, outcome):
    with Scorer(score, delay_s=delay_s) as found:
        gate = make(verifiers(bad={"kind": "http", "url": f"{found.url}/check", "timeout_s": 0.2}))
        says(gate, "It is 1.", "It is 2.")
        answer = ask(gate, "bad")
        assert answer.json()["choices"][0]["message"]["content"] == "It is 1."
        assert gate.metric("suffice_verified_total", verifier="bad", outcome=outcome) == 4


def test_a_verifier_that_is_not_there_costs_the_score_and_no_more(make):
    gate = make(verifiers(gone={"kind": "http", "url": "http://127.0.0.1:9/check", "timeout_s": 2}))
    says(gate, "It is 1.", "It is 2.")
    assert ask(gate, "gone").status_code == 200
    assert gate.metric("suffice_verified_total", verifier="gone", outcome="failed") == 4


def test_a_deadline_does_not_wait_for_a_verifier(make):
    with Scorer(number, delay_s=5) as found:
        gate = make(verifiers(slow={"kind": "http", "url": f"{found.url}/check", "timeout_s": 30}))
        says(gate, "It is 1.")
        began = time.monotonic()
        body = gate.post(
            CHAT,
            QUESTION
            | {"seed": SEED}
            | {
                "suffice": {
                    "sampling": {"rule": "best_of_n", "max": 2, "verifier": "slow"},
                    "budget": {"deadline_ms": 500},
                }
            },
        ).json()
        assert time.monotonic() - began < 4
        assert body["choices"][0]["message"]["content"] == "It is 1."


def test_without_a_verifier_the_receipt_says_what_that_means(make):
    gate = make()
    says(gate, "It is 1.")
    body = gate.post(CHAT, QUESTION | {"seed": SEED, "suffice": {"sampling": {"rule": "best_of_n", "max": 2}}}).json()
    assert [item["rule"] for item in body["suffice"]["not_applied"]] == ["best_of_n"]


@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param({"rule": "best_of_n", "verifier": "unknown"}, id="unknown"),
        pytest.param({"rule": "best_of_n", "verifier": "http://127.0.0.1/"}, id="url"),
        pytest.param({"rule": "curtailment", "verifier": "form"}, id="no-use"),
    ],
)
def test_mistakes_are_the_clients(make, scorer, sampling):
    gate = make(verifiers(form={"kind": "http", "url": f"{scorer.url}/check"}))
    answer = gate.post(CHAT, QUESTION | {"suffice": {"sampling": sampling}})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "suffice.sampling.verifier"
    assert gate.fake.requests == []
