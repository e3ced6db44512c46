"""The first request of ``suffice up``: streamed text and receipt of one answer with a budget, as a user sees them."""

from __future__ import annotations

import shutil
import sys
from typing import Any

import openai

QUESTION = "In one sentence: why is the sky blue?"
TOTAL_TOKENS = 128
_WIDEST = 96
_SPENT = ("prompt_tokens", "completion_tokens", "samples", "wall_ms")


def show_request(base_url: str, key: str) -> None:
    """Ask once and print what comes, as it comes.

    Raises:
        openai.OpenAIError: The gateway did not answer as it should.
    """
    # No proxy that the environment names may stand between us and our own gateway.
    with openai.OpenAI(
        base_url=base_url, api_key=key, max_retries=0, http_client=openai.DefaultHttpxClient(trust_env=False)
    ) as client:
        model = client.models.list().data[0].id
        print(f"\n{model}, at most {TOTAL_TOKENS} tokens: {QUESTION}\n")  # noqa: T201
        text = _Wrapped()
        receipt: dict[str, Any] | None = None
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"suffice": {"budget": {"total_tokens": TOTAL_TOKENS}}},
        )
        for chunk in stream:
            for choice in chunk.choices:
                # A thought comes under one of two names, both of them outside OpenAI's types.
                thought = getattr(choice.delta, "reasoning", None) or getattr(choice.delta, "reasoning_content", None)
                text.write(thought or "", thought=True)
                text.write(choice.delta.content or "")
            receipt = getattr(chunk, "suffice", None) or receipt
        text.end()
    if receipt is None:
        raise openai.OpenAIError("the answer came without a receipt")
    print("\n".join(_lines(receipt)), end="\n\n")  # noqa: T201


def _lines(receipt: dict[str, Any]) -> list[str]:
    limits = receipt["plan"]["limits"].items()
    return [
        f"receipt   {receipt['request_id']}",
        *(f"  limit   {name:<18}{value:>7}  set by {source}" for name, (value, source) in limits),
        *(f"  spent   {name:<18}{receipt['spent'][name]:>7}" for name in _SPENT),
        *(f"  stop    {stop['rule']:<18}{stop['at_token']:>7}  by {stop['by']}" for stop in receipt["stops"]),
    ]


class _Wrapped:
    """Text in pieces, written word by word and wrapped between words at the terminal's width."""

    def __init__(self) -> None:
        self._width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
        self._column = 0
        self._word = ""
        self._thinking = False

    def write(self, piece: str, *, thought: bool = False) -> None:
        """Write what is complete; the last word waits for its end. An answer begins on a line of its own."""
        if piece and self._thinking and not thought:
            self.end()
        self._thinking = thought if piece else self._thinking
        for character in piece:
            if character.isspace():
                self._flush()
                self._space(character)
            else:
                self._word += character
        sys.stdout.flush()

    def end(self) -> None:
        """Write what waits, and an empty line."""
        self._flush()
        sys.stdout.write("\n\n" if self._column else "\n")
        sys.stdout.flush()
        self._column = 0

    def _flush(self) -> None:
        if self._column and self._column + len(self._word) > self._width:
            self._space("\n")
        sys.stdout.write(self._word)
        self._column += len(self._word)
        self._word = ""

    def _space(self, character: str) -> None:
        if character == "\n":
            sys.stdout.write("\n")
            self._column = 0
        elif self._column:
            sys.stdout.write(" ")
            self._column += 1
