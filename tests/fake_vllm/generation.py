"""A request in the engine: choices advance in turns, within limits, and each step is a delta."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fake_vllm import speech, tokenizer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fake_vllm.plugin import Steering
    from fake_vllm.records import Received
    from fake_vllm.script import Script
    from fake_vllm.settings import Settings
    from fake_vllm.speech import Channel, Token


OPEN_ID = tokenizer.id_of(tokenizer.THINK)
CLOSE_ID = tokenizer.id_of(tokenizer.CLOSE_THINK)


@dataclass(slots=True, kw_only=True)
class Job:
    """One request, checked and with its defaults filled in.

    Attributes:
        body: The request.
        received: Its record, which generation keeps up to date.
        prompts: Token ids of each prompt.
        max_tokens: Limit for each choice, already cut to the context.
        scripts: What each choice says, prompt by prompt.
        thinking: The request has thinking switched on.
        logprobs: Alternatives per position, or None for no log-probabilities.
        steering: What suffice's plugin does to the request; None without the plugin or the request's wish.
    """

    body: dict[str, Any]
    received: Received
    settings: Settings
    request_id: str
    model: str
    prompts: list[list[int]]
    max_tokens: list[int]
    scripts: list[list[Script]]
    thinking: bool = True
    budget: int | None = None
    stop: list[str] = field(default_factory=list)
    logprobs: int | None = None
    steering: Steering | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(prompt) for prompt in self.prompts)

    @property
    def holds_text(self) -> bool:
        """Whether text is held back because a stop string may have begun in it."""
        return any(len(stop) > 1 for stop in self.stop) and not self.body.get("include_stop_str_in_output", False)

    @property
    def choices(self) -> int:
        """Choices a prompt."""
        return len(self.scripts[0])


@dataclass(slots=True, kw_only=True)
class Delta:
    """What one step adds to one choice.

    Attributes:
        index: The choice, counted over all prompts.
        prompt: The prompt it belongs to.
        parts: Text that became visible, by channel, in order.
        tokens: The tokens of the step.
        completion_tokens: Tokens of the choice so far.
        reasoning_tokens: As vLLM counts them, with its mistake: none, when the prompt opened the thought.
        text_offset: Characters of the choice before this step.
        thought_open: The step began within a thought, as vLLM's parser sees it.
        finish_reason: Set on the choice's last delta.
        stop_reason: The stop string or the stop token id that ended it.
    """

    index: int
    prompt: int
    parts: list[tuple[Channel, str]]
    tokens: list[Token]
    completion_tokens: int
    reasoning_tokens: int
    text_offset: int
    thought_open: bool
    logprob: float
    close_logprob: float | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    @property
    def ids(self) -> list[int]:
        """Ids of the tokens."""
        return [token.id for token in self.tokens]


class Choice:
    """One sample in the making."""

    def __init__(self, job: Job, index: int) -> None:
        self.index = index
        self.prompt = index // job.choices
        self.limit = job.max_tokens[self.prompt]
        self.script = job.scripts[self.prompt][index % job.choices]
        ids = job.prompts[self.prompt]
        opens = job.thinking and not job.settings.template_opens_thought and self.script.opens_thought
        self.source: Iterator[Token] = speech.speak(
            self.script, ids, thinks=opens, budget=job.budget, steering=job.steering
        )
        closed = speech.locate(ids).closed_thought
        self.thought_open = not closed
        self.opened = False
        self.job = job
        self.count = self.thoughts = self.released = 0
        self.text = ""
        self.spans: list[tuple[Channel, str]] = []
        keep = job.body.get("include_stop_str_in_output", False)
        self.held = 0 if keep or not job.stop else max(map(len, job.stop)) - 1
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None

    def advance(self, most: int) -> Delta:
        """Say up to ``most`` tokens."""
        tokens: list[Token] = []
        while len(tokens) < most and self.finish_reason is None:
            tokens.append(next(self.source))
            self._take(tokens[-1])
        offset, was_open = self.released, self.thought_open
        self.thought_open = was_open and all(token.id != CLOSE_ID for token in tokens)
        return Delta(
            index=self.index,
            prompt=self.prompt,
            parts=self._release(),
            tokens=tokens,
            completion_tokens=self.count,
            reasoning_tokens=self.thoughts,
            text_offset=offset,
            thought_open=was_open,
            logprob=self.script.logprob,
            close_logprob=self.script.close_logprob,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )

    def _take(self, token: Token) -> None:
        self.count += 1
        if self.job.steering is not None:
            self.job.steering.counted(self.count, thought=token.channel == "thought")
        self.opened = self.opened or token.id == OPEN_ID
        self.thoughts += token.channel == "thought" and self.opened
        self.job.received.generated[self.index] = self.count
        body = self.job.body
        if token.channel == "end":
            if not body.get("ignore_eos"):
                self.finish_reason = "stop"
        elif token.id in (body.get("stop_token_ids") or ()):
            self.finish_reason, self.stop_reason = "stop", token.id
        else:
            self.spans.append((token.channel, token.text))
            self._match_stop(token.text)
        if self.count == self.script.loops_at and body.get("repetition_detection"):
            self.finish_reason, self.stop_reason = "repetition", "repetition_detected"
        if self.finish_reason is None and self.count >= self.limit:
            self.finish_reason = "length"

    def _match_stop(self, text: str) -> None:
        begin = len(self.text) - max(map(len, self.job.stop), default=1) + 1
        self.text += text
        found = [(place, stop) for stop in self.job.stop if (place := self.text.find(stop, max(begin, 0))) >= 0]
        if found:
            place, stop = min(found)
            self.finish_reason, self.stop_reason = "stop", stop
            keep = self.job.body.get("include_stop_str_in_output", False)
            self.text = self.text[: place + len(stop) if keep else place]

    def _release(self) -> list[tuple[Channel, str]]:
        until = len(self.text) - (0 if self.finish_reason else self.held)
        parts: list[tuple[Channel, str]] = []
        place = 0
        for channel, text in self.spans:
            piece = text[max(self.released - place, 0) : max(until - place, 0)]
            place += len(text)
            if piece:
                parts.append((channel, piece))
        self.released = max(until, self.released)
        return parts


async def generate(job: Job) -> AsyncIterator[Delta]:
    """Run all choices side by side. Leaving the iteration early stops the work."""
    settings = job.settings
    interval = max(settings.tokens_per_chunk, job.body.get("stream_interval") or 1)
    live = [Choice(job, index) for index in range(job.choices * len(job.prompts))]
    await asyncio.sleep(settings.prefill_s)
    size = 1
    while live:
        await asyncio.sleep(settings.token_s * size)
        for choice in list(live):
            delta = choice.advance(size)
            if delta.finish_reason is not None:
                live.remove(choice)
            yield delta
        size = interval
    job.received.complete = True


def flat(parts: list[tuple[Channel, str]]) -> str:
    """The text of all channels, as an API without parsers shows it."""
    return "".join(text for _, text in parts)


def entries(job: Job, delta: Delta) -> list[dict[str, Any]]:
    """Log-probabilities of a delta's tokens in the chat API's shape: the chosen token first, then alternatives."""
    found = []
    for token in delta.tokens:
        named = job.body.get("logprob_token_ids")
        others = [tokenizer.piece_of(number) for number in named or ()] or [f" other{rank}" for rank in range(1, 21)]
        text = token.text or tokenizer.piece_of(token.id)
        best = _entry(text, delta.logprob)
        count = len(others) if named else (job.logprobs or 0) - 1
        top = [
            _entry(other, _logprob_of(other, rank, delta))
            for rank, other in enumerate(others[: max(count, 0)], start=1)
        ]
        found.append({**best, "top_logprobs": [best, *top] if named or job.logprobs else []})
    return found


def _logprob_of(text: str, rank: int, delta: Delta) -> float:
    told = delta.close_logprob if text == tokenizer.CLOSE_THINK else None
    return delta.logprob - rank if told is None else told


def _entry(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
