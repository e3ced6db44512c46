"""Accounts of keys and teams through HTTP: reserve, settle, refuse, and what the refusals say."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_vllm import Script
from gateway.rig import wait
from suffice.server.ledger.amounts import Resource

CHAT = "/v1/chat/completions"
QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}


def budget(total):
    return QUESTION | {"suffice": {"budget": {"total_tokens": total}}}


def refused(answer, code, account, gate, before):
    """A refusal that changed nothing anywhere."""
    assert answer.status_code == 429
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == (code, code, None)
    assert gate.usage(account) == before
    return answer.headers


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"])
def test_a_spent_budget_is_insufficient_quota_until_its_window_turns(gate, path):
    id_, key = gate.key(limits=("tokens=50/day",))
    asked = {"prompt": "a"} if path == "/v1/completions" else {"input": "a"} if "resp" in path else QUESTION
    more = {"max_tokens": 500} if path == "/v1/messages" else {}
    body = {"model": "fake"} | asked | more | {"suffice": {"budget": {"total_tokens": 500}}}
    answer = gate.post(path, body, key=key)
    assert answer.status_code == 429
    code = answer.json()["error"]["code"]
    assert code == "insufficient_quota"
    assert answer.headers["x-should-retry"] == "false"
    assert 0 < int(answer.headers["retry-after"]) <= 86400
    assert gate.usage(f"key:{id_}") == (0, 0)
    assert gate.fake.requests == []


def test_a_budget_for_life_names_no_time_to_come_back(gate):
    id_, key = gate.key(limits=("tokens=10",))
    headers = refused(gate.post(CHAT, budget(500), key=key), "insufficient_quota", f"key:{id_}", gate, (0, 0))
    assert "retry-after" not in headers
    assert headers["x-should-retry"] == "false"


def test_room_held_by_a_request_in_flight_is_a_rate_limit(gate):
    gate.fake.says(Script.of(answer="more", endless=True))
    gate.fake.settings.token_s = 0.005
    id_, key = gate.key(limits=("tokens=1000/day",))
    with gate.client.stream(
        "POST", CHAT, json=budget(600) | {"stream": True}, headers={"authorization": f"Bearer {key}"}
    ) as running:
        pieces = running.iter_raw()  # kept: a forgotten one closes the connection
        next(pieces)
        spent, reserved = gate.usage(f"key:{id_}")
        assert spent == 0
        assert 600 < reserved <= 1000
        answer = gate.post(CHAT, budget(600), key=key)
        headers = refused(answer, "rate_limit_exceeded", f"key:{id_}", gate, (spent, reserved))
        assert int(headers["retry-after-ms"]) == 500
        assert "x-should-retry" not in headers
        assert len(gate.fake.requests) == 1
    gate.idle()
    spent, reserved = gate.usage(f"key:{id_}")
    assert reserved == 0
    assert 0 < spent < 600
    gate.fake.settings.token_s = 0
    assert gate.post(CHAT, budget(1000 - spent - 150), key=key).status_code == 200


def test_the_prompts_estimate_is_reserved_and_its_length_charged(gate):
    gate.fake.says(Script.of(answer="more", endless=True))
    gate.fake.settings.token_s, gate.fake.settings.prefill_s = 0.05, 1.0  # the first reserve is read during prefill
    id_, key = gate.key()
    words = "word " * 100
    body = {"model": "fake", "messages": [{"role": "user", "content": words}], "stream": True, "max_tokens": 20}
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(gate.post, CHAT, body, key=key)
        wait(lambda: bool(gate.fake.requests))
        first = gate.settled()[-1]
        assert (first.state, gate.usage(f"key:{id_}")) == ("open", (0, first.reserved))
        prompt = gate.fake.requests[0].prompt_tokens
        assert prompt + 20 < len(words) <= first.reserved
        wait(lambda: gate.usage(f"key:{id_}") == (0, prompt + 20))
        assert running.result().status_code == 200
    gate.idle()
    assert gate.usage(f"key:{id_}") == (prompt + 20, 0)


def test_a_teams_budget_holds_over_all_its_keys(gate):
    gate.team("crew", "requests=2/hour")
    first, second = gate.key(team="crew"), gate.key(team="crew")
    assert gate.post(CHAT, QUESTION, key=first[1]).status_code == 200
    assert gate.post(CHAT, QUESTION, key=second[1]).status_code == 200
    answer = gate.post(CHAT, QUESTION, key=first[1])
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
    assert "team's budget of 2 requests per hour" in answer.json()["error"]["message"]
    assert gate.usage("team:crew", Resource.REQUESTS) == (2, 0)
    assert gate.usage(f"key:{first[0]}", Resource.REQUESTS) == (1, 0)


def test_the_tighter_of_two_windows_refuses(gate):
    id_, key = gate.key(limits=("requests=5/day", "requests=1/minute", "tokens=100000/day"))
    assert gate.post(CHAT, QUESTION, key=key).status_code == 200
    answer = gate.post(CHAT, QUESTION, key=key)
    assert "1 requests per minute" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) <= 60
    assert gate.usage(f"key:{id_}", Resource.REQUESTS) == (1, 0)


def test_many_at_once_never_pass_the_budget(gate):
    id_, key = gate.key(limits=("tokens=1000/day",))
    gate.fake.says(Script.of(answer="more", endless=True))
    codes = []

    def ask():
        codes.append(gate.post(CHAT, budget(100), key=key).status_code)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gate.idle()
    spent, reserved = gate.usage(f"key:{id_}")
    assert reserved == 0
    assert spent <= 1000
    assert spent == sum(one.generated_tokens + one.prompt_tokens for one in gate.fake.requests)
    assert set(codes) <= {200, 429}
    assert codes.count(200) == len(gate.fake.requests) >= 1


def test_a_revoked_key_works_no_more_within_a_second(gate):
    id_, key = gate.key()
    assert gate.post(CHAT, QUESTION, key=key).status_code == 200
    from suffice.server.ledger.keys import KeyStore  # noqa: PLC0415 - another process would do this

    other = KeyStore(gate.data_dir)
    assert other.revoke(id_)
    other.close()
    wait(lambda: gate.post(CHAT, QUESTION, key=key).status_code == 401, timeout_s=1.0)
    assert gate.post(CHAT, QUESTION, key=key).json()["error"]["code"] == "invalid_api_key"


def test_a_change_of_limits_keeps_what_was_spent(gate):
    gate.team("changing", "tokens=100000/day")
    _, key = gate.key(team="changing")
    assert gate.post(CHAT, QUESTION, key=key).status_code == 200
    spent = gate.usage("team:changing")[0]
    gate.team("changing", f"tokens={spent}/week")
    assert gate.post(CHAT, QUESTION, key=key).status_code == 429
    assert gate.usage("team:changing") == (spent, 0)


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/models"), ("POST", CHAT), ("POST", "/v1/embeddings")])
def test_keys_that_cannot_be_read_are_an_overload(gate, method, path):
    keys = gate.service.keys
    gate.call(lambda: keys._db.execute("ALTER TABLE teams RENAME TO lost"))
    gate.call(lambda: setattr(keys, "_checked", 0.0))
    try:
        answer = gate.client.request(method, path, json=QUESTION)
    finally:
        gate.call(lambda: keys._db.execute("ALTER TABLE lost RENAME TO teams"))
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "accounts cannot be kept now")
    assert answer.headers["retry-after"] == "2"


def test_a_failing_ledger_refuses_and_reserves_nothing(gate):
    id_, key = gate.key()
    db = gate.service.ledger._db
    gate.call(lambda: db.execute("PRAGMA query_only = 1"))
    try:
        answer = gate.post(CHAT, QUESTION, key=key)
    finally:
        gate.call(lambda: db.execute("PRAGMA query_only = 0"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")
    assert "retry-after" in answer.headers
    assert gate.fake.requests == []
    assert gate.usage(f"key:{id_}") == (0, 0)
    assert gate.post(CHAT, QUESTION, key=key).status_code == 200


def test_a_ledger_that_fails_at_the_end_ends_the_stream_with_an_error(gate):
    gate.fake.settings.token_s = 0.01
    db = gate.service.ledger._db
    text = b""
    try:
        with gate.client.stream("POST", CHAT, json=QUESTION | {"stream": True}) as running:
            for piece in running.iter_raw():
                if not text:
                    gate.call(lambda: db.execute("PRAGMA query_only = 1"))
                text += piece
    finally:
        gate.call(lambda: db.execute("PRAGMA query_only = 0"))
    *_, error, done = text.decode().split("\n\n")[:-1]
    assert done == "data: [DONE]"
    assert '"code":"ledger_unavailable"' in error
    # What could not be settled stays reserved until the next start recovers it.
    left = [one for one in gate.settled() if one.state == "open"]
    assert len(left) == 1
    gate.call(lambda: db.execute("DELETE FROM reservations WHERE state = 'open'"))
    gate.call(lambda: db.execute("UPDATE reserved SET amount = 0"))
    gate.service.ledger.stats.open = 0
