"""Receipts as types, on answers and on streams."""

import copy

import openai
import pytest
from clients.gateway_double import (
    RECEIPT,
    chat_chunks,
    completion,
    events,
    response,
    text_chunks,
)
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import ValidationError
from suffice import AsyncReceiptStream, Budget, Limit, Receipt, ReceiptStream, receipt

pytestmark = pytest.mark.anyio

HELLO = [{"role": "user", "content": "hello"}]


def test_a_completion_carries_a_typed_receipt(connect):
    client, _ = connect(lambda _: completion())

    answer = client.chat.completions.create(model="m", messages=HELLO, budget=Budget(total_tokens=100))
    told = receipt(answer)

    assert isinstance(answer, ChatCompletion)
    assert told.request_id == "req_1"
    assert told.plan.preset == "balanced"
    assert told.plan.limits["total_tokens"] == Limit(8192, "key")
    assert told.plan.limits["deadline_ms"].source == "request"
    assert told.spent.generated_tokens == 40 + 5 + 7 == answer.usage.completion_tokens
    assert (told.spent.samples, told.spent.wall_ms) == (3, 812)
    assert (told.saved.samples, told.saved.tokens_estimate) == (13, 520)
    assert (told.votes.winner, told.votes.counts, told.votes.confidence) == ("42", {"42": 5, "41": 1}, 0.97)
    assert [(stop.sample, stop.rule, stop.by, stop.at_token) for stop in told.stops] == [
        (0, "thinking_cap", "engine", 2048)
    ]


def test_an_answer_that_did_not_come_through_the_gateway_has_none(connect):
    bare = completion()
    del bare["suffice"]
    client, _ = connect(lambda _: bare)

    assert receipt(client.chat.completions.create(model="m", messages=HELLO)) is None


def test_a_newer_gateways_receipt_is_read_and_kept():
    newer = copy.deepcopy(RECEIPT)
    newer["carbon"] = {"grams": 1}
    newer["spent"]["joules"] = 3
    newer["plan"]["limits"]["total_tokens"] = [8192, "key", "since yesterday"]
    newer["stops"][0].update(by="somebody new", why="because")

    told = receipt({"suffice": newer})

    assert told.model_extra == {"carbon": {"grams": 1}}
    assert told.spent.model_extra == {"joules": 3}
    assert told.plan.limits["total_tokens"] == Limit(8192, "key")
    assert told.stops[0].by == "somebody new"


def test_an_older_gateways_receipt_is_read():
    told = receipt({"suffice": {"request_id": "r", "spent": {"completion_tokens": 4}}})

    assert (told.spent.generated_tokens, told.votes, told.stops, told.plan.limits) == (4, None, (), {})


def test_a_receipt_does_not_change():
    told = receipt(completion())

    with pytest.raises(ValidationError):
        told.request_id = "other"


def test_a_receipt_of_wrong_types_is_an_error_and_not_a_guess():
    with pytest.raises(ValidationError, match="completion_tokens"):
        receipt({"suffice": {"spent": {"completion_tokens": "many"}}})


def test_a_stream_has_the_receipt_at_its_end(connect):
    client, gateway = connect(lambda _: events(*chat_chunks("4", "2")))

    with client.chat.completions.create(model="m", messages=HELLO, stream=True, budget=Budget(samples=2)) as stream:
        assert isinstance(stream, ReceiptStream)
        assert isinstance(stream, openai.Stream)
        first = next(stream)
        assert stream.receipt is None
        text = [chunk.choices[0].delta.content for chunk in [first, *stream]]

    assert text == ["4", "2", None]
    assert stream.receipt == Receipt.model_validate(RECEIPT)
    assert stream.usage.completion_tokens == 52
    assert gateway.bodies[-1]["stream_options"] == {"include_usage": True}
    assert gateway.field == {"budget": {"samples": 2}}


def test_a_usage_chunk_that_was_asked_for_is_passed_on(connect):
    client, _ = connect(lambda _: events(*chat_chunks("42")))

    stream = client.chat.completions.create(
        model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)

    assert [len(chunk.choices) for chunk in chunks] == [1, 1, 0]
    assert receipt(chunks[-1]) == stream.receipt
    assert [receipt(chunk) for chunk in chunks[:-1]] == [None, None]


def test_next_hides_and_passes_what_iteration_does(connect):
    client, _ = connect(lambda _: events(*chat_chunks("42")))

    stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
    assert [len(next(stream).choices), len(next(stream).choices)] == [1, 1]
    with pytest.raises(StopIteration):
        next(stream)
    assert stream.receipt.request_id == "req_1"


def test_a_caller_who_wants_no_usage_gets_none(connect):
    client, gateway = connect(lambda _: events(*chat_chunks("42")[:-1]))

    stream = client.chat.completions.create(
        model="m", messages=HELLO, stream=True, stream_options={"include_usage": False}
    )

    assert len(list(stream)) == 2
    assert (stream.receipt, stream.usage) == (None, None)
    assert gateway.bodies[-1]["stream_options"] == {"include_usage": False}


def test_a_completions_stream_has_the_receipt_at_its_end(connect):
    client, gateway = connect(lambda _: events(*text_chunks("4", "2")))

    stream = client.completions.create(model="m", prompt="6*7=", stream=True, preset="thrifty")

    assert "".join(chunk.choices[0].text for chunk in stream) == "42"
    assert stream.receipt.spent.completion_tokens == 40
    assert gateway.paths == ["/v1/completions"]
    assert gateway.field == {"preset": "thrifty"}
    assert gateway.bodies[-1]["stream_options"] == {"include_usage": True}


def _response_events(*, within: bool) -> list[dict]:
    """Events of a response's stream, the receipt within the response or beside it in the event."""
    done = response()
    beside = {} if within else {"suffice": done.pop("suffice")}
    delta = {"item_id": "m1", "output_index": 0, "content_index": 0, "delta": "42", "logprobs": []}
    return [
        {"type": "response.output_text.delta", "sequence_number": 0, **delta},
        {"type": "response.completed", "sequence_number": 1, "response": done, **beside},
    ]


@pytest.mark.parametrize("within", [pytest.param(True, id="in the response"), pytest.param(False, id="in the event")])
def test_a_response_carries_the_receipt(connect, within):
    client, gateway = connect(
        lambda body: events(*_response_events(within=within), named=True) if body.get("stream") else response()
    )

    assert receipt(client.responses.create(model="m", input="6*7=")).request_id == "req_1"
    stream = client.responses.create(model="m", input="6*7=", stream=True, budget=Budget(total_tokens=64))
    kinds = [event.type for event in stream]

    assert kinds == ["response.output_text.delta", "response.completed"]
    assert stream.receipt.request_id == "req_1"
    assert "stream_options" not in gateway.bodies[-1]
    assert gateway.field == {"budget": {"total_tokens": 64}}


def test_the_official_stream_helper_works_on_top(connect):
    client, gateway = connect(lambda _: events(*chat_chunks("4", "2")), budget=Budget(total_tokens=64))

    with client.chat.completions.stream(model="m", messages=HELLO) as stream:
        final = stream.get_final_completion()

    assert final.choices[0].message.content == "42"
    assert gateway.field == {"budget": {"total_tokens": 64}}


def test_any_official_stream_can_be_wrapped(connect):
    client, _ = connect(lambda _: events(*chat_chunks("42")))
    raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO, stream=True)
    official = raw.parse()

    stream = ReceiptStream(official)

    assert all(isinstance(chunk, ChatCompletionChunk) for chunk in stream)
    assert stream.receipt.request_id == "req_1"


def test_an_error_in_mid_stream_is_the_official_one(connect):
    broken = {"error": {"message": "upstream broke off", "type": "server_error", "code": "upstream_error"}}
    client, _ = connect(lambda _: events(chat_chunks("4")[0], broken))

    stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
    assert next(stream).choices[0].delta.content == "4"
    with pytest.raises(openai.APIError, match="upstream broke off") as caught:
        next(stream)
    assert caught.value.code == "upstream_error"
    assert stream.receipt is None


async def test_async_answers_and_streams_carry_receipts(connect_async):
    client, gateway = connect_async(
        lambda body: events(*chat_chunks("4", "2")) if body.get("stream") else completion(), preset="thrifty"
    )

    answer = await client.chat.completions.create(model="m", messages=HELLO, budget=Budget(samples=2))
    assert receipt(answer).request_id == "req_1"
    assert gateway.field == {"preset": "thrifty", "budget": {"samples": 2}}

    async with await client.with_options(preset=None).chat.completions.create(
        model="m", messages=HELLO, stream=True
    ) as stream:
        assert isinstance(stream, AsyncReceiptStream)
        assert isinstance(stream, openai.AsyncStream)
        text = [chunk.choices[0].delta.content async for chunk in stream]
    assert text == ["4", "2", None]
    assert stream.receipt.spent.samples == 3
    assert stream.usage.total_tokens == 63
    assert gateway.field is None

    stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
    assert [len((await anext(stream)).choices) for _ in range(3)] == [1, 1, 1]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert stream.receipt.request_id == "req_1"


async def test_async_completions_and_responses_carry_receipts(connect_async):
    client, _ = connect_async(
        lambda body: (
            events(*text_chunks("42")) if "prompt" in body else events(*_response_events(within=True), named=True)
        )
    )

    texts = await client.completions.create(model="m", prompt="6*7=", stream=True)
    assert [chunk.choices[0].text async for chunk in texts] == ["42"]
    assert texts.receipt.request_id == "req_1"

    told = await client.responses.create(model="m", input="6*7=", stream=True)
    assert [event.type async for event in told][-1] == "response.completed"
    assert told.receipt.request_id == "req_1"
