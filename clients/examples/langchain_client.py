"""LangChain's ChatOpenAI: a budget for every call of the model, streamed.

Needs OPENAI_BASE_URL and OPENAI_API_KEY, as the gateway prints them, and ``pip install langchain-openai suffice``.
"""
# ruff: noqa: INP001, T201 - a script, and it prints

import os

from langchain_openai import ChatOpenAI
from openai import OpenAI
from suffice import Budget, Options

model = ChatOpenAI(
    model=OpenAI().models.list().data[0].id,
    base_url=os.environ["OPENAI_BASE_URL"],
    stream_usage=True,
    extra_body=Options(budget=Budget(total_tokens=256, thinking_tokens=128)).extra_body(),
)

usage = None
for chunk in model.stream("What is 17 + 25?"):
    print(chunk.text, end="", flush=True)
    usage = chunk.usage_metadata or usage
print(f"\n\n{usage}")
