"""Going on from any prefix of a batch's events is as if it had never been interrupted."""

import pytest
from gateway.batches import BATCH, body, split, votes
from gateway.rig import events

ANSWERS = {"a": ["7"], "b": ["1", "2", "2", "1", "2"], "c": ["none", "5"]}


def lengths(name, sample):
    return {"a": 2, "b": 9, "c": 4}[name] + sample % 3


def ask(gate, request):
    return split(events(gate.post(BATCH, request | {"stream": True}).text))


@pytest.mark.parametrize("total", [60, 200, 333])
def test_from_any_prefix(make, total):
    gate = make()
    asked = votes(gate, ANSWERS, lengths)
    request = body("a", "b", "c", total=total, concurrency=1, sampling={"max": 6})
    progress, _, whole = ask(gate, request)
    order = asked.copy()
    kept = [one["vote"] for one in progress]
    assert [(vote["id"], vote["sample"]) for vote in kept] == order
    for end in range(len(kept) + 1):
        asked.clear()
        more, results, again = ask(gate, request | {"resume": {"votes": kept[:end]}})
        assert asked == order[end:]
        assert [one["vote"] for one in more] == kept[end:]
        assert (again["results"], again["spent"]) == (whole["results"], whole["spent"])
        assert {result["id"] for result in results} == {"a", "b", "c"}
        # Only what this run generated is charged again.
        assert again["usage"]["completion_tokens"] == whole["spent"]["tokens"] - sum(v["tokens"] for v in kept[:end])


def test_with_samples_beside_each_other(make):
    gate = make()
    asked = votes(gate, ANSWERS, lengths)
    request = body("a", "b", "c", concurrency=5, sampling={"max": 6})
    progress, _, whole = ask(gate, request)
    everything = sorted(asked)
    assert everything == [(name, sample) for name in "abc" for sample in range(6)]
    kept = [one["vote"] for one in progress]
    for end in (1, 4, 9, 17):
        asked.clear()
        _, _, again = ask(gate, request | {"resume": {"votes": kept[:end]}})
        assert sorted(asked) == sorted(set(everything) - {(vote["id"], vote["sample"]) for vote in kept[:end]})
        assert (again["results"], again["spent"]) == (whole["results"], whole["spent"])


def test_from_the_state_of_a_batch_that_was_cut_off(make):
    gate = make()
    asked = votes(gate, ANSWERS, lengths)
    gate.fake.settings.token_s = 0.02
    request = body("a", "b", "c", total=2000, sampling={"max": 6})
    first = gate.post(BATCH, request | {"deadline_ms": 800}).json()
    assert first["status"] == "incomplete"
    assert 0 < len(first["state"]["votes"]) < 18
    gate.fake.settings.token_s = 0.0
    asked.clear()
    second = gate.post(BATCH, request | {"resume": first["state"]}).json()
    assert second["status"] == "completed"
    assert len(asked) == 18 - len(first["state"]["votes"])
    assert [result["samples"] for result in second["results"]] == [6, 6, 6]
    lost = first["spent"]["lost_tokens"]
    assert second["spent"]["lost_tokens"] == lost
    assert second["spent"]["tokens"] == lost + sum(result["tokens"] for result in second["results"])
    gate.fake.settings.token_s = 0.0
    whole = gate.post(BATCH, request).json()
    assert second["results"] == whole["results"]


def test_a_vote_may_come_back_without_what_was_said(make):
    gate = make()
    votes(gate, {"a": ["7"]})
    kept = [{"id": "a", "sample": sample, "answer": "9", "tokens": 10} for sample in (0, 1, 3)]
    told = gate.post(BATCH, body("a", sampling={"max": 4}) | {"resume": {"votes": kept}}).json()
    (result,) = told["results"]
    assert result["votes"] == {"9": 3, "7": 1}
    assert result["answer"] == {"value": "9", "sample": 0, "message": None}
    assert len(gate.fake.requests) == 1


def test_a_batch_that_was_over_costs_nothing(make):
    gate = make()
    id_, key = gate.key()
    kept = [{"id": "a", "sample": sample, "answer": "9", "tokens": 10} for sample in range(4)]
    told = gate.post(BATCH, body("a", sampling={"max": 4}) | {"resume": {"votes": kept}}, key=key).json()
    assert (told["status"], told["spent"]["tokens"]) == ("completed", 40)
    assert gate.fake.requests == []
    gate.idle()
    assert gate.usage(f"key:{id_}") == (0, 0)


def test_more_budget_goes_on_where_less_ended(make):
    gate = make()
    votes(gate, ANSWERS, lengths)
    request = body("a", "b", "c", total=120, concurrency=1, sampling={"max": 6})
    progress, _, little = ask(gate, request)
    kept = {"votes": [one["vote"] for one in progress]}
    _, _, more = ask(gate, request | {"total_tokens": 600, "resume": kept})
    assert more["spent"]["tokens"] > little["spent"]["tokens"]
    assert [result["samples"] for result in more["results"]] == [6, 6, 6]
