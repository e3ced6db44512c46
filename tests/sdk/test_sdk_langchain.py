"""LangChain's ChatOpenAI, through the gateway against real vLLM."""

import json

import openai
import pytest
from langchain_openai import ChatOpenAI
from suffice import Budget, Options

pytestmark = [pytest.mark.live, pytest.mark.anyio]

TOTAL = 96
SUFFICE = Options(budget=Budget(total_tokens=TOTAL, thinking_tokens=48)).extra_body()
QUESTION = "What is 3 + 4?"


@pytest.fixture
def model(gateway):
    return ChatOpenAI(
        model=gateway.model,
        base_url=f"{gateway.url}/v1",
        api_key=gateway.key,
        max_retries=0,
        timeout=120,
        stream_usage=True,
        extra_body=SUFFICE,
    )


def test_invoke_keeps_the_budget(model):
    message = model.invoke(QUESTION)

    assert isinstance(message.content, str)
    assert 0 < message.usage_metadata["output_tokens"] <= TOTAL
    assert message.response_metadata["finish_reason"] in {"stop", "length"}


def test_stream_keeps_the_budget(model):
    whole = None
    for chunk in model.stream(QUESTION):
        whole = chunk if whole is None else whole + chunk

    assert isinstance(whole.content, str)
    assert 0 < whole.usage_metadata["output_tokens"] <= TOTAL


async def test_async_calls_keep_the_budget(model):
    message = await model.ainvoke(QUESTION)
    assert isinstance(message.content, str)
    assert 0 < message.usage_metadata["output_tokens"] <= TOTAL

    whole = None
    async for chunk in model.astream(QUESTION):
        whole = chunk if whole is None else whole + chunk
    assert isinstance(whole.content, str)
    assert 0 < whole.usage_metadata["output_tokens"] <= TOTAL


def test_a_bound_tool_is_called(model):
    schema = {
        "type": "object",
        "properties": {"unit": {"type": "string", "enum": ["celsius", "kelvin"]}},
        "required": ["unit"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": schema}}
    roomy = Options(budget=Budget(total_tokens=256, thinking_tokens=32)).extra_body()
    bound = model.bind_tools([tool], tool_choice="required", parallel_tool_calls=False)

    message = bound.invoke("What is the weather?", extra_body=roomy)

    (call,) = message.tool_calls
    assert call["name"] == "weather"
    assert call["args"]["unit"] in {"celsius", "kelvin"}, json.dumps(call["args"])


def test_errors_are_the_official_ones(model):
    with pytest.raises(openai.NotFoundError):
        model.model_copy(update={"model_name": "no-such-model"}).invoke(QUESTION)
    with pytest.raises(openai.BadRequestError, match=r"suffice\.budgit"):
        model.invoke(QUESTION, extra_body={"suffice": {"budgit": {}}})
