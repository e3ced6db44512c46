"""What the fake model says: a thought, an answer, perhaps a tool call, as lists of token texts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fake_vllm import tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call of a tool. ``hidden`` tokens of markup stand before the name, before and after the arguments."""

    name: str
    arguments: str
    hidden: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One sample in full, before any limit cuts it.

    Attributes:
        thought: Token texts of the thought; empty for a model that closes its thought at once.
        answer: Token texts of the answer. An empty text is a token that shows no text of its own.
        tool_calls: Calls that follow the answer.
        opens_thought: Opens a thought by itself where the template does not.
        endless: Never ends by itself: the last token is said again and again.
        endless_thought: Never closes its thought by itself: the last token is thought again and again.
        logprob: Log-probability of each chosen token.
        close_logprob: Log-probability of the token that closes a thought, where that is asked for.
        loops_at: Tokens of a choice at which the engine finds a loop, where a request has it look for one.
        engine_exit: Tokens of thought after which a rule in the engine closes it, where a request asks for one.
    """

    thought: tuple[str, ...] = ()
    answer: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    opens_thought: bool = True
    endless: bool = False
    endless_thought: bool = False
    logprob: float = -0.25
    close_logprob: float | None = None
    loops_at: int | None = None
    engine_exit: int | None = None

    @classmethod
    def of(cls, *, thought: str = "", answer: str = "", **more: Any) -> Script:
        """A script from texts, cut into tokens by the toy tokenizer."""
        return cls(thought=tuple(tokenizer.split(thought)), answer=tuple(tokenizer.split(answer)), **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a script may depend on.

    Attributes:
        seed: The request's seed plus the choice's index, as vLLM seeds them; without a seed the next number of a
            running count.
        index: The choice.
        prompt: The prompt as text.
        body: The request's body.
    """

    seed: int
    index: int
    prompt: str
    body: dict[str, Any] = field(repr=False)


Model = Callable[[Ask], Script]


def default_model(ask: Ask) -> Script:
    """Eleven tokens of thought and six of answer, alike for equal seeds."""
    digit = ask.seed % 10
    return Script.of(thought=f"I add the numbers one by one and get {digit} .", answer=f"The answer is {digit}.\n")


def fit(script: Script, body: dict[str, Any], tools: Any) -> Script:
    """The script bent to what the request forces on a model: one token, a tool call, or JSON of a schema."""
    if only := body.get("allowed_token_ids"):
        words = (tokenizer.piece_of(only[0]),)
        return Script(thought=words, answer=words, opens_thought=False, endless=True, endless_thought=True)
    choice = body.get("tool_choice", "auto" if tools else "none")
    if tools and choice == "none":
        return dataclasses.replace(script, tool_calls=())
    if tools and not script.tool_calls and choice != "auto":
        wanted = choice["function"]["name"] if isinstance(choice, dict) else tools[0]["function"]["name"]
        tool = next(tool["function"] for tool in tools if tool["function"]["name"] == wanted)
        arguments = json.dumps(example(tool.get("parameters") or {}))
        return dataclasses.replace(script, answer=(), tool_calls=(ToolCall(name=wanted, arguments=arguments),))
    form = body.get("response_format") or {}
    if form.get("type") in ("json_schema", "json_object"):
        schema = (form.get("json_schema") or {}).get("schema") or {"type": "object"}
        return dataclasses.replace(script, answer=tuple(tokenizer.split(json.dumps(example(schema)))))
    return script


def example(schema: dict[str, Any]) -> Any:
    """A small value that fits a JSON Schema of the simple kinds."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type", "object"):
        case "object":
            properties = schema.get("properties") or {}
            return {name: example(properties[name]) for name in schema.get("required", properties)}
        case "array":
            return [example(schema.get("items") or {"type": "string"})]
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "word"
