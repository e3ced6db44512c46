"""A real configuration of a small model that has no weights, and what requests of it ask for."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import torch
from suffice.server.engine.plugin.table import SignalTable
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.worker.gpu import buffer_utils

START, END, EOS, WORD, VOCABULARY = 1, 2, 3, 9, 40
PROMPT = [WORD, START]
CAP = {"suffice_think_start": START, "suffice_think_end": END}
WORK = Path(os.environ["SUFFICE_ENGINE_TABLE"]).parents[1]
CPU = torch.device("cpu")
buffer_utils.is_uva_available = lambda: False  # its buffers then copy, as where memory cannot be pinned


def config(**changes):
    """A real configuration of a small model that has no weights."""
    folder = WORK / "model"
    folder.mkdir(exist_ok=True)
    shape = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 64,
        "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "torch_dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(shape))
    given = {"model": str(folder), "skip_tokenizer_init": True, "max_model_len": 256, "gpu_memory_utilization": 0.1}
    return EngineArgs(**given | changes).create_engine_config()


CONFIG = config()


def params(extra=None, **given):
    made = SamplingParams(max_tokens=100, extra_args=extra, **given)
    made._eos_token_id = EOS
    return made


def ticket():
    return {"suffice_slot": secrets.randbelow(4096), "suffice_nonce": secrets.randbelow(2**53 - 1) + 1}


def refusal(kind, call, *given):
    """The message of the error that a call must raise."""
    try:
        call(*given)
    except kind as error:
        return str(error)
    raise AssertionError(given)


def table():
    return SignalTable.open(Path(os.environ["SUFFICE_ENGINE_TABLE"]))
