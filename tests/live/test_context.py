"""A conversation that outgrew the real model's context is refused as it is, and answered where it may be cut."""

import itertools

import pytest
from gateway.conversations import Step, body
from live.asking import ask
from live.engine_truth import gauge, spending, token_count

pytestmark = pytest.mark.live

CONTEXT = 2048
BLOCK = 128
"""Tokens in a block of the engine's cache on a CPU."""
QUESTION = "Start at 43. Add 8. Subtract 5. Double it. What do you get?"
EARLIER = "Start at 7. Add 2. Double it. Subtract 4. Add 11. Double it. What do you get?"
LENGTHS = {"chat": "max_tokens", "messages": "max_tokens", "responses": "max_output_tokens"}


def conversation(turns):
    """Questions and answers, the last question unanswered."""
    told = []
    for number in range(turns):
        told += [{"role": "user", "content": f"{number}. {EARLIER}"}, {"role": "assistant", "content": "50"}]
    return [*told, {"role": "user", "content": QUESTION}]


def request(api, model, turns, **more):
    """A request of one API with a long conversation."""
    name = "input" if api == "responses" else "messages"
    return {"model": model, name: conversation(turns), LENGTHS[api]: 48, "temperature": 0} | more


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("api", list(LENGTHS))
def test_a_conversation_beyond_the_context(live_engine, gateway, api, stream):
    each = token_count(live_engine.url, live_engine.model, f"10. {EARLIER}")
    turns = 2 * CONTEXT // each
    refused = ask(gateway, api, request(api, live_engine.model, turns))
    assert refused.status == 400, refused.body
    assert "context length" in refused.body["error"]["message"] or "model's context" in refused.body["error"]["message"]
    with spending(live_engine.url) as spent:
        cut = request(api, live_engine.model, turns, suffice={"context": {"trim": "auto"}})
        told = ask(gateway, api, cut, stream=stream)
    assert told.status == 200, told.body
    assert told.texts.get(0) or told.thoughts.get(0)
    assert told.spent == (spent.prompt, spent.generated)
    trimming = told.receipt["context"]
    assert trimming["tokens_before"] > CONTEXT
    # Half of the limit at least is kept, and what the receipt says of the length is no less than what it was.
    assert CONTEXT // 2 < spent.prompt <= trimming["tokens_after"] <= CONTEXT - 48
    assert trimming["dropped"]
    assert 2 * turns not in trimming["dropped"]


def test_the_engines_cache_hits_between_cuts(live_engine, gateway):
    """What one turn was sent is the beginning of what the next one sends."""
    rule = {"context": {"trim": "auto", "max_tokens": 1500, "first": 2, "recent": 2}}
    names = ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total")
    prompts = []
    for turns in range(1, 60, 2):
        before = gauge(live_engine.url, *names)
        told = ask(gateway, "chat", request("chat", live_engine.model, turns, suffice=rule))
        assert told.status == 200, told.body
        after = gauge(live_engine.url, *names)
        asked, hit = (after[name] - before[name] for name in names)
        prompts.append((told.receipt.get("context", {"steps": 0})["steps"], told.spent[0], asked, hit))
    assert prompts[-1][0] > 0
    for (steps, length, _, _), (next_steps, next_length, asked, hit) in itertools.pairwise(prompts):
        # Between cuts a prompt only grows and is mostly in the cache, which holds whole blocks; a cut makes it shorter.
        assert (next_length > length) == (next_steps == steps)
        assert asked == next_length
        if next_steps == steps and length > 4 * BLOCK:
            assert hit > length - 2 * BLOCK


@pytest.mark.parametrize("api", list(LENGTHS))
def test_calls_and_results_that_stay_are_what_the_engine_takes(live_engine, gateway, api):
    looks = [
        Step("tools", "I look.", ((f"call{number}a", f"{number} " + "It is 7. " * 40), (f"call{number}b", "Add 2.")))
        for number in range(14)
    ]
    cut = body(api, [Step("user", QUESTION), *looks, Step("user", QUESTION)], model=live_engine.model)
    cut |= {LENGTHS[api]: 32, "suffice": {"context": {"trim": "auto", "max_tokens": 1200, "result_tokens": 80}}}
    with spending(live_engine.url) as spent:
        told = ask(gateway, api, cut)
    assert told.status == 200, told.body
    trimming = told.receipt["context"]
    assert trimming["dropped"]
    assert trimming["shortened"]
    assert spent.prompt <= trimming["tokens_after"] <= 1200
