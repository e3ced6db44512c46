"""Answers of samples and probes, read and told apart for the length of one request.

Texts live here and nowhere else of the deciding parts: rules see classes of equal answers by number. What must not be
here: the decision how many samples are enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from suffice.policies.answers import Classes

if TYPE_CHECKING:
    from suffice.policies.answers import Reader
    from suffice.server.gateway.dialects.base import Reading


@dataclass(slots=True)
class _Said:
    """What one sample answered so far: text, and tool calls by position."""

    text: list[str] = field(default_factory=list)
    calls: dict[int, list[str]] = field(default_factory=dict)


@dataclass(slots=True)
class Ballots:
    """The answers of one request.

    Attributes:
        reader: Reads an answer out of text.
        close_text: The text that closes a thought, where upstream shows it in the answer.
        classes: Tells which answers are the same.
    """

    reader: Reader
    close_text: str | None = None
    classes: Classes = field(default_factory=Classes)
    _said: dict[int, _Said] = field(default_factory=dict)

    def hear(self, sample: int, reading: Reading) -> None:
        """Take in what a frame added to a sample's answer."""
        said = self._said.get(sample)
        if said is None:
            said = self._said[sample] = _Said()
        if reading.answer_text:
            said.text.append(reading.answer_text)
        for call in reading.tool_calls or ():
            function = call.get("function") or {}
            pieces = said.calls.setdefault(call["index"], ["", ""])
            pieces[0] += function.get("name") or ""
            pieces[1] += function.get("arguments") or ""

    def text(self, sample: int) -> str:
        """The sample's answer: its text after the thought, or its tool calls as JSON."""
        said = self._said.get(sample)
        if said is None:
            return ""
        if said.calls:
            calls: list[dict[str, Any]] = [
                {"name": name, "arguments": arguments} for _, (name, arguments) in sorted(said.calls.items())
            ]
            return orjson.dumps(calls).decode()
        text = "".join(said.text)
        return text if self.close_text is None else text.rpartition(self.close_text)[2]

    def key(self, sample: int) -> str | None:
        """The sample's answer as equal answers have it; None where there is no answer to read."""
        return self.reader.read(self.text(sample))

    def vote(self, sample: int) -> int | None:
        """The class of the sample's answer; None where there is no answer to read."""
        return self.classes.of(self.key(sample))

    def classify(self, text: str) -> int | None:
        """The class of the answer in a text; None where there is none to read."""
        return self.classes.of(self.reader.read(text))

    def label(self, answer: int) -> str:
        """The answer of a class, as it was first read; for the client's receipt only."""
        return self.classes.keys[answer]
