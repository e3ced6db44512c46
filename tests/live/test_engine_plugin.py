"""The plugin inside a real vLLM: rules that fire there, and signals that reach a running request."""

from __future__ import annotations

import itertools
import json
import math
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx2
import pytest
from live.asking import PATHS, QUESTION, Told, body, frames
from suffice.server.engine.plugin.discovery import capabilities

pytestmark = pytest.mark.live

LONG = 1500
"""Tokens of a request that ends by nothing but the plugin."""
BRIEF = {"suffice_rules": "length:answer_tokens=10"}
"""Ends an answer at ten tokens and the mark before it, so that a test is over soon after its thought is."""
TOOLS = [
    {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
]


@pytest.fixture(scope="module")
def engine(live_engine, word):
    """A vLLM with the plugin and a model that thinks."""
    told = capabilities(live_engine.url)
    if not told.installed:
        pytest.fail(f"the engine runs without the plugin: {told.why_not[0]}")
    if not told.thought:
        pytest.skip("the tiny reasoning model is not there; the packaged model does not think")
    with httpx2.Client(base_url=live_engine.url, timeout=300, trust_env=False) as http:
        yield Engine(http=http, url=live_engine.url, model=live_engine.model, word=word, lag=told.lag_tokens)


_NONCES = itertools.count(secrets.randbelow(2**40) + 1)
_SLOTS = itertools.cycle(range(4096))


@dataclass(frozen=True)
class Ticket:
    slot: int = field(default_factory=lambda: next(_SLOTS))
    nonce: int = field(default_factory=lambda: next(_NONCES))

    @property
    def arguments(self):
        return {"suffice_slot": self.slot, "suffice_nonce": self.nonce}


@dataclass(frozen=True)
class Engine:
    http: httpx2.Client
    """Keeps its connections, so that a signal is on its way at once."""
    url: str
    model: str
    word: int
    lag: int
    """Tokens between the reading of a signal and its effect; 0 where one process computes a request."""

    def thinking(self, api="completions", *, tokens=LONG, endless=True, **more):
        """A request that is within a thought, and may say nothing but one word where it is endless."""
        if endless:
            more = {"allowed_token_ids": [self.word]} | more
        if api == "completions":
            more = {"return_token_ids": True} | more
        return body(api, self.model, tokens=tokens, thinking="1", temperature=0, **more)

    def post(self, path, request):
        return self.http.post(path, json=request)

    def complete(self, arguments, **more):
        """Token ids of a completion, and why it ended."""
        answer = self.post("/v1/completions", self.thinking(vllm_xargs=arguments, **more))
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        return choice["token_ids"], choice["finish_reason"]

    def signal(self, ticket, action, **more):
        request = {"slot": ticket.slot, "nonce": ticket.nonce, "action": action, **more}
        return self.post("/suffice/v1/signal", request)

    def status(self, ticket):
        answer = self.http.get(f"/suffice/v1/slots/{ticket.slot}?nonce={ticket.nonce}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def seen(self, ticket):
        """Tokens of a request so far; 0 before it runs."""
        answer = self.http.get(f"/suffice/v1/slots/{ticket.slot}?nonce={ticket.nonce}")
        return answer.json()["tokens"] if answer.status_code == 200 else 0

    @property
    def end(self):
        (end,) = self.http.get("/suffice/v1/plugin").json()["thought"]["end"]
        return end


class Running:
    """A streamed chat, read beside the test."""

    def __init__(self, engine, request):
        self._answer = b""
        self._thread = threading.Thread(target=self._read, args=(engine, request | {"stream": True}))
        self._thread.start()

    def _read(self, engine, request):
        with engine.http.stream("POST", PATHS["chat"], json=request) as answer:
            self._answer = b"".join(answer.iter_bytes())

    def finish(self):
        """Thought, answer and finish."""
        self._thread.join(300)
        assert not self._thread.is_alive()
        return chat_told(frames(self._answer.decode()))


def signal_within(engine, action, *, latest=LONG - 200, arguments=None, value=None, **request):
    """Signal a thought as soon as it runs: its ticket, the stream, and its tokens right after.

    The tiny model thinks faster than a busy machine schedules this process: a thought that had got to ``latest`` by
    then is let go, and the next one taken.
    """
    more = {} if value is None else {"value": value}
    for _ in range(100):
        ticket = Ticket()
        running = Running(engine, engine.thinking("chat", vllm_xargs=ticket.arguments | (arguments or {}), **request))
        while engine.signal(ticket, action, **more).status_code == 409:  # not taken up yet
            time.sleep(0.002)
        if (seen := engine.seen(ticket)) < latest:
            return ticket, running, seen
        running.finish()
    pytest.fail("no thought was caught while it ran")


def chat_told(found):
    """Thought, answer and finish of a streamed chat."""
    told = Told(200, found)
    for frame in found:
        assert "error" not in frame, frame
        for choice in frame["choices"]:
            told.add(told.thoughts, 0, choice["delta"].get("reasoning"))
            told.add(told.texts, 0, choice["delta"].get("content"))
            told.finish[0] = choice["finish_reason"] or told.finish.get(0)
    return told.thoughts[0], told.texts[0], told.finish[0]


def test_discovery(engine):
    told = capabilities(engine.url)
    assert told.signals
    assert {"engine_entropy", "repetition", "static_cap"} <= set(told.rules)
    assert told.why_not == ()


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
def test_a_signal_closes_a_streamed_thought_and_an_answer_follows(engine, tools):
    ticket, running, seen = signal_within(engine, "close_thought", arguments=BRIEF, tools=tools)
    thought, answer, finish = running.finish()

    status = engine.status(ticket)
    assert status["closed"]["rule"] == "signal"
    assert status["closed"]["at_token"] <= seen + 1 + engine.lag
    assert status["thinking_tokens"] == status["closed"]["at_token"]
    assert thought.endswith("1" * status["thinking_tokens"])
    assert answer == "1" * 10
    assert finish == "stop"


def test_a_free_model_answers_from_a_thought_that_was_cut(engine):
    """Where the thought is cut mid-way, the model says what it has, in the same stream."""
    never_by_itself = {str(engine.end): -100}
    request = engine.thinking("chat", endless=False, logit_bias=never_by_itself)
    thought, answer, finish = Running(engine, request | {"vllm_xargs": {"suffice_thinking_tokens": 20}}).finish()

    assert thought.strip()
    assert "answer is" in answer
    assert finish == "stop"


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_the_cap_is_exact(engine, api):
    ticket = Ticket()
    arguments = ticket.arguments | {"suffice_thinking_tokens": 7}
    answer = engine.post(PATHS[api], engine.thinking(api, tokens=20, vllm_xargs=arguments)).json()

    status = engine.status(ticket)
    assert status["closed"] == {"rule": "thinking_tokens", "at_token": 7}
    assert status["thinking_tokens"] == 7
    if api == "completions":
        assert answer["choices"][0]["token_ids"] == [engine.word] * 7 + [engine.end] + [engine.word] * 12
    else:
        assert answer["choices"][0]["message"]["content"] == "1" * 12


@pytest.mark.parametrize(
    ("rule", "name", "at"),
    [
        ("static_cap:cap=9", "static_cap", 9),
        ("engine_entropy:threshold=20,variance=100,least_steps=2,least_tokens=6,step_tokens=3", "engine_entropy", 6),
        ("repetition:least=10,min_count=2", "repetition", 10),
        ("length:thought_tokens=5", "length", 6),
    ],
    ids=["static_cap", "engine_entropy", "repetition", "length"],
)
def test_rules_fire_inside_the_engine(engine, rule, name, at):
    ticket = Ticket()
    ids, _ = engine.complete(ticket.arguments | {"suffice_rules": rule}, tokens=at + 4)
    assert ids == [engine.word] * at + [engine.end] + [engine.word] * 3
    assert engine.status(ticket)["closed"] == {"rule": name, "at_token": at}


def test_a_looping_answer_is_ended(engine):
    ticket = Ticket()
    rules = {"suffice_rules": "repetition:least=10,min_count=2", "suffice_thinking_tokens": 3}
    ids, finish = engine.complete(ticket.arguments | rules, tokens=60)
    assert len(ids) < 20
    assert finish == "stop"
    assert engine.status(ticket)["stopped"]["rule"] == "repetition"


def test_the_entropy_is_of_the_whole_distribution(engine):
    """The rule's threshold is crossed between the bounds that the twenty likeliest tokens put on the entropy."""
    rule = "engine_entropy:threshold={:f},variance=100,least_steps=1,least_tokens=1,step_tokens=1"
    free = {"endless": False, "tokens": 2}
    answer = engine.post("/v1/completions", engine.thinking(endless=False, tokens=1, logprobs=20)).json()
    tops = answer["choices"][0]["logprobs"]["top_logprobs"][0].values()
    lower = -sum(math.exp(top) * top for top in tops)
    rest = max(1 - sum(map(math.exp, tops)), 1e-9)
    upper = lower - rest * math.log(rest / 2**20)  # no vocabulary is larger

    below, above = Ticket(), Ticket()
    engine.complete(below.arguments | {"suffice_rules": rule.format(max(lower - 0.01, 0))}, **free)
    engine.complete(above.arguments | {"suffice_rules": rule.format(upper + 0.01)}, **free)

    assert engine.status(below)["closed"] is None
    assert engine.status(above)["closed"] == {"rule": "engine_entropy", "at_token": 1}


def test_a_running_cap_is_raised_without_abort(engine):
    capped = BRIEF | {"suffice_thinking_tokens": 600}
    ticket, running, _ = signal_within(engine, "cap", value=700, latest=590, arguments=capped)
    _, answer, _ = running.finish()
    assert engine.status(ticket)["closed"] == {"rule": "thinking_tokens", "at_token": 700}
    assert answer == "1" * 10


def test_a_running_cap_is_lowered(engine):
    ticket, running, seen = signal_within(engine, "cap", value=3, arguments=BRIEF)
    running.finish()
    closed = engine.status(ticket)["closed"]
    assert closed["rule"] == "thinking_tokens"
    assert closed["at_token"] <= max(3, seen + 1 + engine.lag)  # at the cap where the signal came before it


def test_a_stop_ends_the_stream_as_the_model_would(engine):
    ticket, running, _ = signal_within(engine, "stop")
    _, _, finish = running.finish()
    assert finish == "stop"
    assert engine.status(ticket)["stopped"]["rule"] == "signal"
    assert engine.status(ticket)["tokens"] < LONG - 1


@pytest.mark.parametrize(
    "wrong",
    [lambda one: Ticket(one.slot, one.nonce ^ 1), lambda one: Ticket(one.slot ^ 2048, one.nonce)],
    ids=["nonce", "slot"],
)
def test_a_signal_for_another_reaches_nobody(engine, wrong):
    ticket = Ticket()
    running = Running(engine, engine.thinking("chat", tokens=200, vllm_xargs=ticket.arguments))
    while not engine.seen(ticket):
        time.sleep(0.002)
    refused = engine.signal(wrong(ticket), "stop")
    thought, _, finish = running.finish()

    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "stale_nonce")
    assert thought.endswith("1" * 200)
    assert finish == "length"


def test_a_late_signal_does_not_hit_the_next_tenant(engine):
    old = Ticket()
    new = Ticket(old.slot)
    engine.complete(old.arguments, tokens=3)
    assert engine.signal(old, "stop").status_code == 200  # over, but still the last tenant
    ids, _ = engine.complete(new.arguments, tokens=20)
    assert ids == [engine.word] * 20
    assert engine.signal(old, "stop").status_code == 409


def test_signals_cross_no_borders_between_running_requests(engine):
    """Each second of four requests that run at once is closed, and no other."""
    quiet, pairs = [], []
    for _ in range(2):
        ticket = Ticket()
        quiet.append((ticket, Running(engine, engine.thinking("chat", tokens=400, vllm_xargs=ticket.arguments))))
        pairs.append(signal_within(engine, "close_thought", arguments=BRIEF)[:2])
    for _, running in (*quiet, *pairs):
        running.finish()
    assert [engine.status(ticket)["closed"] for ticket, _ in quiet] == [None, None]
    assert all(engine.status(ticket)["closed"] for ticket, _ in pairs)


def test_who_does_not_ask_gets_the_same_tokens_beside_who_asks(engine):
    """Greedy requests beside neighbours: the neighbours' rules and signals change no bit of theirs."""
    never = "engine_entropy:threshold=0,variance=0;repetition:least=4096;boundary"

    def batch(asks):
        def one(index):
            arguments = None
            if index % 2:
                arguments = (Ticket().arguments | {"suffice_rules": never}) if asks else None
            return engine.complete(arguments, tokens=100, endless=False, prompt=f"{QUESTION} {index}<think>")[0]

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(one, range(8)))

    alone = [
        engine.complete(None, tokens=100, endless=False, prompt=f"{QUESTION} {n}<think>")[0] for n in range(0, 8, 2)
    ]
    plain, beside = batch(asks=False), batch(asks=True)
    assert beside == plain
    assert beside[::2] == alone
    assert len({tuple(ids) for ids in plain}) > 1


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"suffice_slot": 1}, "suffice_nonce"),
        ({"suffice_slot": 5000, "suffice_nonce": 1}, "suffice_slot"),
        ({"suffice_rules": "nothing"}, "nothing"),
        ({"suffice_rules": "static_cap:cap=0"}, "cap"),
        ({"suffice_thinking_token": 3}, "suffice_thinking_tokens"),
        ({"suffice_thinking_tokens": "3"}, "suffice_thinking_tokens"),
    ],
    ids=["no-nonce", "no-such-slot", "no-such-rule", "range", "misspelt", "text"],
)
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_bad_arguments_are_a_400(engine, api, arguments, names):
    answer = engine.post(PATHS[api], engine.thinking(api, vllm_xargs=arguments))
    assert answer.status_code == 400, answer.text
    assert names in json.dumps(answer.json())


@pytest.mark.parametrize("api", ["responses", "messages"])
def test_the_other_apis_carry_it_too(engine, api):
    ticket = Ticket()
    arguments = ticket.arguments | {"suffice_thinking_tokens": 4, "suffice_rules": "static_cap:cap=3"}
    answer = engine.post(PATHS[api], body(api, engine.model, tokens=200, temperature=0, vllm_xargs=arguments))
    assert answer.status_code == 200, answer.text
    status = engine.status(ticket)
    assert status["closed"] == {"rule": "static_cap", "at_token": 3}
    assert status["thinking_tokens"] == 3
