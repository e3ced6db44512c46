"""A toy tokenizer that loses nothing: pieces get ids as they are met, and ids turn back into their pieces.

The numbering is shared by all fakes of one process, so ids may travel between them.
"""

from __future__ import annotations

import re
import threading
from typing import Any, Final

VOCABULARY: Final = 1_000_000
"""Ids from here on are out of vocabulary."""

END: Final = "<|end|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
THINK: Final = "<think>"
CLOSE_THINK: Final = "</think>"

_PIECE = re.compile(r"</?think>|<\|[a-z]+\|>|\n| ?\w+| ?[^\w\s]|\s", re.DOTALL)
_lock = threading.Lock()
_pieces: list[str] = ["", END, USER, ASSISTANT, THINK, CLOSE_THINK]
_ids: dict[str, int] = {piece: number for number, piece in enumerate(_pieces)}


def id_of(piece: str) -> int:
    """The id of one piece, new if it was never met."""
    with _lock:
        if piece not in _ids:
            _ids[piece] = len(_pieces)
            _pieces.append(piece)
        return _ids[piece]


def piece_of(number: int) -> str:
    """The piece behind an id; ids that were never given out read as a replacement character."""
    return _pieces[number] if 0 <= number < len(_pieces) else "\ufffd"


def split(text: str) -> list[str]:
    """Cut text into pieces that join to the same text."""
    return _PIECE.findall(text)


def encode(text: str) -> list[int]:
    """Ids of a text."""
    return [id_of(piece) for piece in split(text)]


def decode(ids: list[int]) -> str:
    """Text of ids."""
    return "".join(piece_of(number) for number in ids)


def text_of(content: Any) -> str:
    """The text in a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def render(
    messages: list[dict[str, Any]],
    *,
    tools: Any = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    opens_thought: bool = True,
    thinks: bool = True,
) -> list[int]:
    """The chat template: one marker a message, and the thought opened for the model where it thinks."""
    text = f"{USER}tools {len(tools)}{END}" if tools else ""
    for message in messages:
        marker = ASSISTANT if message.get("role") == "assistant" else USER
        text += f"{marker}{text_of(message.get('content'))}{END}"
    if continue_final_message:
        text = text.removesuffix(END)
    elif add_generation_prompt:
        text += ASSISTANT + (THINK + CLOSE_THINK if not thinks else THINK if opens_thought else "")
    return encode(text)
