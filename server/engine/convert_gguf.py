"""Converts a GGUF file into a Hugging Face folder of bf16 safetensors. Run in the engine's environment.

Usage: python convert_gguf.py FOLDER FILE OUT
"""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def main(folder: str, file: str, out: str) -> None:
    """Read FOLDER/FILE, write OUT."""
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    quantization = GgufConfig(gguf_file=file, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.bfloat16, quantization_config=quantization
    )
    tokenizer.save_pretrained(out)
    model.save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
