from dataclasses import replace

import pytest
from suffice.policies.memory.planning import GIB, Wish, plan_kv

from .kv_configs import CONFIGS

LLAMA = CONFIGS["llama-3.1-8b"] | {"max_position_embeddings": 131072, "vocab_size": 128256, "intermediate_size": 14336}
WISH = Wish(memory=80 * GIB, weights=15 * GIB, context=32768, concurrency=64)


def test_the_pool_is_what_weights_and_activations_leave():
    plan = plan_kv(LLAMA, replace(WISH, overhead=2 * GIB, utilization=0.9))
    assert plan.pool == 72 * GIB - 17 * GIB
    assert plan.blocks == plan.pool // (2 << 20)


def test_what_is_said_to_fit_fits_and_one_more_does_not():
    plan = plan_kv(LLAMA, WISH)
    assert plan_kv(LLAMA, replace(WISH, concurrency=plan.concurrency)).fits
    assert not plan_kv(LLAMA, replace(WISH, concurrency=plan.concurrency + 1)).fits
    assert plan_kv(LLAMA, replace(WISH, context=plan.context)).fits
    assert not plan_kv(LLAMA, replace(WISH, context=plan.context + 16)).fits


@pytest.mark.parametrize("name", CONFIGS)
def test_following_any_advice_helps(name):
    wish = replace(WISH, concurrency=4096)
    plan = plan_kv(CONFIGS[name], wish)
    for change in plan.relaxed:
        assert (change.concurrency, change.context) > (plan.concurrency, plan.context)
    ranks = [(-change.concurrency, -change.context) for change in plan.relaxed]
    assert ranks == sorted(ranks)


def test_a_quantised_cache_of_full_width_is_not_advised_twice():
    changes = [change.change for change in plan_kv(LLAMA, replace(WISH, cache_type="fp8", utilization=0.95)).relaxed]
    assert not any("kv-cache-dtype" in change or "utilization" in change for change in changes)
    assert any("tensor-parallel-size 2" in change for change in changes)


def test_large_weights_are_advised_to_shrink():
    plan = plan_kv(LLAMA, replace(WISH, memory=24 * GIB))
    assert any("8-bit" in change.change for change in plan.relaxed)


@pytest.mark.parametrize(
    ("wish", "binding"),
    [
        (replace(WISH, concurrency=1), "nothing"),
        (WISH, "kv"),
        (replace(WISH, memory=8 * GIB), "weights"),
        (replace(WISH, context=1 << 20), "context"),
    ],
)
def test_the_binding_limit(wish, binding):
    plan = plan_kv(LLAMA, wish)
    assert plan.binding == binding
    assert plan.fits == (binding == "nothing")
    assert plan.why


def test_flags_repeat_the_wish():
    flags = plan_kv(
        LLAMA, replace(WISH, cache_type="fp8", tensor_parallel=2, block_size=32, prefix_caching=False)
    ).flags
    for flag in (
        "--kv-cache-dtype fp8",
        "--tensor-parallel-size 2",
        "--block-size 32",
        "--no-enable-prefix-caching",
        "--max-model-len 32768",
    ):
        assert flag in flags


def test_a_model_of_experts_is_estimated_by_what_runs_at_once():
    dense = plan_kv(LLAMA, WISH).overhead
    experts = LLAMA | {"moe_intermediate_size": 768, "num_experts_per_tok": 8}
    listed = LLAMA | {"intermediate_size": [14336, 100]}
    assert plan_kv(experts, WISH).overhead < dense
    assert plan_kv(listed, WISH).overhead == dense


def test_a_model_that_keeps_nothing_needs_no_pool():
    plan = plan_kv({"layer_types": ["mlp"]}, WISH)
    assert plan.binding == "weights" or plan.blocks == 0
