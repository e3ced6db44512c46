"""The official openai client for Python, and ours on top of it, through the gateway against real vLLM."""

import json
import os

import openai
import pytest
from suffice import AsyncClient, Budget, Client, Options, receipt

pytestmark = [pytest.mark.live, pytest.mark.anyio]

TOTAL = 96
THINKING = 48
BUDGET = Budget(total_tokens=TOTAL, thinking_tokens=THINKING)
SUFFICE = Options(budget=BUDGET).extra_body()
QUESTION = [{"role": "user", "content": "What is 3 + 4?"}]
UNIT = {
    "type": "object",
    "properties": {"unit": {"type": "string", "enum": ["celsius", "kelvin"]}},
    "required": ["unit"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "strict": True, "parameters": UNIT},
}


@pytest.fixture
def official(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def ours(gateway):
    with Client(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, timeout=120) as client:
        yield client


def _said(part):
    """What a message or delta says, thought or answered: how much of each is up to the model."""
    return ((part.model_extra or {}).get("reasoning") or "") + (part.content or "")


def _agrees(told, usage):
    """The receipt's sum of generated tokens is what the usage bills, and the budget held."""
    assert told.request_id
    assert told.spent.generated_tokens == usage.completion_tokens
    assert told.spent.prompt_tokens == usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens <= TOTAL
    assert told.plan.limits["total_tokens"].value == TOTAL
    assert told.spent.wall_ms > 0


def test_a_chat_completion_keeps_its_budget_and_brings_a_receipt(official, gateway):
    answer = official.chat.completions.create(model=gateway.model, messages=QUESTION, extra_body=SUFFICE)

    assert answer.object == "chat.completion"
    assert [choice.index for choice in answer.choices] == [0]
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.choices[0].message.role == "assistant"
    assert _said(answer.choices[0].message)
    _agrees(receipt(answer), answer.usage)
    assert receipt(answer).spent.samples == 1


def test_a_chat_stream_keeps_its_budget_and_brings_a_receipt_last(official, gateway):
    with official.chat.completions.create(
        model=gateway.model,
        messages=QUESTION,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=SUFFICE,
    ) as stream:
        chunks = list(stream)

    *told, last = chunks
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert told[0].choices[0].delta.role == "assistant"
    assert "".join(_said(chunk.choices[0].delta) for chunk in told)
    assert [chunk.choices[0].finish_reason for chunk in told if chunk.choices[0].finish_reason] in (
        ["stop"],
        ["length"],
    )
    assert last.choices == []
    assert [receipt(chunk) for chunk in told] == [None] * len(told)
    assert [chunk.usage for chunk in told] == [None] * len(told)
    _agrees(receipt(last), last.usage)


def test_a_stream_without_include_usage_shows_no_usage(official, gateway):
    stream = official.chat.completions.create(model=gateway.model, messages=QUESTION, stream=True, extra_body=SUFFICE)
    chunks = list(stream)

    assert chunks
    assert [chunk for chunk in chunks if chunk.usage is not None or not chunk.choices] == []


def test_our_client_streams_and_has_the_receipt_afterwards(ours, gateway):
    with ours.chat.completions.create(model=gateway.model, messages=QUESTION, stream=True, budget=BUDGET) as stream:
        text = "".join(_said(chunk.choices[0].delta) for chunk in stream)

    assert text
    _agrees(stream.receipt, stream.usage)


def test_our_client_takes_budgets_as_options(ours, gateway):
    thrifty = ours.with_options(budget=Budget(total_tokens=24), default_headers={"x-note": "thrifty"})

    answer = thrifty.chat.completions.create(model=gateway.model, messages=QUESTION)

    assert answer.usage.completion_tokens <= 24
    assert receipt(answer).plan.limits["total_tokens"].value == 24


def test_streamed_and_whole_answers_are_the_same(ours, gateway):
    asked = {"model": gateway.model, "messages": QUESTION, "temperature": 0, "seed": 7, "budget": BUDGET}

    whole = ours.chat.completions.create(**asked)
    stream = ours.chat.completions.create(**asked, stream=True)
    text = {"reasoning": "", "content": ""}
    for chunk in stream:
        delta = chunk.choices[0].delta
        text["reasoning"] += (delta.model_extra or {}).get("reasoning") or ""
        text["content"] += delta.content or ""

    message = whole.choices[0].message
    assert text == {"reasoning": message.model_extra["reasoning"] or "", "content": message.content or ""}
    assert stream.usage.completion_tokens == whole.usage.completion_tokens


def test_max_completion_tokens_ends_an_answer_by_length(official, gateway):
    answer = official.chat.completions.create(
        model=gateway.model, messages=QUESTION, max_completion_tokens=2, extra_body={"ignore_eos": True}
    )

    assert answer.usage.completion_tokens <= 2
    assert answer.choices[0].finish_reason == "length"


def test_two_samples_share_one_budget(official, gateway):
    answer = official.chat.completions.create(
        model=gateway.model, messages=QUESTION, n=2, temperature=1.0, extra_body=SUFFICE
    )

    assert [choice.index for choice in answer.choices] == [0, 1]
    _agrees(receipt(answer), answer.usage)
    assert receipt(answer).spent.samples == 2


def test_two_streamed_samples_share_one_budget(ours, gateway):
    stream = ours.chat.completions.create(
        model=gateway.model, messages=QUESTION, n=2, temperature=1.0, stream=True, budget=BUDGET
    )
    ends = {}
    for chunk in stream:
        for choice in chunk.choices:
            assert choice.index not in ends, "a choice went on after its end"
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason

    assert set(ends) == {0, 1}
    _agrees(stream.receipt, stream.usage)
    assert stream.receipt.spent.samples == 2


def test_reasoning_comes_apart_from_the_answer(ours, gateway):
    answer = ours.chat.completions.create(model=gateway.model, messages=QUESTION, budget=BUDGET)
    message = answer.choices[0].message

    assert message.model_extra["reasoning"]
    assert message.content
    assert "<think>" not in message.content
    assert "</think>" not in message.content


def test_reasoning_streams_before_the_answer(ours, gateway):
    kinds = []
    for chunk in ours.chat.completions.create(model=gateway.model, messages=QUESTION, stream=True, budget=BUDGET):
        delta = chunk.choices[0].delta
        if (delta.model_extra or {}).get("reasoning"):
            kinds.append("reasoning")
        if delta.content:
            kinds.append("content")

    assert kinds[0] == "reasoning"
    assert kinds[-1] == "content"
    assert kinds == sorted(kinds, reverse=True)


TOOLS = {
    "messages": [{"role": "user", "content": "What is the weather?"}],
    "tools": [TOOL],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "temperature": 0,
    "budget": Budget(total_tokens=256, thinking_tokens=32),
}


def test_a_required_tool_is_called(ours, gateway):
    answer = ours.chat.completions.create(model=gateway.model, **TOOLS)

    call = answer.choices[0].message.tool_calls[0]
    assert call.type == "function"
    assert call.id
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["unit"] in {"celsius", "kelvin"}
    assert answer.choices[0].finish_reason in {"tool_calls", "stop"}
    assert receipt(answer).spent.generated_tokens == answer.usage.completion_tokens


def test_a_required_tool_is_called_in_a_stream(ours, gateway):
    stream = ours.chat.completions.create(model=gateway.model, stream=True, **TOOLS)
    calls = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or []]

    assert {call.index for call in calls} == {0}
    assert [call.function.name for call in calls if call.function.name] == ["weather"]
    arguments = json.loads("".join(call.function.arguments or "" for call in calls))
    assert arguments["unit"] in {"celsius", "kelvin"}
    assert stream.receipt.spent.generated_tokens == stream.usage.completion_tokens


def test_an_answer_follows_its_schema(ours, gateway):
    answer = ours.chat.completions.create(
        model=gateway.model,
        messages=[{"role": "user", "content": "Name a unit."}],
        response_format={"type": "json_schema", "json_schema": {"name": "unit", "schema": UNIT, "strict": True}},
        budget=Budget(total_tokens=256, thinking_tokens=32),
    )

    assert json.loads(answer.choices[0].message.content)["unit"] in {"celsius", "kelvin"}


def test_logprobs_are_passed_on(ours, gateway):
    asked = {"model": gateway.model, "messages": QUESTION, "logprobs": True, "top_logprobs": 2, "budget": BUDGET}

    answer = ours.chat.completions.create(**asked)
    whole = answer.choices[0].logprobs.content
    assert 0 < len(whole) <= answer.usage.completion_tokens
    stream = ours.chat.completions.create(**asked, stream=True)
    streamed = [
        entry for chunk in stream if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content or []
    ]
    assert 0 < len(streamed) <= stream.usage.completion_tokens

    for entry in [*whole, *streamed]:
        assert entry.logprob <= 0
        assert 1 <= len(entry.top_logprobs) <= 3  # vLLM adds the drawn token where it is not among the top


def test_completions_keep_their_budget(official, ours, gateway):
    answer = official.completions.create(model=gateway.model, prompt="3 + 4 =", max_tokens=64, extra_body=SUFFICE)
    assert answer.object == "text_completion"
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.usage.completion_tokens <= 64
    _agrees(receipt(answer), answer.usage)

    stream = ours.completions.create(model=gateway.model, prompt="3 + 4 =", stream=True, budget=BUDGET)
    ends = [chunk.choices[0].finish_reason for chunk in stream]
    assert ends[-1] in {"stop", "length"}
    _agrees(stream.receipt, stream.usage)


def test_a_response_keeps_its_budget(official, gateway):
    answer = official.responses.create(
        model=gateway.model, input="What is 3 + 4?", max_output_tokens=64, extra_body=SUFFICE
    )

    told = receipt(answer)
    assert answer.object == "response"
    assert answer.status in {"completed", "incomplete"}
    assert answer.output
    assert told.spent.generated_tokens == answer.usage.output_tokens <= 64
    assert told.spent.prompt_tokens == answer.usage.input_tokens > 0


def test_a_streamed_response_keeps_its_budget(ours, gateway):
    stream = ours.responses.create(
        model=gateway.model, input="What is 3 + 4?", max_output_tokens=64, stream=True, budget=BUDGET
    )
    seen = list(stream)

    assert seen[0].type == "response.created"
    assert seen[-1].type in {"response.completed", "response.incomplete"}
    assert [event.sequence_number for event in seen] == sorted(event.sequence_number for event in seen)
    assert any(event.type.endswith(".delta") for event in seen)
    assert stream.receipt.spent.generated_tokens == seen[-1].response.usage.output_tokens <= 64


def test_models_are_listed(official, gateway):
    listed = official.models.list()

    assert listed.object == "list"
    assert gateway.model in [model.id for model in listed]


def test_embeddings_of_a_chat_model_are_a_mapped_error(official, gateway):
    with pytest.raises(openai.APIStatusError) as caught:
        official.embeddings.create(model=gateway.model, input="hello", encoding_format="float")

    assert 400 <= caught.value.status_code < 500
    assert caught.value.type
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"]


def test_an_unknown_model_is_not_found(official):
    with pytest.raises(openai.NotFoundError) as caught:
        official.chat.completions.create(model="no-such-model", messages=QUESTION)

    assert caught.value.code == "model_not_found"


def test_a_wrong_key_is_refused(official, gateway):
    with pytest.raises(openai.AuthenticationError) as caught:
        official.with_options(api_key="sk-suffice-wrong").chat.completions.create(
            model=gateway.model, messages=QUESTION
        )

    assert caught.value.code == "invalid_api_key"
    assert "sk-suffice-wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "param", "nearest"),
    [
        pytest.param({"budgit": {}}, "suffice.budgit", "budget", id="top"),
        pytest.param({"budget": {"total_token": 5}}, "suffice.budget.total_token", "total_tokens", id="nested"),
    ],
)
def test_an_unknown_key_is_named_with_its_nearest(official, gateway, field, param, nearest):
    with pytest.raises(openai.BadRequestError) as caught:
        official.chat.completions.create(model=gateway.model, messages=QUESTION, extra_body={"suffice": field})

    assert caught.value.param == param
    assert param in str(caught.value)
    assert repr(nearest) in str(caught.value)


def test_more_samples_than_the_budget_allows_is_a_bad_request(ours, gateway):
    with pytest.raises(openai.BadRequestError) as caught:
        ours.chat.completions.create(model=gateway.model, messages=QUESTION, n=3, budget=Budget(samples=2))

    assert caught.value.param == "suffice.budget.samples"


def test_an_error_in_a_streaming_request_is_raised_before_the_stream(official, gateway):
    with pytest.raises(openai.BadRequestError):
        official.chat.completions.create(
            model=gateway.model, messages=QUESTION, stream=True, extra_body={"suffice": {"budgit": {}}}
        )


async def test_the_async_client_works_alike(gateway):
    async with AsyncClient(
        base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, timeout=120, budget=BUDGET
    ) as client:
        answer = await client.chat.completions.create(model=gateway.model, messages=QUESTION)
        _agrees(receipt(answer), answer.usage)

        async with await client.chat.completions.create(model=gateway.model, messages=QUESTION, stream=True) as stream:
            text = [_said(chunk.choices[0].delta) async for chunk in stream]
        assert "".join(text)
        _agrees(stream.receipt, stream.usage)

        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="no-such-model", messages=QUESTION)


def test_the_environment_is_all_that_a_program_needs(gateway, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "SUFFICE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{gateway.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", gateway.key)

    for kind in (openai.OpenAI, Client):
        with kind() as client:
            assert gateway.model in [model.id for model in client.models.list()]
