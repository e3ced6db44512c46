"""Conversations that are too long are cut where somebody asked for it: what upstream gets, and what is told of it."""

import json
import random
import re

import pytest
from gateway.conversations import (
    PATHS,
    SYSTEM,
    Step,
    body,
    calls,
    conversation,
    random_steps,
    results,
    spoken,
)
from gateway.rig import wait
from suffice.server.gateway.text_lengths import TextLengths
from suffice.server.gateway.trimming import MOST_TURNS, shortened

APIS = pytest.mark.parametrize("api", list(PATHS))
LEFT_OUT = re.compile(r"\n\[\.\.\. (\d+) characters left out \.\.\.\]\n")
QUESTION = "And what is the tide now?"


def talk(turns, words=30):
    """A plain chat: users and assistants in turn, the last one a question."""
    steps = [Step("assistant" if number % 2 else "user", f"turn{number} " + "word " * words) for number in range(turns)]
    return [*steps[: turns - 1 - turns % 2], Step("user", QUESTION)]


def agent(turns, words=200):
    """One task and many looks at a tool."""
    looks = [Step("tools", "I look.", ((f"call{number}", f"r{number} " + "data " * words),)) for number in range(turns)]
    return [Step("user", "Find the tide."), *looks]


def auto(**more):
    return {"context": {"trim": "auto"} | more}


def ask(gate, api, steps, suffice=None, **more):
    """Ask, and get the answer's receipt and what upstream was sent."""
    request = body(api, steps, **more) | ({} if suffice is None else {"suffice": suffice})
    answer = gate.post(PATHS[api], request)
    assert answer.status_code == 200, answer.text
    return answer.json()["suffice"], gate.fake.requests[-1].body


def missed(receipt):
    """Why trimming was asked for in vain."""
    return [item["why"] for item in receipt.get("not_applied", ()) if item["rule"] == "context"]


@pytest.fixture
def counted(gate, monkeypatch):
    """Texts that upstream's tokeniser was asked to count, from when nothing was counted yet."""
    asked = []
    gate.service.text_lengths._held.clear()
    real = TextLengths._ask

    async def spy(self, text, model):
        asked.append(text)
        return await real(self, text, model)

    monkeypatch.setattr(TextLengths, "_ask", spy)
    return asked


@APIS
@pytest.mark.parametrize("suffice", [None, {"context": {"trim": "off"}}], ids=["unasked", "off"])
def test_nobodys_prompt_is_changed_unasked(gate, counted, api, suffice):
    receipt, sent = ask(gate, api, agent(4), suffice)
    assert conversation(sent) == conversation(body(api, agent(4)))
    assert "context" not in receipt
    assert missed(receipt) == []
    assert counted == []


@APIS
def test_a_short_conversation_is_left_alone_and_not_counted(gate, counted, api):
    receipt, sent = ask(gate, api, talk(4), auto())
    assert conversation(sent) == conversation(body(api, talk(4)))
    assert "context" not in receipt
    assert counted == []


@APIS
def test_a_conversation_that_only_has_many_bytes_is_counted_and_left_alone(gate, counted, api):
    steps = talk(20)
    receipt, sent = ask(gate, api, steps, auto(max_tokens=2000))
    assert sum(len(step.text) for step in steps) > 2000
    assert conversation(sent) == conversation(body(api, steps))
    assert "context" not in receipt
    assert counted


@APIS
def test_old_results_are_shortened_first(gate, api):
    steps = agent(8)
    receipt, sent = ask(gate, api, steps, auto(max_tokens=1600, first=1, recent=2, result_tokens=64))
    told = receipt["context"]
    before = gate.metric("suffice_context_trimmed_tokens_total")
    assert told["dropped"] == []
    assert told["shortened"]
    assert calls(sent) == [f"call{number}" for number in range(8)]
    texts = dict(results(sent))
    for number in range(8):
        original = steps[number + 1].results[0][1]
        text = texts[f"call{number}"]
        if text != original:
            cut = LEFT_OUT.search(text)
            head, tail = text[: cut.start()], text[cut.end() :]
            assert original.startswith(head)
            assert original.endswith(tail)
            assert head
            assert tail
            assert len(head) + len(tail) + int(cut[1]) == len(original)
    assert texts["call7"] == steps[8].results[0][1]
    assert texts["call0"] != steps[1].results[0][1]
    assert told["tokens_before"] > 1600 >= told["tokens_after"]
    ask(gate, api, steps, auto(max_tokens=1600, first=1, recent=2, result_tokens=64))
    assert gate.metric("suffice_context_trimmed_tokens_total") - before == told["tokens_before"] - told["tokens_after"]


@APIS
def test_then_old_calls_go_with_their_results_and_the_receipt_says_which(gate, api):
    steps = agent(12)
    receipt, sent = ask(gate, api, steps, auto(max_tokens=900, first=1, recent=2, result_tokens=64))
    told, original = receipt["context"], conversation(body(api, steps))
    assert told["dropped"]
    assert calls(sent) == [name for name, _ in results(sent)]
    assert len(calls(sent)) < 12
    assert len(original) - len(conversation(sent)) == len(told["dropped"])
    kept = [message for number, message in enumerate(original) if number not in told["dropped"]]
    assert [message for message in kept if message in conversation(sent)] != []
    assert len(kept) == len(conversation(sent))
    assert "Find the tide." in spoken(sent, "user")


@APIS
def test_a_plain_chat_keeps_its_beginning_and_its_end(gate, api):
    steps = talk(61)
    receipt, sent = ask(gate, api, steps, auto(max_tokens=900, first=2, recent=3))
    said = [text for message in conversation(sent) if (text := message["content"]) != SYSTEM]
    assert said[:2] == [steps[0].text, steps[1].text]
    assert said[-3:] == [step.text for step in steps[-3:]]
    assert len(said) < len(steps)
    assert receipt["context"]["tokens_after"] <= 900
    assert receipt["spent"]["prompt_tokens"] <= 900


@APIS
def test_the_models_context_is_the_limit_where_none_is_named(gate, api):
    steps = talk(201)
    name = {"chat": "max_tokens", "messages": "max_tokens", "responses": "max_output_tokens"}[api]
    receipt, sent = ask(gate, api, steps, auto(), **{name: 512})
    assert receipt["context"]["tokens_before"] > 4096
    assert receipt["spent"]["prompt_tokens"] <= 4096 - 512
    assert spoken(sent, "user")[-1] == QUESTION
    refused = gate.post(PATHS[api], body(api, steps, **{name: 512}))
    assert (refused.status_code, refused.json()["error"].get("code")) in {
        (400, "context_length_exceeded"),
        (400, None),  # Anthropic's error object has no codes
    }


@APIS
def test_what_cannot_be_cut_enough_is_refused_as_ever(gate, api):
    steps = [*talk(5), Step("assistant", "Well."), Step("user", "word " * 5000)]
    refused = gate.post(PATHS[api], body(api, steps) | {"suffice": auto()})
    assert refused.status_code == 400
    assert "context" in refused.json()["error"]["message"]
    if api != "messages":
        assert refused.json()["error"]["code"] == "context_length_exceeded"


@APIS
@pytest.mark.parametrize("seed", range(12))
def test_no_call_is_parted_from_its_result(gate, api, seed):
    chance = random.Random(f"{api}{seed}")
    steps = random_steps(chance, chance.randint(4, 30))
    rule = {
        "max_tokens": chance.randint(60, 2500),
        "first": chance.randint(0, 4),
        "recent": chance.randint(1, 8),
        "result_tokens": chance.choice([64, 100, 200]),
    }
    receipt, sent = ask(gate, api, steps, auto(**rule))
    original = body(api, steps)
    assert sorted(calls(sent)) == sorted(name for name, _ in results(sent))
    told = receipt.get("context", {"dropped": [], "shortened": []})
    full = dict(results(original))
    changed = {name for name, text in results(sent) if text != full[name]}
    for name, text in results(sent):
        assert text == full[name] or LEFT_OUT.search(text)
    assert bool(changed) == bool(told["shortened"])
    # What stays is in order and whole, the instructions and the last question among it.
    assert sent.get("system", sent.get("instructions")) == original.get("system", original.get("instructions"))
    for side in ("system", "user", "assistant"):
        left = iter(spoken(original, side))
        assert all(text in left for text in spoken(sent, side))
    assert spoken(sent, "user")[-1] == spoken(original, "user")[-1]
    assert spoken(sent, "system") == spoken(original, "system")
    assert all(message.get("content") != [] for message in conversation(sent))


@APIS
def test_a_growing_conversation_keeps_its_prefix_between_cuts(gate, api):
    steps = random_steps(random.Random(7), 60, longest=20)
    before, cuts, asked = None, 0, 0
    steps_before = 0
    for length in range(1, len(steps) + 1):
        if steps[length - 1].kind == "assistant":
            continue
        receipt, sent = ask(gate, api, steps[:length], auto(max_tokens=900, first=1, recent=4, result_tokens=64))
        messages = conversation(sent)
        steps_now = receipt.get("context", {"steps": 0})["steps"]
        asked += 1
        if steps_now == steps_before:
            assert before is None or messages[: len(before)] == before
        else:
            assert steps_now > steps_before
            cuts += 1
        before, steps_before = messages, steps_now
    assert 2 <= cuts < asked / 2


@APIS
def test_the_same_request_is_cut_in_the_same_way_and_counted_once(gate, counted, api):
    suffice = auto(max_tokens=700, recent=2)
    receipt, sent = ask(gate, api, agent(7), suffice)
    seen = len(counted)
    again, resent = ask(gate, api, agent(7), suffice)
    assert again["context"] == receipt["context"]
    assert conversation(resent) == conversation(sent)
    assert seen
    assert len(counted) == seen
    ask(gate, api, agent(8), suffice)
    assert 0 < len(counted) - seen <= 5


def test_lengths_are_counted_anew_for_another_tenant(gate, counted):
    suffice = auto(max_tokens=700, recent=2)
    ask(gate, "chat", agent(6, words=211), suffice)
    seen = len(counted)
    _, secret = gate.key("another")
    gate.post(PATHS["chat"], body("chat", agent(6, words=211)) | {"suffice": suffice}, key=secret)
    assert len(counted) == 2 * seen


@APIS
def test_where_nothing_can_be_counted_bytes_are_taken_for_tokens(gate, monkeypatch, api):
    async def silent(self, text, model):
        return None

    monkeypatch.setattr(TextLengths, "_ask", silent)
    receipt, sent = ask(gate, api, agent(6, words=223), auto(max_tokens=3000, recent=1))
    assert receipt["context"]["estimated"] is True
    assert receipt["context"]["tokens_after"] <= 3000
    assert sorted(calls(sent)) == sorted(name for name, _ in results(sent))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_streams_tell_it_too(gate, stream):
    request = body("chat", talk(61)) | {"suffice": auto(max_tokens=600)}
    if stream:
        found = gate.stream(PATHS["chat"], request | {"stream_options": {"include_usage": True}})
        receipt = next(event.data["suffice"] for event in found if event.data != "[DONE]" and "suffice" in event.data)
    else:
        receipt = gate.post(PATHS["chat"], request).json()["suffice"]
    assert receipt["context"]["dropped"]


OPERATOR = {
    "policies": {"context": {"trim": False, "max_tokens": 800, "recent": 2}},
    "presets": {
        "balanced": {},
        "long": {"context": {"trim": "auto"}},
        "tight": {"context": {"trim": "auto", "max_tokens": 500}},
    },
}


@pytest.mark.parametrize(
    ("preset", "suffice", "most"),
    [
        ("balanced", None, None),
        ("balanced", auto(), 800),
        ("balanced", auto(max_tokens=2000), 800),
        ("balanced", auto(max_tokens=300), 300),
        ("long", None, 800),
        ("long", {"context": {"max_tokens": 400}}, 400),
        ("tight", None, 500),
        ("tight", auto(max_tokens=700), 500),
        ("tight", {"context": {"trim": "off"}}, None),
    ],
    ids=["default", "asked", "not-raised", "lowered", "preset", "preset-lowered", "tight", "tight-stays", "declined"],
)
def test_requests_lower_what_presets_and_operators_say_and_decline(make, preset, suffice, most):
    gate = make(OPERATOR)
    receipt, _ = ask(gate, "chat", talk(61), suffice, model=f"fake@{preset}")
    if most is None:
        assert "context" not in receipt
        assert receipt["spent"]["prompt_tokens"] > 1500
    else:
        assert most * 0.5 < receipt["context"]["tokens_after"] <= most


def test_limits_without_trimming_are_told_to_be_idle(gate):
    receipt, _ = ask(gate, "chat", talk(5), {"context": {"max_tokens": 100}})
    assert missed(receipt) == ["trimming is off; suffice.context.trim turns it on"]


def test_completions_have_no_turns(gate):
    before = gate.metric("suffice_rules_not_applied_total", rule="context")
    answer = gate.post("/v1/completions", {"model": "fake", "prompt": "a", "max_tokens": 2, "suffice": auto()})
    (why,) = missed(answer.json()["suffice"])
    assert "one text" in why
    assert gate.metric("suffice_rules_not_applied_total", rule="context") == before + 1


def test_a_single_text_of_the_responses_api_is_one_turn(gate):
    answer = gate.post("/v1/responses", {"model": "fake", "input": "word " * 500, "suffice": auto(max_tokens=100)})
    assert answer.status_code == 200
    assert "context" not in answer.json()["suffice"]
    assert missed(answer.json()["suffice"]) == []


def test_a_conversation_of_too_many_turns_is_left_to_upstream(make):
    gate = make(max_model_len=65536)
    messages = [{"role": "user", "content": "a"}] * (MOST_TURNS + 1)
    request = {"model": "fake", "messages": messages, "max_tokens": 2, "suffice": auto(max_tokens=100)}
    receipt = gate.post(PATHS["chat"], request).json()["suffice"]
    assert "context" not in receipt
    (why,) = missed(receipt)
    assert f"more than {MOST_TURNS} turns" in why


@pytest.mark.parametrize(
    ("context", "param", "words"),
    [
        ({"trim": "always"}, "suffice.context.trim", "'off' or 'auto'"),
        ({"trim": True}, "suffice.context.trim", "'off' or 'auto'"),
        ({"max_tokens": 0}, "suffice.context.max_tokens", "greater than or equal to 1"),
        ({"max_tokens": "many"}, "suffice.context.max_tokens", "integer"),
        ({"first": -1}, "suffice.context.first", "greater than or equal to 0"),
        ({"recent": 0}, "suffice.context.recent", "greater than or equal to 1"),
        ({"result_tokens": 8}, "suffice.context.result_tokens", "greater than or equal to 64"),
        ({"resent": 3}, "suffice.context.resent", "did you mean 'recent'"),
        ("auto", "suffice.context", "dictionary"),
    ],
    ids=["word", "true", "zero", "text", "negative", "no-recent", "tiny-result", "misspelt", "no-object"],
)
def test_bad_parameters_are_named(gate, context, param, words):
    answer = gate.post(PATHS["chat"], body("chat", talk(3)) | {"suffice": {"context": context}})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert words in answer.json()["error"]["message"]
    assert gate.fake.requests == []


def test_the_log_has_counts_and_no_text(gate):
    steps = [Step("user", "zebrafish?"), *(Step("tools", "", ((f"c{i}", "zebrafish " * 150),)) for i in range(9))]
    receipt, _ = ask(gate, "chat", steps, auto(max_tokens=700, recent=2, result_tokens=64))
    path = gate.data_dir / "events.jsonl"
    wait(lambda: any(line.get("event") == "Settled" for line in _lines(path, receipt["request_id"])))
    lines = {line.get("event"): line for line in _lines(path, receipt["request_id"])}
    told = receipt["context"]
    counts = {"dropped": len(told["dropped"]), "shortened": len(told["shortened"])}
    assert lines["Settled"]["receipt"]["context"] == told | counts
    assert lines["Planned"]["request"]["field"]["context"]["max_tokens"] == 700
    assert "zebrafish" not in path.read_text()


def _lines(path, request_id):
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in found if line["request_id"] == request_id]


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4000}}


def test_images_stay_and_their_bytes_are_not_taken_for_text(make):
    gate = make({"server": {"allow_images": True}}, max_model_len=16384)
    seen = {"role": "user", "content": [IMAGE, {"type": "text", "text": "What is this?"}]}
    request = body("chat", talk(81))
    request["messages"].insert(5, seen)
    answer = gate.post(PATHS["chat"], request | {"suffice": auto(max_tokens=2500)})
    assert answer.status_code == 200, answer.text
    sent = gate.fake.requests[-1].body["messages"]
    assert answer.json()["suffice"]["context"]["tokens_before"] < 6000
    assert seen in sent
    assert len(sent) < len(request["messages"])


def test_results_without_ids_go_with_the_calls_before_them(gate):
    request = body("chat", agent(9, words=100))
    for message in request["messages"]:
        message.pop("tool_call_id", None)
        for call in message.get("tool_calls", ()):
            del call["id"]
    answer = gate.post(PATHS["chat"], request | {"suffice": auto(max_tokens=500, first=1, recent=2, result_tokens=64)})
    assert answer.status_code == 200, answer.text
    roles = [message["role"] for message in gate.fake.requests[-1].body["messages"]]
    assert answer.json()["suffice"]["context"]["dropped"]
    assert roles[:2] == ["system", "user"]
    assert roles[2:] == ["assistant", "tool"] * ((len(roles) - 2) // 2)


@pytest.mark.parametrize(
    ("api", "strange"),
    [
        ("chat", {"role": ["user"], "content": 7}),
        ("chat", {"content": {"a": [None, 1.5]}}),
        ("chat", {"role": "assistant", "tool_calls": ["x", {"id": 3}]}),
        ("chat", {"role": "tool", "content": None}),
        ("messages", {"role": "user", "content": [7, {"type": "tool_result"}]}),
        ("messages", {"role": "assistant", "content": [{"type": "tool_use"}, "x"]}),
        ("responses", {"type": ["message"], "content": []}),
        ("responses", {"type": "function_call"}),
        ("responses", {"type": "function_call_output", "output": [{"type": "input_text"}]}),
    ],
)
def test_strange_shapes_are_passed_on_for_upstream_to_refuse(gate, api, strange):
    request = body(api, talk(61))
    conversation(request).insert(4, strange)
    answer = gate.post(PATHS[api], request | {"suffice": auto(max_tokens=500)})
    assert answer.status_code in {200, 400, 500, 502}
    assert gate.fake.requests == [] or strange in conversation(gate.fake.requests[-1].body)


async def _bytes(text):
    return len(text.encode())


@pytest.mark.anyio
@pytest.mark.parametrize("most", [1, 24, 60, 200, 999])
@pytest.mark.parametrize("text", ["a" * 1000, "é" * 500, "x" * 900 + "é" * 50], ids=["even", "wide", "uneven"])
async def test_shortened_texts_fit_and_are_always_the_same(text, most):
    short, length = await shortened(text, most, len(text.encode()), _bytes)
    assert (short, length) == await shortened(text, most, len(text.encode()), _bytes)
    assert length == len(short.encode())
    cut = LEFT_OUT.search(short)
    kept = short[: cut.start()] + short[cut.end() :]
    assert len(kept) + int(cut[1]) == len(text)
    assert length <= most or kept == ""
