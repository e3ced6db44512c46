"""The tokenizer of the tiny reasoning model: byte-level BPE whose digits stay apart, and its chat template.

All 256 bytes are in the vocabulary, so any text can be read and any JSON be written under guided decoding.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Iterable

VOCABULARY: Final = 512
MAX_LENGTH: Final = 2048
SPECIAL: Final = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
"""Marks that never show in text."""
SHOWN: Final = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Marks that parsers of reasoning and of tool calls look for in the text."""
PIECE: Final = r" ?[A-Za-z]+|[0-9]|\n|[^A-Za-z0-9\s]|\s"
"""What a token may span at most: a word with the space before it, a digit, or one other character."""

TEMPLATE: Final = """\
{%- macro text(content) -%}
  {%- if content is string -%}{{ content }}
  {%- elif content is iterable and content is not mapping -%}
    {%- for part in content -%}
      {%- if part is string -%}{{ part }}{%- elif part.text is defined -%}{{ part.text }}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
  {%- set said = text(message.content) -%}
  {%- if message.role == 'assistant' -%}
    {{- '<|assistant|>' -}}
    {%- if not loop.last -%}
      {{- said.split('</think>')[-1] -}}
    {%- else -%}
      {%- set thought = message.reasoning or message.reasoning_content -%}
      {%- if thought and '</think>' not in said -%}{{- '<think>' + thought + '</think>' -}}{%- endif -%}
      {{- said -}}
    {%- endif -%}
    {%- for call in message.tool_calls or [] -%}
      {%- set call = call.function or call -%}
      {{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' -}}
      {{- call.arguments if call.arguments is string else call.arguments | tojson -}}
      {{- '}\\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|end|>' -}}
  {%- elif message.role == 'tool' -%}
    {{- '<|user|>The tool says ' + said + '<|end|>' -}}
  {%- elif message.role in ['system', 'developer'] -%}
    {{- '<|system|>' + said + '<|end|>' -}}
  {%- else -%}
    {{- '<|user|>' + said + '<|end|>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|assistant|>' -}}
  {%- if enable_thinking is defined and not enable_thinking -%}{{- '<think></think>' -}}{%- endif -%}
{%- endif -%}
"""


def build(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn the merges from texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECE), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    marks = [AddedToken(mark, special=True, normalized=False) for mark in SPECIAL]
    marks += [AddedToken(mark, special=False, normalized=False) for mark in SHOWN]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=marks,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    marks_apart = re.compile("|".join(map(re.escape, (*SPECIAL, *SHOWN))))
    tokenizer.train_from_iterator((marks_apart.sub("\n", text) for text in texts), trainer)
    # The trainer makes every mark special; vLLM then hides those that its parsers look for.
    learnt = json.loads(tokenizer.to_str())
    for token in learnt["added_tokens"]:
        token["special"] = token["content"] in SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(learnt)),
        eos_token="<|end|>",
        pad_token="<|end|>",
        chat_template=TEMPLATE,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
