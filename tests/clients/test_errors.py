"""The gateway's errors as types, which stay the official ones."""

import httpx2
import openai
import pytest
from clients.gateway_double import error
from suffice import errors

pytestmark = pytest.mark.anyio

HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}

CASES = [
    pytest.param(400, "unknown_parameter", errors.InvalidRequestError, openai.BadRequestError, id="unknown key"),
    pytest.param(400, None, errors.InvalidRequestError, openai.BadRequestError, id="400 without a code"),
    pytest.param(401, "invalid_api_key", errors.InvalidKeyError, openai.AuthenticationError, id="key"),
    pytest.param(403, "permission_denied", errors.AccessDeniedError, openai.PermissionDeniedError, id="denied"),
    pytest.param(404, "model_not_found", errors.ModelNotFoundError, openai.NotFoundError, id="model"),
    pytest.param(413, "request_too_large", errors.RequestTooLargeError, openai.APIStatusError, id="too large"),
    pytest.param(429, "rate_limit_exceeded", errors.RateLimitExceededError, openai.RateLimitError, id="rate limit"),
    pytest.param(429, "insufficient_quota", errors.BudgetExhaustedError, openai.RateLimitError, id="budget"),
    pytest.param(502, "upstream_error", errors.UpstreamFailedError, openai.InternalServerError, id="upstream"),
    pytest.param(503, "server_overloaded", errors.ServerOverloadedError, openai.InternalServerError, id="overload"),
    pytest.param(504, "upstream_timeout", errors.UpstreamTimeoutError, openai.InternalServerError, id="timeout"),
    pytest.param(504, "deadline_exceeded", errors.DeadlineExceededError, openai.InternalServerError, id="deadline"),
]


@pytest.mark.parametrize(("status", "code", "ours", "official"), CASES)
async def test_each_answer_has_its_class(connect, connect_async, status, code, ours, official):
    client, _ = connect(lambda _: error(status, code), max_retries=0)
    with pytest.raises(official) as caught:
        client.chat.completions.create(**HELLO)
    assert type(caught.value) is ours
    assert (caught.value.status, caught.value.status_code, caught.value.code) == (status, status, code)
    assert caught.value.param == "suffice.budget"
    assert str(caught.value) == f"Error code: {status} - no"

    async_client, _ = connect_async(lambda _: error(status, code), max_retries=0)
    with pytest.raises(ours):
        await async_client.chat.completions.create(**HELLO)


@pytest.mark.parametrize(
    ("status", "code", "official"),
    [
        pytest.param(404, "route_not_found", openai.NotFoundError, id="another 404"),
        pytest.param(429, "slow_down", openai.RateLimitError, id="another 429"),
        pytest.param(500, "internal_error", openai.InternalServerError, id="500"),
        pytest.param(405, "method_not_allowed", openai.APIStatusError, id="405"),
    ],
)
def test_what_the_tree_does_not_know_stays_official(connect, status, code, official):
    client, _ = connect(lambda _: error(status, code), max_retries=0)

    with pytest.raises(official) as caught:
        client.chat.completions.create(**HELLO)

    assert type(caught.value) is official


def test_a_body_that_is_no_error_object_is_still_an_error(connect):
    client, _ = connect(lambda _: httpx2.Response(503, text="<html>busy</html>"), max_retries=0)

    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**HELLO)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        pytest.param({"retry-after-ms": "250", "retry-after": "1"}, 0.25, id="milliseconds"),
        pytest.param({"retry-after": "2"}, 2.0, id="seconds"),
        pytest.param({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None, id="a date"),
        pytest.param({}, None, id="no time named"),
    ],
)
def test_retry_after_is_in_seconds(connect, headers, seconds):
    client, _ = connect(lambda _: error(429, "rate_limit_exceeded", **headers), max_retries=0)

    with pytest.raises(errors.RateLimitExceededError) as caught:
        client.chat.completions.create(**HELLO)

    assert caught.value.retry_after == seconds
    assert caught.value.retryable


def test_a_spent_budget_is_not_tried_again(connect):
    client, gateway = connect(lambda _: error(429, "insufficient_quota", **{"x-should-retry": "false"}))

    with pytest.raises(errors.BudgetExhaustedError) as caught:
        client.chat.completions.create(**HELLO)

    assert len(gateway.bodies) == 1
    assert not caught.value.retryable


def _drawn() -> dict[str, tuple[str | None, int]]:
    """The tree in the module's docstring: each class with its parent in the drawing and its status."""
    lines = [line for line in (errors.__doc__ or "").splitlines() if "-- " in line]
    drawn, trail = {}, ["SufficeError"]
    for line in lines:
        branch, _, words = line.partition("-- ")
        depth = len(branch) // 4 + 1
        name, *rest = words.split()
        trail[depth:] = [name]
        drawn[name] = (trail[depth - 1], int(next(word for word in rest if word.isdigit())))
    return drawn


def test_the_drawn_tree_is_the_tree():
    actual = {kind.__name__: (kind.__bases__[0].__name__, kind.status) for kind in errors.CLASSES}

    assert _drawn() == actual


def test_every_class_answers_for_a_status_and_a_code_of_its_own():
    keys = [(kind.status, kind.code) for kind in errors.CLASSES]

    assert len(set(keys)) == len(keys)


def test_client_and_gateway_agree_on_statuses_codes_and_what_may_be_tried_again():
    server = pytest.importorskip("suffice.server.errors", reason="the server extra is not installed")
    sent = {}
    pending = [server.ApiError]
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        sent[kind.status, kind.code] = kind.retryable

    for kind in errors.CLASSES:
        codes = [key for key in sent if key[0] == kind.status and kind.code in {None, key[1]}]
        assert codes, f"the gateway never sends {kind.status} {kind.code}"
        assert {sent[key] for key in codes} == {kind.retryable}, kind
