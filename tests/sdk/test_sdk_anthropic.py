"""The official anthropic client, through the gateway against real vLLM."""

import anthropic
import pytest
from suffice import Budget, Options, receipt

pytestmark = [pytest.mark.live, pytest.mark.anyio]

TOTAL = 96
SUFFICE = Options(budget=Budget(total_tokens=TOTAL)).extra_body()
QUESTION = [{"role": "user", "content": "What is 3 + 4?"}]
THINKING = {"type": "enabled", "budget_tokens": 1024}  # the least that this API knows


@pytest.fixture
def client(gateway):
    with anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0, timeout=120) as client:
        yield client


def _agrees(told, usage):
    assert told.request_id
    assert told.spent.generated_tokens == usage.output_tokens
    assert 0 < usage.output_tokens <= TOTAL
    assert told.plan.limits["total_tokens"].value == TOTAL


def test_a_message_keeps_its_budget_and_brings_a_receipt(client, gateway):
    message = client.messages.create(model=gateway.model, max_tokens=512, messages=QUESTION, extra_body=SUFFICE)

    assert (message.type, message.role) == ("message", "assistant")
    assert message.stop_reason in {"end_turn", "max_tokens", "stop_sequence"}
    assert {block.type for block in message.content} <= {"thinking", "text"}
    assert "".join(block.text if block.type == "text" else block.thinking for block in message.content)
    assert message.usage.input_tokens > 0
    _agrees(receipt(message), message.usage)


def test_a_streamed_message_keeps_its_budget_and_brings_a_receipt(client, gateway):
    with client.messages.create(
        model=gateway.model, max_tokens=512, messages=QUESTION, stream=True, extra_body=SUFFICE
    ) as stream:
        events = list(stream)

    assert events[0].type == "message_start"
    assert events[-1].type == "message_stop"
    opened = [event.index for event in events if event.type == "content_block_start"]
    closed = [event.index for event in events if event.type == "content_block_stop"]
    assert opened == closed == list(range(len(opened)))
    (end,) = [event for event in events if event.type == "message_delta"]
    assert end.delta.stop_reason in {"end_turn", "max_tokens", "stop_sequence"}
    _agrees(receipt(end), end.usage)


def test_the_stream_helper_collects_the_message(client, gateway):
    with client.messages.stream(model=gateway.model, max_tokens=64, messages=QUESTION, system="Be brief.") as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()

    assert text == "".join(block.text for block in message.content if block.type == "text")
    assert 0 < message.usage.output_tokens <= 64


@pytest.mark.parametrize("streamed", [pytest.param(False, id="whole"), pytest.param(True, id="streamed")])
def test_a_thinking_budget_is_a_limit_or_the_receipt_says_why_not(client, gateway, streamed):
    answer = client.messages.create(
        model=gateway.model, max_tokens=2048, messages=QUESTION, thinking=THINKING, stream=streamed, extra_body=SUFFICE
    )
    told = next(filter(None, map(receipt, answer))) if streamed else receipt(answer)

    assert told.spent.generated_tokens <= TOTAL
    limit = told.plan.limits.get("thinking_tokens")
    missed = {item.rule for item in told.not_applied}
    assert (limit is not None and limit.value <= THINKING["budget_tokens"]) or "thinking_tokens" in missed


def test_tokens_are_counted(client, gateway):
    short = client.messages.count_tokens(model=gateway.model, messages=QUESTION)
    longer = client.messages.count_tokens(
        model=gateway.model, messages=[{"role": "user", "content": "What is 3 + 4 + 5 + 6?"}]
    )

    assert 0 < short.input_tokens < longer.input_tokens


def test_errors_are_the_official_ones(client, gateway):
    asked = {"model": gateway.model, "max_tokens": 8, "messages": QUESTION}

    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(**{**asked, "model": "no-such-model"})
    with pytest.raises(anthropic.AuthenticationError) as refused:
        client.with_options(api_key="sk-suffice-wrong").messages.create(**asked)
    with pytest.raises(anthropic.BadRequestError, match=r"suffice\.budgit") as mistaken:
        client.messages.create(**asked, extra_body={"suffice": {"budgit": {}}})

    kinds = [caught.value.body["error"]["type"] for caught in (missing, refused, mistaken)]
    assert kinds == ["not_found_error", "authentication_error", "invalid_request_error"]


async def test_the_async_client_works_alike(gateway):
    async with anthropic.AsyncAnthropic(
        base_url=gateway.url, api_key=gateway.key, max_retries=0, timeout=120
    ) as client:
        message = await client.messages.create(
            model=gateway.model, max_tokens=512, messages=QUESTION, extra_body=SUFFICE
        )
        _agrees(receipt(message), message.usage)

        stream = await client.messages.create(
            model=gateway.model, max_tokens=512, messages=QUESTION, stream=True, extra_body=SUFFICE
        )
        ends = [event async for event in stream if event.type == "message_delta"]
        assert len(ends) == 1
        _agrees(receipt(ends[0]), ends[0].usage)
