"""A fake set up like a given engine, and requests that make both do the same thing whatever their models say."""

from __future__ import annotations

from typing import Any

import httpx2
from fake_vllm import FakeVLLM, Script

WORD = "1"


def get(url: str, path: str) -> httpx2.Response:
    """Fetch a page."""
    with httpx2.Client(timeout=30, trust_env=False) as client:
        return client.get(url + path)


def post(url: str, path: str, body: dict[str, Any]) -> httpx2.Response:
    """Send a body, read an answer."""
    with httpx2.Client(timeout=120, trust_env=False) as client:
        return client.post(url + path, json=body)


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
        Script(thought=(WORD,), answer=(WORD,), endless=True, endless_thought=True),
        models=(live.model,),
        max_model_len=card["max_model_len"],
        reasoning_parser=usage["completion_tokens_details"] is not None,
        reasoning_config=with_budget.status_code == 200,
        template_opens_thought=prompt["prompt"].rstrip().endswith("<think>"),
        tool_parser=with_tools.status_code == 200,
        prompt_tokens_details=usage["prompt_tokens_details"] is not None,
        request_metrics=answer["metrics"] is not None,
        embeddings=False,
    )


def word_id(url: str, model: str) -> int:
    """The id of ``WORD``."""
    tokens = post(url, "/tokenize", {"model": model, "prompt": WORD, "add_special_tokens": False}).json()["tokens"]
    assert len(tokens) == 1
    return int(tokens[0])
