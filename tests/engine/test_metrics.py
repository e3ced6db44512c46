"""Reading an engine's metrics page: new and old names, several engines, nonsense."""

import pytest
from suffice.server.engine.metrics import EngineState, read_state

CACHE = 'vllm:cache_config_info{block_size="16",enable_prefix_caching="True",engine="0",num_gpu_blocks="101"} 1.0\n'
NEW = """# HELP vllm:num_requests_running Number of requests.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:num_preemptions_total{engine="0",model_name="m"} 7.0
vllm:num_preemptions_created{engine="0",model_name="m"} 1.7e9
vllm:generation_tokens_total{engine="0",model_name="m"} 900.0
vllm:e2e_request_latency_seconds_bucket{le="0.5"} broken
"""
OLD = """vllm:num_requests_running{model_name="m"} 1.0
vllm:num_requests_waiting{model_name="m"} 0.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.25
vllm:num_preemptions{model_name="m"} 2.0
"""


def test_a_page_of_todays():
    state = read_state(NEW + CACHE, 5.0)
    assert (state.at, state.running, state.waiting, state.kv_usage) == (5.0, 3, 4, 0.5)
    assert (state.preemptions, state.generated) == (7, 900)
    assert state.capacity.usable_blocks == 100
    assert state.held_blocks == 50


def test_a_page_with_older_names():
    state = read_state(OLD, 0.0)
    assert (state.running, state.kv_usage, state.preemptions, state.generated) == (1, 0.25, 2, None)
    assert state.capacity is None
    assert state.held_blocks is None


def test_engines_behind_one_page_are_summed_and_their_shares_averaged():
    other = NEW.replace('engine="0"', 'engine="1"').replace("} 0.5", "} 0.1")
    state = read_state(NEW + other, 0.0)
    assert (state.running, state.waiting, state.preemptions) == (6, 8, 14)
    assert state.kv_usage == pytest.approx(0.3)


def test_nothing_told_is_nothing_known():
    assert read_state("", 1.0) == EngineState(at=1.0)


def test_what_is_wanted_must_be_readable():
    with pytest.raises(ValueError, match=r".+"):
        read_state("vllm:num_requests_running{} many\n", 0.0)
