"""The official anthropic client: its own ``thinking.budget_tokens`` is a limit, and the receipt comes along.

Needs OPENAI_BASE_URL and OPENAI_API_KEY, as the gateway prints them, and ``pip install anthropic openai``.
"""
# ruff: noqa: INP001, T201 - a script, and it prints

import json
import os

from anthropic import Anthropic
from openai import OpenAI

client = Anthropic(
    base_url=os.environ["OPENAI_BASE_URL"].removesuffix("/").removesuffix("/v1"),  # this client adds /v1 itself
    api_key=os.environ["OPENAI_API_KEY"],
)

message = client.messages.create(
    model=OpenAI().models.list().data[0].id,
    max_tokens=2048,
    messages=[{"role": "user", "content": "What is 17 + 25?"}],
    thinking={"type": "enabled", "budget_tokens": 1024},
    extra_body={"suffice": {"budget": {"total_tokens": 256}}},
)

print("".join(block.text for block in message.content if block.type == "text"))
print(json.dumps(message.model_extra["suffice"], indent=2))
