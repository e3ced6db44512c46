"""A fake set up like a given engine, and requests that make both do the same thing whatever their models say."""

from __future__ import annotations

import atexit
import functools
import re
from typing import Any

import httpx2
from fake_vllm import FakeVLLM, Script

WORD = "1"
ENDLESS = Script(thought=(WORD,), answer=(WORD,), endless=True, endless_thought=True)
"""Says ``WORD`` for ever, in thought and answer."""


@functools.cache
def _client() -> httpx2.Client:
    """One client for all: making one costs more than most requests."""
    client = httpx2.Client(timeout=120, trust_env=False)
    atexit.register(client.close)
    return client


def get(url: str, path: str) -> httpx2.Response:
    """Fetch a page."""
    return _client().get(url + path)


def post(url: str, path: str, body: dict[str, Any]) -> httpx2.Response:
    """Send a body, read an answer."""
    return _client().post(url + path, json=body)


def send(url: str, method: str, path: str) -> httpx2.Response:
    """Ask for a page with any method."""
    return _client().request(method, url + path)


def closed_by_signal(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Close a running request's thought by a signal, read it to its end, and ask its slot what was done."""
    slot, nonce = body["vllm_xargs"]["suffice_slot"], body["vllm_xargs"]["suffice_nonce"]
    signal = {"slot": slot, "nonce": nonce, "action": "close_thought"}
    beside = _client()
    beside.get(f"{url}/version")  # so that its connection is there when the signal is due
    with _client().stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}) as answer:
        lines = answer.iter_lines()
        for _ in range(6):
            next(lines)
        assert beside.post(f"{url}/suffice/v1/signal", json=signal).json() == {"accepted": True}
        for _ in lines:
            pass
    return get(url, f"/suffice/v1/slots/{slot}?nonce={nonce}").json()


def series(text: str) -> dict[str, frozenset[str]]:
    """Names of a Prometheus page's series, each with the names of its labels."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition("{")
            labels = rest.rpartition("}")[0]
            found[name] = frozenset(re.findall(r'(\w+)="', labels))
    return found


def biases(live: Any, texts: dict[str, int]) -> dict[str, int]:
    """``logit_bias`` for texts that are one token each."""
    found = {}
    for text, bias in texts.items():
        tokens = post(live.url, "/tokenize", {"model": live.model, "prompt": text, "add_special_tokens": False}).json()
        found[str(tokens["tokens"][-1])] = bias
    return found


def mirror(live: Any) -> FakeVLLM:
    """A fake with the options that the engine was started with, as far as they can be told from outside.

    It says ``WORD`` for ever, in thought and answer; so does the engine when it is allowed no other token.
    """
    ask = {"model": live.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    answer = post(live.url, "/v1/chat/completions", {**ask, "return_token_ids": True}).json()
    usage = answer["usage"]
    prompt = post(live.url, "/detokenize", {"model": live.model, "tokens": answer["prompt_token_ids"]}).json()
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    with_tools = post(live.url, "/v1/chat/completions", {**ask, "tools": [tool]})
    with_budget = post(live.url, "/v1/chat/completions", {**ask, "thinking_token_budget": 1})
    (card,) = (card for card in get(live.url, "/v1/models").json()["data"] if card["id"] == live.model)
    return FakeVLLM(
        ENDLESS,
        models=(live.model,),
        max_model_len=card["max_model_len"],
        reasoning_parser=usage["completion_tokens_details"] is not None,
        reasoning_config=with_budget.status_code == 200,
        template_opens_thought=prompt["prompt"].rstrip().endswith("<think>"),
        tool_parser=with_tools.status_code == 200,
        prompt_tokens_details=usage["prompt_tokens_details"] is not None,
        request_metrics=answer["metrics"] is not None,
        embeddings=False,
        plugin=get(live.url, "/suffice/v1/plugin").status_code == 200,
    )


@functools.cache
def word_id(url: str, model: str) -> int:
    """The id of ``WORD``."""
    tokens = post(url, "/tokenize", {"model": model, "prompt": WORD, "add_special_tokens": False}).json()["tokens"]
    assert len(tokens) == 1
    return int(tokens[0])


def repeats(
    live: Any, messages: list[dict[str, Any]], *, tokens: int, system: str | None = None, **more: Any
) -> Script:
    """What the engine's model says to these messages, token by token, at temperature 0."""
    said = [{"role": "system", "content": system}] if system else []
    ask = {"model": live.model, "messages": [*said, *messages], "max_tokens": tokens, "temperature": 0, **more}
    answer = post(live.url, "/v1/chat/completions", {**ask, "return_token_ids": True}).json()
    choice = answer["choices"][0]
    ids = choice["token_ids"]
    if choice["finish_reason"] == "stop":
        ids = ids[:-1]
    pieces = [
        post(live.url, "/detokenize", {"model": live.model, "tokens": [number]}).json()["prompt"] for number in ids
    ]
    opened = "<think>" in pieces[:1]
    closed = pieces.index("</think>") if "</think>" in pieces else len(pieces)
    if not opened and closed == len(pieces):
        return Script(answer=tuple(pieces), opens_thought=False)
    return Script(
        thought=tuple(pieces[opened:closed]), answer=tuple(pieces[closed + 1 :]), endless_thought=closed == len(pieces)
    )
