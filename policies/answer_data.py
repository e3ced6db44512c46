"""Readers of structured answers: JSON values, tool calls, code.

Each reduces a value to a text that equal values share. Work is linear in the text's end, but for a bounded number of
tries at where JSON begins. What must not be here: votes, and answers in prose.
"""

from __future__ import annotations

import io
import json
import re
import tokenize
from typing import Any

from suffice.policies.answer_text import MOST_PLACES, answer_part


class JsonReader:
    """A JSON value, in a canonical form: keys sorted, numbers in one form (``1.0`` is ``1``), no spacing.

    The last fenced block that holds JSON counts, else the first object or array in the text.

    Args:
        fields: Names, with commas between them, of the top-level fields to compare; all where it is empty.
        exclude: Names of fields to leave out, at any depth.
    """

    def __init__(self, *, fields: str, exclude: str) -> None:
        self._fields = _names(fields)
        self._exclude = _names(exclude)

    def read(self, text: str) -> str | None:
        """The value as canonical JSON."""
        value = find_json(answer_part(text))
        if value is _NOTHING:
            return None
        if self._fields and isinstance(value, dict):
            value = {key: item for key, item in value.items() if key in self._fields}
        try:
            return canonical_json(value, self._exclude)
        except RecursionError:
            return None


class ToolCallReader:
    """Tool calls: their names and canonical arguments, in order.

    Takes OpenAI's ``tool_calls`` as JSON (a list, or a message that holds it), a single ``{"name", "arguments"}``, and
    calls that models write as ``<tool_call>{...}</tool_call>``. Arguments may be an object or its JSON text.

    Args:
        exclude: Names of argument fields to leave out, such as a free-text explanation.
    """

    def __init__(self, *, exclude: str) -> None:
        self._exclude = _names(exclude)

    def read(self, text: str) -> str | None:
        """``[[name, arguments], ...]`` as canonical JSON."""
        text = answer_part(text)
        written = re.findall(r"<tool_call>(.*?)(?:</tool_call>|$)", text, re.DOTALL)[:64]
        values = [find_json(part) for part in written] if written else [find_json(text)]
        calls = []
        for value in values:
            found = value.get("tool_calls", value) if isinstance(value, dict) else value
            for item in found if isinstance(found, list) else [found]:
                call = self._call(item)
                if call is None:
                    return None
                calls.append(call)
        return f"[{','.join(calls)}]" if calls else None

    def _call(self, item: Any) -> str | None:
        function = item.get("function", item) if isinstance(item, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return None
        arguments = function.get("arguments", function.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = _parsed(arguments.strip() or "{}")
            if arguments is _NOTHING:
                return None
        try:
            return f"[{json.dumps(function['name'])},{canonical_json(arguments, self._exclude)}]"
        except RecursionError:
            return None


class CodeReader:
    """Code, without regard to comments and layout: the last fenced block, else all of the text.

    Python is compared by its tokens, with comments and blank lines left out and any indentation that means the same
    taken as the same; what Python cannot tokenise, and other languages, by their text with spacing squeezed.
    Docstrings count, as they are strings.
    """

    def read(self, text: str) -> str | None:
        """The normalised code."""
        language, code = _last_code(text)
        if language in {"", "py", "python", "python3"}:
            tokens = _python_tokens(code)
            if tokens is not None:
                return tokens or None
        return " ".join(code.split()) or None


def _last_code(text: str) -> tuple[str, str]:
    text = answer_part(text)
    fences = _fenced(text)
    return fences[-1] if fences else ("", text)


def code_of(text: str) -> str:
    """The code in an answer as it stands: its last fenced block, else all of it."""
    return _last_code(text)[1]


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _fenced(text: str) -> list[tuple[str, str]]:
    """Language and content of the fenced blocks, in order; one that is not closed runs to the end."""
    blocks = []
    parts = text.split("```")
    for part in parts[1::2]:
        head, newline, body = part.partition("\n")
        blocks.append((head.strip().lower(), body) if newline else ("", head))
    return blocks


_OPENING = re.compile(r"[{\[]")
_NOTHING = object()
"""Where no JSON was found; null is JSON."""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _parsed(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return _NOTHING


_MOST_STARTS = 4
"""Brackets at which a JSON value within prose is looked for."""


def find_json(text: str) -> Any:
    """The JSON value of a text, or a mark for none: all of it, its last fenced block that is JSON, or a part of it."""
    value = _parsed(text.strip())
    if value is not _NOTHING:
        return value
    for _, body in reversed(_fenced(text)[-MOST_PLACES:]):
        value = _parsed(body.strip())
        if value is not _NOTHING:
            return value
    start = 0
    for _ in range(_MOST_STARTS):
        match = _OPENING.search(text, start)
        if match is None:
            break
        try:
            return _DECODER.raw_decode(text, match.start())[0]
        except (ValueError, RecursionError):
            start = match.end()
    return _NOTHING


def found(value: Any) -> bool:
    """Whether ``find_json`` found a value."""
    return value is not _NOTHING


def canonical_json(value: Any, exclude: frozenset[str]) -> str:
    """A JSON value as text that equal values share; fields named in ``exclude`` are left out at any depth."""
    return json.dumps(_reduced(value, exclude), sort_keys=True, separators=(",", ":"))


def _reduced(value: Any, exclude: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {key: _reduced(item, exclude) for key, item in value.items() if key not in exclude}
    if isinstance(value, list):
        return [_reduced(item, exclude) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}


def _python_tokens(code: str) -> str | None:
    tokens = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(code.strip("\n") + "\n").readline):
            if token.type == tokenize.ERRORTOKEN:
                return None
            if token.type == tokenize.INDENT:
                tokens.append("{")
            elif token.type == tokenize.DEDENT:
                tokens.append("}")
            elif token.type == tokenize.NEWLINE:
                tokens.append(";")
            elif token.type not in _LAYOUT:
                tokens.append(token.string)
    except (tokenize.TokenError, SyntaxError, RecursionError, ValueError):
        return None
    return " ".join(tokens)
