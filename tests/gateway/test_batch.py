"""One budget over many questions: where samples go, that the total holds, what is told."""

import random

import pytest
from fake_vllm import Script
from gateway.batches import BATCH, OVERHEAD, SEED, body, by_name, place, split, votes
from gateway.rig import events


def test_each_question_gets_its_winner_and_all_is_counted(make):
    gate = make()
    votes(gate, {"a": ["7"], "b": ["1", "2", "2", "2"], "c": ["none"]})
    id_, key = gate.key()
    answer = gate.post(BATCH, body("a", "b", "c", sampling={"least": 2, "max": 4}), key=key)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["object"], told["status"]) == ("suffice.batch", "completed")
    assert "incomplete" not in told
    found = by_name(told)
    assert list(found) == ["a", "b", "c"]
    assert found["a"]["answer"]["value"] == "7"
    assert found["a"]["answer"]["message"]["content"] == "The answer is 7."
    assert found["a"]["votes"] == {"7": 4}
    assert (found["a"]["agreement"], found["a"]["samples"]) == (1, 4)
    assert found["b"]["votes"] == {"1": 1, "2": 3}
    assert found["b"]["answer"]["sample"] == 1
    assert found["b"]["agreement"] == 0.75
    assert 0.5 < found["b"]["confidence"] < found["a"]["confidence"] < 1
    # Nobody could read an answer: what the first sample said is shown all the same.
    assert found["c"]["answer"]["value"] is None
    assert found["c"]["answer"]["message"]["content"] == "The answer is none."
    assert (found["c"]["votes"], found["c"]["confidence"]) == ({}, None)
    generated = gate.fake.generated_tokens
    prompts = sum(one.prompt_tokens for one in gate.fake.requests)
    assert len(gate.fake.requests) == 12
    assert told["usage"] == {
        "prompt_tokens": prompts,
        "completion_tokens": generated,
        "total_tokens": prompts + generated,
    }
    assert sum(result["tokens"] for result in found.values()) == told["spent"]["tokens"] == generated
    assert told["suffice"]["spent"]["samples"] == 12
    gate.idle()
    assert gate.usage(f"key:{id_}") == (prompts + generated, 0)


def test_samples_go_to_the_undecided_question(make):
    gate = make()
    asked = votes(gate, {"a": ["7"], "b": ["1", "2"] * 10, "c": ["5"]})
    total = 22 * (3 + OVERHEAD)
    told = gate.post(BATCH, body("a", "b", "c", total=total, concurrency=1, sampling={"max": 20})).json()
    found = by_name(told)
    assert asked[:6] == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("c", 1)]
    assert found["b"]["samples"] > 2 * max(found["a"]["samples"], found["c"]["samples"])
    assert told["spent"] == {"tokens": total, "left": 0, "lost_tokens": 0}


def test_shorter_samples_come_first_where_the_votes_are_alike(make):
    gate = make()
    votes(gate, {"long": ["1", "2"] * 20, "short": ["1", "2"] * 20}, lambda name, _: 40 if name == "long" else 2)
    told = gate.post(BATCH, body("long", "short", total=600, concurrency=1)).json()
    found = by_name(told)
    assert found["short"]["samples"] > 2 * found["long"]["samples"]


@pytest.mark.parametrize("concurrency", [1, 5, 16])
@pytest.mark.parametrize("seed", range(4))
def test_no_sum_of_grants_passes_the_total(make, seed, concurrency):
    gate = make()
    chance = random.Random(seed)
    wishes = {}

    def length(name, sample):
        return wishes.setdefault((name, sample), chance.choice([0, 1, 5, 30, 52, 10_000]))

    total = chance.choice([40, 137, 600, 1500])
    held = []

    def script(ask):
        wish = length(*place(ask.prompt, ask.seed))
        held.append(outstanding())
        return Script(thought=(" hm",) * wish, answer=("The", " answer", " is", f" {ask.seed % 3}", "."))

    def outstanding():
        """What is generated, and what running samples may still generate; one that said its last word is over."""
        found = 0
        for one in tuple(gate.fake.requests):
            if not one.allowed_tokens:
                continue
            name, sample = place(one.body["messages"][0]["content"], one.body["seed"])
            most = min(one.allowed_tokens, wishes.get((name, sample), 10_000) + OVERHEAD)
            found += one.generated_tokens if one.generated_tokens >= most else one.allowed_tokens
        return found

    gate.fake.says(script)
    request = body("a", "b", "c", total=total, concurrency=concurrency, suffice={"budget": {"answer_reserve": 2}})
    told = gate.post(BATCH, request).json()
    assert told["status"] == "completed"
    assert max(held) <= total
    assert gate.fake.generated_tokens == told["spent"]["tokens"] <= total
    assert told["spent"]["left"] == total - told["spent"]["tokens"]
    assert gate.metric("suffice_budget_overshoot_tokens_total") == 0
    # What is left was too little for one more answer, or every question has all its samples.
    assert told["spent"]["left"] < 10 or all(result["samples"] == 40 for result in told["results"])


def test_a_sample_that_the_rest_of_the_budget_cuts_short_has_no_answer(make):
    gate = make()
    gate.fake.says(Script(answer=("The", " answer", " is", " 4", "2", "2", "2", "2", "2", "2", ".")))
    told = gate.post(BATCH, body("a", total=35, concurrency=1)).json()
    (result,) = told["results"]
    assert gate.fake.requests[-1].generated_tokens == 9
    assert (result["votes"], result["samples"]) == ({"4222222": 2}, 3)
    assert told["spent"]["tokens"] == 35


def test_the_stream_tells_votes_results_and_the_end(make):
    gate = make()
    votes(gate, {"a": ["7"], "b": ["1", "2", "2"]})
    request = body("a", "b", sampling={"max": 3})
    answer = gate.post(BATCH, request | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    progress, results, last = split(events(answer.text))
    assert len(progress) == 6
    assert {(one["vote"]["id"], one["vote"]["sample"]) for one in progress} == {
        (name, sample) for name in "ab" for sample in range(3)
    }
    assert progress[-1]["spent"] == sum(one["vote"]["tokens"] for one in progress) == last["spent"]["tokens"]
    assert len(results) == 2
    assert {result["id"]: result for result in results} == by_name(last)
    whole = gate.post(BATCH, request).json()
    assert whole["results"] == last["results"]


def test_questions_may_name_fields_of_their_own(make):
    gate = make()
    votes(gate, {"a": ["7"], "b": ["8"]})
    request = body("a", "b", sampling={"least": 1, "max": 1}, temperature=0.5, top_p=0.9)
    request["questions"][1] |= {"temperature": 1.5, "max_tokens": 33}
    gate.post(BATCH, request)
    sent = {place(one.body["messages"][0]["content"], SEED)[0]: one.body for one in gate.fake.requests}
    assert [(sent[name]["temperature"], sent[name]["top_p"]) for name in "ab"] == [(0.5, 0.9), (1.5, 0.9)]
    assert (sent["a"]["max_completion_tokens"], sent["b"]["max_completion_tokens"]) == (60, 33)


def test_every_sample_has_the_tenants_salt_its_own_seed_and_a_name(make):
    gate = make()
    votes(gate, {"a": ["7"], "b": ["8"]})
    gate.post(BATCH, body("a", "b", sampling={"max": 3}))
    salts = {one.body["cache_salt"] for one in gate.fake.requests}
    assert len(salts) == 1
    gate.fake.requests.clear()
    alone = {"model": "fake", "messages": [{"role": "user", "content": "question a"}], "seed": SEED}
    gate.post("/v1/chat/completions", alone)
    assert {one.body["cache_salt"] for one in gate.fake.requests} == salts
    gate.fake.requests.clear()
    gate.post(BATCH, body("a", "b", sampling={"max": 3}))
    assert sorted(one.body["seed"] - SEED for one in gate.fake.requests) == [0, 0, 1, 1, 2, 2]
    assert len({one.headers["x-request-id"] for one in gate.fake.requests}) == 6


def test_names_are_numbers_where_nobody_gives_any(make):
    gate = make()
    gate.fake.says(Script.of(answer="The answer is 7."))
    request = {"model": "fake", "questions": [{"messages": [{"role": "user", "content": "hi"}]}] * 2}
    told = gate.post(BATCH, request | {"total_tokens": 5000, "answer": {"kind": "number"}, "sampling": {"max": 2}})
    assert [result["id"] for result in told.json()["results"]] == ["0", "1"]


def test_concurrency_is_what_was_asked_and_never_more_than_the_operator_allows(make):
    gate = make({"server": {"batch_concurrency": 3}})
    votes(gate, {name: ["7"] for name in "abcdef"})
    gate.fake.settings.token_s = 0.003
    most = []
    script = gate.fake.app.model
    gate.fake.says(lambda ask: most.append(gate.fake.running) or script(ask))
    for asked, allowed in ((2, 2), (64, 3)):
        most.clear()
        told = gate.post(BATCH, body(*"abcdef", sampling={"max": 3}, concurrency=asked)).json()
        assert told["suffice"]["plan"]["concurrency"] == max(most) == allowed


@pytest.mark.parametrize(
    ("config", "ceilings", "limits"),
    [
        pytest.param(
            {"policies": {"ceilings": {"total_tokens": 90}}}, {}, {"total_tokens": [90, "gateway"]}, id="gateway"
        ),
        pytest.param({}, {"max_total_tokens": 80}, {"total_tokens": [80, "key"]}, id="key"),
        pytest.param({}, {"max_samples": 2}, {"samples": [2, "key"]}, id="samples"),
        pytest.param(
            {"models": {"fake": {"ceilings": {"sample_tokens": 30}}}},
            {},
            {"sample_tokens": [30, "model"]},
            id="sample",
        ),
        pytest.param(
            {"presets": {"balanced": {"budget": {"deadline_ms": 9000}}}},
            {},
            {"deadline_ms": [9000, "preset"]},
            id="preset",
        ),
    ],
)
def test_the_operators_ceilings_hold(make, config, ceilings, limits):
    gate = make(config)
    votes(gate, {"a": ["7"], "b": ["8"]})
    _, key = gate.key(**ceilings)
    told = gate.post(BATCH, body("a", "b", total=600), key=key).json()
    shown = told["suffice"]["plan"]["limits"]
    assert {name: shown[name] for name in limits} == limits
    assert told["spent"]["tokens"] <= shown["total_tokens"][0]
    assert all(result["samples"] <= shown["samples"][0] for result in told["results"])
    assert all(one.allowed_tokens <= shown["sample_tokens"][0] for one in gate.fake.requests)


def test_rules_inside_a_sample_run_in_a_batch_too(make):
    gate = make(reasoning_config=False)
    votes(gate, {"a": ["7"]}, lambda *_: 30)
    told = gate.post(BATCH, body("a", sampling={"max": 2}, suffice={"budget": {"thinking_tokens": 5}})).json()
    assert {"rule": "thinking_tokens", "by": "gateway", "samples": 2} in told["suffice"]["stops"]
    assert told["results"][0]["answer"]["message"]["reasoning"].count("hm") == 5
    assert told["spent"]["tokens"] == gate.fake.generated_tokens


def test_probes_are_paid_from_the_same_total(make):
    gate = make(reasoning_config=False)
    votes(gate, {"a": ["7"]}, lambda *_: 200)
    gate.fake.settings.token_s = 0.002  # so that probes are back before the thought is over
    leaving = {"rule": "convergence", "probe_first": 8, "probe_growth": 1.5, "window": 2}
    request = body("a", total=900, sample_tokens=300, suffice={"early_exit": leaving})
    told = gate.post(BATCH, request).json()
    assert told["suffice"]["spent"]["probe_tokens"] > 0
    assert ("convergence", "gateway") in [(stop["rule"], stop["by"]) for stop in told["suffice"]["stops"]]
    assert told["spent"]["tokens"] <= 900
    assert sum(result["tokens"] for result in told["results"]) == told["usage"]["completion_tokens"]


def test_metrics_know_the_route(make):
    gate = make()
    votes(gate, {"a": ["7"]})
    labels = {"route": "batch", "model": "fake", "code": "200"}
    before = gate.metric("suffice_requests_total", **labels)
    gate.post(BATCH, body("a", sampling={"max": 2}))
    assert gate.metric("suffice_requests_total", **labels) == before + 1
