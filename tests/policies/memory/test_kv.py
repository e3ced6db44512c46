import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suffice.policies.errors import UnknownModel
from suffice.policies.memory.block_seconds import (
    Timings,
    block_seconds,
    closed_form,
    held_sum,
    samples_block_seconds,
    worst_block_seconds,
)
from suffice.policies.memory.cache_types import attention_bytes, latent_bytes
from suffice.policies.memory.capacity import capacity_from_labels
from suffice.policies.memory.families import layer_caches
from suffice.policies.memory.grouping import form_groups
from suffice.policies.memory.kv import kv_model
from suffice.policies.memory.layers import Keeps

from .kv_configs import CONFIGS

MIB = 2**20


@pytest.mark.parametrize(
    ("name", "block_size", "block_bytes"),
    [
        pytest.param("llama-3.1-8b", 16, 2 * MIB, id="llama"),
        pytest.param("qwen3-0.6b", 16, 1.75 * MIB, id="qwen3"),
        pytest.param("deepseek-v2-lite", 64, 27 * 576 * 2 * 64, id="latent"),
    ],
)
def test_published_block_sizes(name, block_size, block_bytes):
    assert kv_model(CONFIGS[name], block_size=block_size).block_bytes == block_bytes


def test_a_token_of_llama_8b_takes_128_kib():
    assert kv_model(CONFIGS["llama-3.1-8b"]).token_bytes == 128 * 1024


@pytest.mark.parametrize(
    ("cache_type", "token"),
    [("auto", 4096), ("fp8", 2048), ("int8_per_token_head", 2112), ("int4_per_token_head", 1088), ("nvfp4", 1152)],
)
def test_bytes_by_cache_type(cache_type, token):
    assert attention_bytes(8, 128, 128, cache_type) == token


@pytest.mark.parametrize(
    ("cache_type", "token"), [("auto", 1152), ("fp8_ds_mla", 656), ("nvfp4_ds_mla", 352), ("int4_per_token_head", 296)]
)
def test_latent_bytes_by_cache_type(cache_type, token):
    assert latent_bytes(576, cache_type) == token


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda: attention_bytes(1, 64, 64, "fp8_ds_mla"), id="latent type for attention"),
        pytest.param(lambda: latent_bytes(576, "nvfp4"), id="attention type for latent"),
        pytest.param(lambda: attention_bytes(1, 64, 64, "int3"), id="no such type"),
        pytest.param(lambda: kv_model({"model_type": "x"}), id="no layers"),
        pytest.param(lambda: kv_model({"model_type": "x", "num_hidden_layers": 2}), id="no heads"),
        pytest.param(lambda: kv_model({"layer_types": ["spiral"], "num_hidden_layers": 1}), id="unknown layer"),
        pytest.param(lambda: kv_model({"layer_types": ["mamba"], "num_hidden_layers": 1}), id="no state size"),
        pytest.param(lambda: kv_model({"compress_ratios": [4], "num_hidden_layers": 1}), id="compressed"),
        pytest.param(lambda: kv_model({"model_type": "minicpm3", "num_hidden_layers": 1}), id="minicpm3"),
    ],
)
def test_what_is_not_known_is_refused(ask):
    with pytest.raises(UnknownModel):
        ask()


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        pytest.param({**CONFIGS["gemma-3-27b"]}, {"window": 52, "full": 10}, id="gemma3"),
        pytest.param(
            {"text_config": CONFIGS["gemma-3-27b"], "model_type": "gemma3"}, {"window": 52, "full": 10}, id="vlm"
        ),
        pytest.param(CONFIGS["qwen2-no-window"], {"full": 24}, id="window off"),
        pytest.param(
            {**CONFIGS["qwen2-no-window"], "use_sliding_window": True}, {"full": 21, "window": 3}, id="window on top"
        ),
        pytest.param({**CONFIGS["llama-4-scout"], "attention_chunk_size": None}, {"full": 48}, id="no chunks"),
        pytest.param(
            {**CONFIGS["llama-4-scout"], "no_rope_layers": [1, 0] * 24}, {"chunk": 24, "full": 24}, id="listed"
        ),
        pytest.param(CONFIGS["nemotron-h-8b"], {"state": 24, "full": 4}, id="nemotron"),
        pytest.param(CONFIGS["jamba-mini"], {"state": 28, "full": 4}, id="jamba"),
        pytest.param(CONFIGS["falcon-h1-1.5b"], {"state": 24, "full": 24}, id="both"),
        pytest.param(
            {
                **CONFIGS["llama-3.1-8b"],
                "model_type": "bamba",
                "attn_layer_indices": [9, 18],
                "mamba_n_heads": 128,
                "mamba_d_head": "auto",
            },
            {"state": 30, "full": 2},
            id="bamba",
        ),
        pytest.param(
            {**CONFIGS["llama-3.1-8b"], "model_type": "lfm2", "full_attn_idxs": [2, 5], "conv_L_cache": 3},
            {"state": 30, "full": 2},
            id="lfm2",
        ),
        pytest.param(
            {
                **CONFIGS["deepseek-v2-lite"],
                "model_type": "kimi_linear",
                "linear_attn_config": {
                    "kda_layers": [1, 2, 3],
                    "full_attn_layers": [4],
                    "num_heads": 32,
                    "head_dim": 128,
                },
                "num_hidden_layers": 4,
            },
            {"state": 3, "full": 1},
            id="kimi",
        ),
        pytest.param(
            {
                **CONFIGS["llama-3.1-8b"],
                "model_type": "zamba2",
                "layers_block_type": ["mamba"] * 30 + ["hybrid"] * 2,
                "n_mamba_heads": 64,
                "mamba_ngroups": 2,
                "mamba_d_state": 64,
            },
            {"state": 32, "full": 2},
            id="zamba2",
        ),
        pytest.param(
            {"model_type": "mamba", "num_hidden_layers": 3, "hidden_size": 768, "state_size": 16, "conv_kernel": 4},
            {"state": 3},
            id="mamba",
        ),
        pytest.param({**CONFIGS["llama-3.1-8b"], "num_kv_shared_layers": 12}, {"full": 20}, id="shared layers"),
        pytest.param({"n_layer": 12, "n_embd": 768, "n_head": 12}, {"full": 12}, id="gpt2"),
    ],
)
def test_families_are_told_apart_by_their_fields(config, kinds):
    found = {}
    for cache in layer_caches(config):
        found[cache.keeps.value] = found.get(cache.keeps.value, 0) + 1
    assert found == kinds


def test_an_indexer_keeps_keys_of_its_own():
    config = {**CONFIGS["deepseek-v3"], "index_topk": 2048, "index_head_dim": 128}
    plain, indexed = kv_model(CONFIGS["deepseek-v3"]), kv_model(config)
    assert indexed.block_bytes - plain.block_bytes == 61 * 16 * 132


def test_wider_heads_of_global_layers():
    config = {
        **CONFIGS["gemma-3-27b"],
        "model_type": "gemma4_text",
        "global_head_dim": 512,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 4,
    }
    full = next(cache for cache in layer_caches(config) if cache.keeps is Keeps.FULL)
    assert full.token_bytes == 2 * 4 * 512 * 2


@pytest.mark.parametrize(
    ("quantisation", "token"),
    [
        ({"kv_cache_scheme": {"num_bits": 8}}, 2048),
        ({"kv_cache_scheme": {"num_bits": 4}}, 1152),
        ({"quantization": {"kv_cache_quant_algo": "FP8"}}, 2048),
        ({"kv_cache_quant_algo": "NVFP4"}, 1152),
        ({"quant_method": "awq"}, 4096),
    ],
)
def test_auto_follows_the_checkpoint(quantisation, token):
    config = {**CONFIGS["llama-3.1-8b"], "quantization_config": quantisation}
    assert layer_caches(config)[0].token_bytes == token


def test_more_devices_than_heads_replicate_heads():
    assert layer_caches(CONFIGS["qwen2-no-window"], tensor_parallel=8)[0].token_bytes == 2 * 64 * 2


def test_latent_pages_beside_others_that_do_not_divide_are_refused():
    latent = layer_caches(CONFIGS["deepseek-v3"])[0]
    window = layer_caches({**CONFIGS["mistral-7b-v0.1"], "head_dim": 96})[0]
    with pytest.raises(UnknownModel):
        form_groups([latent, window])


def test_hybrids_of_latent_attention_take_blocks_of_at_least_128_tokens():
    config = {
        **CONFIGS["deepseek-v2-lite"],
        "linear_attn_config": {"kda_layers": [1, 2, 3], "full_attn_layers": [4], "num_heads": 1, "head_dim": 64},
        "num_hidden_layers": 4,
    }
    assert {group.block_size for group in kv_model(config).groups} == {128}


def test_pages_that_divide_are_made_equal_by_larger_blocks():
    wide = layer_caches({**CONFIGS["mistral-7b-v0.1"], "num_key_value_heads": 16, "num_hidden_layers": 2})
    narrow = layer_caches({**CONFIGS["llama-3.1-8b"], "num_hidden_layers": 2})
    assert [(group.keeps.value, group.block_size) for group in form_groups([*wide, *narrow])] == [
        ("window", 16),
        ("full", 32),
    ]


def test_groups_of_a_state_need_a_whole_group_on_each_device():
    one = layer_caches(CONFIGS["mamba2-2.7b"])[0].state_bytes
    two = layer_caches(CONFIGS["mamba2-2.7b"], tensor_parallel=2)[0].state_bytes
    assert one / 2 < two


def test_wider_global_heads_without_fewer_of_them():
    config = {**CONFIGS["gemma-3-27b"], "global_head_dim": 256}
    full = next(cache for cache in layer_caches(config) if cache.keeps is Keeps.FULL)
    assert full.token_bytes == 2 * 16 * 256 * 2


def test_one_head_for_all_queries():
    falcon = {**CONFIGS["llama-3.1-8b"], "multi_query": True, "num_key_value_heads": None}
    assert layer_caches(falcon)[0].token_bytes == 2 * 128 * 2
    newer = {**falcon, "new_decoder_architecture": True, "num_kv_heads": 8}
    assert layer_caches(newer)[0].token_bytes == 2 * 8 * 128 * 2


def test_a_named_cache_type_stands_above_the_checkpoints():
    config = {**CONFIGS["llama-3.1-8b"], "quantization_config": {"kv_cache_scheme": {"num_bits": 8}}}
    assert layer_caches(config, cache_type="bfloat16")[0].token_bytes == 4096


def test_a_model_that_keeps_nothing_takes_nothing():
    kv = kv_model({"layer_types": ["mlp"]})
    assert (kv.block_bytes, kv.blocks_for(100), kv.pool_blocks(10**9), kv.size_tokens(5, 100)) == (0, 0, 0, 0)
    assert kv.concurrency(10, 100) == float("inf")


def test_samples_share_the_prompts_full_blocks_only_with_prefix_caching():
    shared = kv_model(CONFIGS["llama-3.1-8b"])
    alone = kv_model(CONFIGS["llama-3.1-8b"], prefix_caching=False)
    assert shared.blocks_for_samples(1000, (24, 24, 24)) == 62 + 3 * 2
    assert alone.blocks_for_samples(1000, (24, 24, 24)) == 3 * 64
    assert shared.blocks_for_samples(1000, ()) == 0
    assert shared.shared_blocks(0) == 0


def test_the_longest_context_is_the_last_that_fits():
    kv = kv_model(CONFIGS["gemma-3-27b"])
    blocks = 30_000
    context = kv.longest_context(blocks, 3)
    assert kv.blocks_at(3, context) <= blocks - 1 < kv.blocks_at(3, context + 1)
    assert kv.longest_context(2, 3) == 0


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gemma-3-27b", "llama-4-scout", "nemotron-h-8b"])
@given(prompt=st.integers(0, 20_000), generated=st.integers(0, 400))
@settings(max_examples=25, deadline=None)
def test_the_exact_cost_is_the_sum_over_the_steps(name, prompt, generated):
    kv = kv_model(CONFIGS[name])
    timings = Timings(prefill_s=2.0, decode_s=generated * 0.5)
    steps = sum(kv.blocks_for(prompt, made) for made in range(1, generated + 1))
    expected = kv.blocks_for(prompt) * 2.0 + steps * 0.5
    assert block_seconds(kv, prompt, generated, timings) == pytest.approx(expected, rel=1e-9)


@given(st.sampled_from(Keeps), st.integers(1, 40), st.integers(1, 20), st.integers(0, 300), st.integers(0, 300))
def test_sums_of_held_blocks_in_closed_form(keeps, span, size, first, more):
    group = form_groups(layer_caches(CONFIGS["mistral-7b-v0.1"]))[0]
    group = type(group)(keeps=keeps, span=span, layers=1, block_size=size, page_bytes=1)
    last = first + more
    assert held_sum(group, first + 1, last) == sum(group.held(tokens) for tokens in range(first + 1, last + 1))


def test_the_closed_form_is_close_below_the_exact_cost():
    kv = kv_model(CONFIGS["llama-3.1-8b"])
    exact = block_seconds(kv, 4000, 2000, Timings(prefill_s=1.0, decode_s=60.0))
    closed = closed_form(4000, 2000, 16, 1.0, 0.03)
    assert closed < exact < closed + 61.0


def test_samples_side_by_side_pay_once_for_what_they_share():
    kv = kv_model(CONFIGS["llama-3.1-8b"])
    each = Timings(prefill_s=1.0, decode_s=9.0)
    one = block_seconds(kv, 1601, 16, each)
    four = samples_block_seconds(kv, 1601, [(16, each)] * 4)
    assert four == pytest.approx(4 * one - 3 * 100 * 10.0)
    assert samples_block_seconds(kv, 1601, []) == 0
    assert worst_block_seconds(kv, 1601, 16, 4, 1.0, 9.0 / 16) == pytest.approx(four)


LABELS = {
    "block_size": "16",
    "num_gpu_blocks": "1000",
    "kv_cache_size_tokens": "15000",
    "kv_cache_max_concurrency": "1.6",
    "effective_attention_block_size": "None",
    "enable_prefix_caching": "True",
    "cache_dtype": "auto",
}


def test_capacity_is_read_from_the_engines_labels():
    capacity = capacity_from_labels(LABELS)
    assert (capacity.usable_blocks, capacity.usable_tokens) == (937, 937 * 16)


def test_full_attention_alone_is_told_from_a_hybrid_by_the_longest_context():
    full = {**LABELS, "kv_cache_max_concurrency": str(1000 / 63), "kv_cache_size_tokens": str(int(1000 / 63 * 1000))}
    assert capacity_from_labels(full, longest=1000).usable_blocks == 999
    assert capacity_from_labels(full).usable_blocks == 992
    assert capacity_from_labels(LABELS, longest=1000).usable_blocks == 937


@pytest.mark.parametrize("missing", ["block_size", "num_gpu_blocks"])
def test_an_engine_that_says_too_little_has_no_known_capacity(missing):
    assert capacity_from_labels({**LABELS, missing: "None"}) is None


def test_without_a_size_in_tokens_the_blocks_count():
    capacity = capacity_from_labels({"block_size": "16", "num_gpu_blocks": "10"})
    assert capacity.usable_blocks == 9


@pytest.mark.parametrize("name", CONFIGS)
def test_settled_requests_hold_no_more_than_is_planned_for(name):
    kv = kv_model(CONFIGS[name])
    for longest in (1, 100, 5000, 40_000):
        lengths = {*range(max(longest - 40, 1), longest + 1), *range(1, min(longest, 40) + 1)}
        assert max(kv.blocks_for(tokens) for tokens in lengths) <= kv.settled_blocks(longest) <= kv.most_blocks(longest)
    assert kv.blocks_at(1, 5000) == kv.most_blocks(5000)
