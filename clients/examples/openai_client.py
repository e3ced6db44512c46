"""The official openai client with a budget: only the ``suffice`` field in ``extra_body`` is new.

Needs OPENAI_BASE_URL and OPENAI_API_KEY, as the gateway prints them, and ``pip install openai``.
"""
# ruff: noqa: INP001, T201 - a script, and it prints

import json

from openai import OpenAI

client = OpenAI()
model = client.models.list().data[0].id

completion = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "What is 17 + 25?"}],
    extra_body={"suffice": {"budget": {"total_tokens": 256, "thinking_tokens": 128}}},
)

print(completion.choices[0].message.content)
print(json.dumps(completion.model_extra["suffice"], indent=2))
