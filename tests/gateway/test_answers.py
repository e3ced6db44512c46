"""Every generating API, streamed and whole: what comes back, in which order, and what it says it cost."""

import pytest
from fake_vllm import Script
from gateway.rig import events

QUESTION = [{"role": "user", "content": "what is it?"}]
BODIES = {
    "/v1/chat/completions": {"model": "fake", "messages": QUESTION},
    "/v1/completions": {"model": "fake", "prompt": "what is it?"},
    "/v1/responses": {"model": "fake", "input": "what is it?"},
    "/v1/messages": {"model": "fake", "messages": QUESTION, "max_tokens": 2048},
}
apis = pytest.mark.parametrize("path", BODIES)


def body(path, **more):
    return BODIES[path] | more


def usage_of(answer):
    usage = answer["usage"]
    if "input_tokens" in usage:
        return usage["input_tokens"], usage["output_tokens"]
    return usage["prompt_tokens"], usage["completion_tokens"]


def closing(path, found):
    """The event of a stream that carries usage and receipt."""
    match path:
        case "/v1/responses":
            assert found[-1].name == "response.completed"
            return found[-1].data["response"]
        case "/v1/messages":
            assert [event.name for event in found[-2:]] == ["message_delta", "message_stop"]
            return found[-2].data
        case _:
            assert found[-1].data == "[DONE]"
            assert found[-2].data["choices"] == []
            return found[-2].data


def check(gate, answer, spent_before):
    """Usage, receipt, account and upstream agree to the token."""
    prompt, completion = usage_of(answer)
    told = answer["suffice"]
    assert completion == gate.fake.generated_tokens > 0
    assert prompt == gate.fake.requests[0].prompt_tokens > 0
    assert (told["spent"]["prompt_tokens"], told["spent"]["completion_tokens"]) == (prompt, completion)
    assert told["spent"]["samples"] == 1
    assert told["request_id"]
    assert told["plan"]["policy_version"] == gate.service.version
    spent, reserved = gate.usage(f"key:{gate.key_id}")
    assert (spent - spent_before, reserved) == (prompt + completion, 0)


@apis
def test_a_whole_answer_brings_a_receipt_that_adds_up(gate, path):
    before = gate.usage(f"key:{gate.key_id}")[0]
    answer = gate.post(path, body(path))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == answer.json()["suffice"]["request_id"]
    check(gate, answer.json(), before)


@apis
def test_a_stream_ends_with_a_receipt_that_adds_up(gate, path):
    before = gate.usage(f"key:{gate.key_id}")[0]
    options = {"stream_options": {"include_usage": True}} if "completions" in path else {}
    found = gate.stream(path, body(path, **options))
    check(gate, closing(path, found), before)


def said(path, found):
    """Text of a stream by kind, in order."""
    pieces = {"thought": [], "answer": []}
    for event in found:
        data = event.data
        match path:
            case "/v1/chat/completions":
                for choice in data["choices"] if data != "[DONE]" else ():
                    pieces["thought"].append(choice["delta"].get("reasoning") or "")
                    pieces["answer"].append(choice["delta"].get("content") or "")
            case "/v1/completions":
                pieces["answer"] += [choice["text"] for choice in data["choices"]] if data != "[DONE]" else []
            case "/v1/responses":
                if event.name == "response.reasoning_text.delta":
                    pieces["thought"].append(data["delta"])
                if event.name == "response.output_text.delta":
                    pieces["answer"].append(data["delta"])
            case "/v1/messages":
                pieces["thought"].append(data.get("delta", {}).get("thinking", ""))
                pieces["answer"].append(data.get("delta", {}).get("text", ""))
    return "".join(pieces["thought"]), "".join(pieces["answer"])


@apis
@pytest.mark.parametrize("split", [None, 1, 7, 100_000], ids=["event", "byte", "seven-bytes", "one-piece"])
def test_text_keeps_its_order_however_upstream_cuts_its_bytes(gate, path, split):
    gate.fake.says(Script.of(thought="first second third", answer="one two three, four. ünicode ends"))
    gate.fake.settings.split = split
    thought, answer = said(path, gate.stream(path, body(path, seed=1) if path != "/v1/messages" else body(path)))
    if path == "/v1/completions":
        assert (thought, answer) == ("", "one two three, four. ünicode ends")
    else:
        assert (thought, answer) == ("first second third", "one two three, four. ünicode ends")


@apis
def test_a_stream_says_what_a_whole_answer_says(gate, path):
    gate.fake.says(Script.of(thought="a b c", answer="the answer"))
    thought, answer = said(path, gate.stream(path, body(path)))
    whole = gate.post(path, body(path)).json()
    match path:
        case "/v1/chat/completions":
            message = whole["choices"][0]["message"]
            assert (message["reasoning"], message["content"]) == (thought, answer)
        case "/v1/completions":
            assert whole["choices"][0]["text"] == answer
        case "/v1/responses":
            texts = [item["content"][0]["text"] for item in whole["output"]]
            assert texts == [thought, answer]
        case "/v1/messages":
            assert [block.get("thinking") or block.get("text") for block in whole["content"]] == [thought, answer]


@apis
def test_upstream_is_asked_with_the_gateways_own_fields_and_without_ours(gate, path):
    gate.post(path, body(path, suffice={"budget": {"total_tokens": 500}, "class": "bulk"}), x_vllm_priority="-99")
    sent = gate.fake.requests[0]
    assert "suffice" not in sent.body
    assert len(sent.body["cache_salt"]) == 43
    assert sent.body["stream"] is True
    assert sent.headers["x-vllm-priority"] == "10"
    assert gate.secret not in str(sent.headers) + sent.raw.decode()


def test_keys_do_not_share_a_prefix_cache_and_teams_do(gate):
    first, second = gate.key(team="same")[1], gate.key(team="same")[1]
    for key in (first, second, gate.secret):
        gate.post("/v1/chat/completions", BODIES["/v1/chat/completions"], key=key)
    salts = [request.body["cache_salt"] for request in gate.fake.requests]
    assert salts[0] == salts[1] != salts[2]


def test_responses_number_their_events_without_gaps(gate):
    found = gate.stream("/v1/responses", BODIES["/v1/responses"])
    assert [event.data["sequence_number"] for event in found] == list(range(len(found)))
    assert all(event.name == event.data["type"] for event in found)


def test_messages_open_and_close_every_block(gate):
    found = gate.stream("/v1/messages", BODIES["/v1/messages"])
    names = [event.name for event in found if event.name != "content_block_delta"]
    assert names == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert found[0].data["message"]["id"].startswith("msg_")


def test_chat_streams_have_one_id_and_the_clients_model_name(gate):
    found = gate.stream("/v1/chat/completions", BODIES["/v1/chat/completions"] | {"model": "fake@frugal"})
    chunks = [event.data for event in found[:-1]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {"fake"}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"newline": "\r\n"}, id="crlf"),
        pytest.param({"newline": "\r"}, id="cr"),
        pytest.param({"comments": True}, id="comments"),
        pytest.param({"tokens_per_chunk": 4}, id="four-tokens-a-chunk"),
        pytest.param({"split": 40, "split_seed": 3, "newline": "\r\n"}, id="random-cuts"),
    ],
)
@apis
def test_upstreams_manners_on_the_wire_change_nothing(gate, path, settings):
    for name, value in settings.items():
        setattr(gate.fake.settings, name, value)
    gate.fake.says(Script.of(thought="a b c d", answer="e f g h i"))
    before = gate.usage(f"key:{gate.key_id}")[0]
    options = {"stream_options": {"include_usage": True}} if "completions" in path else {}
    found = gate.stream(path, body(path, **options))
    assert said(path, found)[1] == "e f g h i"
    check(gate, closing(path, found), before)


@pytest.mark.parametrize("kind", ["after_done", "no_done"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_nothing_after_the_closing_mark_counts_and_nothing_before_it_is_lost(gate, path, kind):
    gate.fake.fail(kind)
    answer = gate.post(path, body(path))
    assert answer.status_code == 200, answer.text
    assert usage_of(answer.json())[1] == gate.fake.generated_tokens


def test_many_prompts_each_get_their_samples(gate):
    gate.fake.says(lambda ask: Script.of(answer=f"{ask.prompt} {ask.seed}"))
    answer = gate.post("/v1/completions", {"model": "fake", "prompt": ["left", "right"], "n": 2, "seed": 5}).json()
    assert [choice["text"] for choice in answer["choices"]] == ["left 5", "left 6", "right 5", "right 6"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == gate.fake.generated_tokens
    assert answer["usage"]["prompt_tokens"] == 2


def test_token_ids_may_be_a_prompt(gate):
    gate.fake.says(lambda ask: Script.of(answer=ask.prompt))
    ids = gate.client.post(gate.fake.url + "/tokenize", json={"prompt": "hello there"}).json()["tokens"]
    answer = gate.post("/v1/completions", {"model": "fake", "prompt": ids}).json()
    assert answer["choices"][0]["text"] == "hello there"
    assert answer["usage"]["prompt_tokens"] == len(ids)


def test_a_whole_answer_and_a_stream_without_usage_cost_the_account_alike(gate):
    path = "/v1/chat/completions"
    id_, key = gate.key()
    gate.post(path, body(path, seed=1), key=key)
    once = gate.usage(f"key:{id_}")[0]
    text = gate.post(path, body(path, seed=1, stream=True), key=key).text
    assert not any("usage" in event.data for event in events(text) if event.data != "[DONE]")
    assert gate.usage(f"key:{id_}")[0] == 2 * once > 0
