"""The KV arithmetic against the installed vLLM's own code. Skipped where the engine's environment is absent."""

import json
import subprocess
from pathlib import Path

import pytest
from suffice.policies.memory.kv import kv_model
from suffice.policies.memory.layers import Keeps, held_blocks

from .kv_configs import CONFIGS

ROOT = Path(__file__).parents[3]
ENGINE = ROOT / ".venv-engine" / "bin" / "python"
pytestmark = [pytest.mark.live, pytest.mark.skipif(not ENGINE.exists(), reason="no engine environment")]

CASES = [
    *({"name": name} for name in CONFIGS if name != "mamba2-2.7b"),
    {"name": "mamba2-2.7b", "mode": "none"},  # vLLM caches no prefixes of a model without attention
    {"name": "llama-3.1-8b", "tp": 4},
    {"name": "qwen2-no-window", "tp": 4},
    {"name": "gemma-3-27b", "tp": 2, "longest": 131072},
    {"name": "nemotron-h-8b", "tp": 2},
    {"name": "qwen3-next-80b", "mode": "none"},
    {"name": "mamba2-2.7b", "tp": 2, "mode": "none"},
    *({"name": "llama-3.1-8b", "cache_dtype": kind} for kind in ("fp8", "int8_per_token_head", "nvfp4")),
    *({"name": "gemma-2-9b", "cache_dtype": kind} for kind in ("int4_per_token_head", "fp8_per_token_head")),
    *({"name": "deepseek-v3", "cache_dtype": kind} for kind in ("fp8", "fp8_ds_mla", "nvfp4_ds_mla")),
    {"name": "deepseek-v3", "cache_dtype": "int8_per_token_head", "tp": 8},
]
HELD = [["full", 0, 300, 60], ["window", 100, 300, 90], ["window", 64, 10, 120], ["chunk", 128, 300, 200]]
SAMPLES = [[320, 4], [321, 4], [5, 3], [16, 2], [17, 2]]


@pytest.fixture(scope="module")
def vllm():
    asked = json.dumps({"figures": CASES, "held": HELD, "samples": SAMPLES})
    script = Path(__file__).parent / "vllm_figures.py"
    done = subprocess.run([ENGINE, script], input=asked, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("index", range(len(CASES)), ids=["-".join(map(str, case.values())) for case in CASES])
def test_groups_blocks_and_capacity_are_vllms(vllm, index):
    case, theirs = CASES[index], vllm["figures"][index]
    kv = kv_model(
        CONFIGS[case["name"]],
        cache_type=case.get("cache_dtype", "auto"),
        tensor_parallel=case.get("tp", 1),
        prefix_caching=case.get("mode") != "none",
    )
    assert len(kv.groups) == theirs["groups"]
    assert kv.block_bytes == theirs["block_bytes"]
    blocks = kv.pool_blocks(40 * 2**30)
    assert blocks == theirs["blocks"]
    longest = case.get("longest", 32768)
    assert kv.concurrency(blocks, longest) == pytest.approx(theirs["concurrency"], rel=1e-12)
    assert abs(kv.size_tokens(blocks, longest) - theirs["size_tokens"]) <= 1
    assert kv.longest_context(blocks, 1) == theirs["longest_one"]


@pytest.mark.parametrize("index", range(len(HELD)), ids=["-".join(map(str, case)) for case in HELD])
def test_held_blocks_are_those_of_a_real_block_manager(vllm, index):
    kind, span, prompt, generated = HELD[index]
    ours = [held_blocks(Keeps(kind), span, 16, prompt + made) for made in range(1, generated + 1)]
    assert ours == vllm["held"][index]


@pytest.mark.parametrize("index", range(len(SAMPLES)), ids=["-".join(map(str, case)) for case in SAMPLES])
def test_samples_of_one_prompt_share_what_a_real_block_manager_shares(vllm, index):
    prompt, samples = SAMPLES[index]
    kv = kv_model(CONFIGS["llama-3.1-8b"])
    assert kv.blocks_for_samples(prompt, (0,) * samples) == vllm["samples"][index]
