"""Rules before a real vLLM: votes, exits, guards and judges do there what they do before the fake."""

from __future__ import annotations

import httpx2
import pytest
import yaml
from suffice.server.ledger.keys import KeyStore, ensure_local_key

pytestmark = pytest.mark.live

CHAT = "/v1/chat/completions"
QUESTION = "Start at 43. Add 8. Subtract 5. Double it. What do you get?"
NUMBER = {"kind": "number"}
FILE = {
    "policies": {
        "audit_share": 0,
        "judges": {"itself": {"model": "tiny", "max_tokens": 8}},
        "verifiers": {"none": {"kind": "score", "model": "tiny", "timeout_s": 5}},
    },
    "presets": {
        "balanced": {},
        "guarded": {"guards": {"repetition": {}, "length": {}, "boundary": {"soft": 0.5}, "deadline": {}}},
        "waits": {"guards": {"extend": {"least": 4000}}},
    },
}


@pytest.fixture(scope="module")
def ask(live_engine, thinks, gateway_process, tmp_path_factory):
    """Ask a gateway with rules of the operator's, before the real engine."""
    data = tmp_path_factory.mktemp("rules")
    path = data / "suffice.yaml"
    policies = FILE["policies"] | {"judges": {"itself": {"model": live_engine.model, "max_tokens": 8}}}
    path.write_text(yaml.safe_dump(FILE | {"policies": policies}))
    keys = KeyStore(data)
    secret = ensure_local_key(data, keys)
    keys.close()
    process = gateway_process(live_engine.url, data, "--config", str(path))
    process.start()
    client = httpx2.Client(base_url=process.url, timeout=120, trust_env=False)
    client.headers["authorization"] = f"Bearer {secret}"

    def post(question=QUESTION, *, preset="balanced", suffice=None, **more):
        body = {"model": f"{live_engine.model}@{preset}", "messages": [{"role": "user", "content": question}]}
        answer = client.post(CHAT, json=body | {"suffice": suffice or {}} | more)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        spent = found["suffice"]["spent"]
        kinds = ("completion", "probe", "cancelled")
        assert found["usage"]["completion_tokens"] == sum(spent[f"{kind}_tokens"] for kind in kinds)
        return found

    yield post
    client.close()
    process.stop()


def test_a_vote_is_won_by_what_most_samples_answer(ask):
    drawn = {"rule": "curtailment", "max": 12, "wave": 4}
    body = ask(max_tokens=600, seed=11, suffice={"sampling": drawn, "answer": NUMBER})
    votes, receipt = body["suffice"]["votes"], body["suffice"]
    assert votes["counts"][votes["winner"]] == max(votes["counts"].values())
    assert votes["winner"] in body["choices"][0]["message"]["content"]
    assert receipt["spent"]["samples"] + receipt["saved"]["samples"] == 12


@pytest.mark.parametrize(
    "exits",
    [
        pytest.param({"rule": "confidence", "threshold": 0, "probe_first": 8, "probe_tokens": 12}, id="probed"),
        pytest.param({"rule": "static_cap", "cap": 16, "home": "gateway"}, id="counted"),
    ],
)
def test_a_thought_is_ended_inside_the_engine_and_answered(ask, exits):
    told = [ask(max_tokens=900, seed=seed, suffice={"early_exit": exits, "answer": NUMBER}) for seed in range(6)]
    stops = [stop for body in told for stop in body["suffice"]["stops"] if stop["rule"] == exits["rule"]]
    assert stops
    assert {stop["by"] for stop in stops} == {"engine"}
    assert all(body["choices"][0]["message"]["content"].strip() for body in told)
    assert any(body["suffice"]["spent"]["probe_tokens"] for body in told) == ("probe_first" in exits)


def test_guards_leave_an_answer(ask):
    budget = {"thinking_tokens": 120, "deadline_ms": 60000}
    body = ask(preset="guarded", max_tokens=400, seed=3, suffice={"budget": budget})
    assert body["choices"][0]["message"]["content"].strip()
    assert body["choices"][0]["finish_reason"] in ("stop", "length")
    assert "not_applied" not in body["suffice"]


def test_a_thought_that_ends_too_soon_goes_on(ask):
    body = ask(preset="waits", max_tokens=900, seed=5)
    message = body["choices"][0]["message"]
    assert [stop["rule"] for stop in body["suffice"]["stops"]][:1] == ["extend"]
    before, _, after = message["reasoning"].partition("\nWait,")
    assert before.strip()
    assert after.strip()
    assert message["content"].strip()
    assert "</think>" not in message["reasoning"] + message["content"]


def test_confidence_weighs_votes_by_what_the_engine_tells(ask):
    drawn = {"rule": "confidence", "max": 8, "wave": 4, "warm_up": 4, "window": 16}
    body = ask(max_tokens=600, seed=21, suffice={"sampling": drawn, "answer": NUMBER})
    assert 0 < body["suffice"]["votes"]["confidence"] <= 1
    assert body["choices"][0]["logprobs"] is None


def test_a_judge_is_asked_and_paid_for(ask):
    drawn = {"rule": "all", "max": 4}
    answer = {"kind": "judge", "judge": "itself"}
    body = ask(max_tokens=600, temperature=1.3, seed=9, suffice={"sampling": drawn, "answer": answer})
    judge = body["suffice"]["votes"]["judge"]
    unlike = len(body["suffice"]["votes"]["counts"]) + judge["merged"]
    assert judge["asked"] == unlike - 1
    assert bool(body["suffice"]["spent"]["probe_tokens"]) == bool(judge["asked"])


def test_a_verifier_that_is_no_verifier_leaves_the_first_answer(ask):
    drawn = {"rule": "best_of_n", "max": 2, "verifier": "none"}
    body = ask(max_tokens=600, seed=2, suffice={"sampling": drawn, "answer": NUMBER})
    assert body["choices"][0]["message"]["content"].strip()
    assert body["suffice"]["votes"]["winner"] is not None
