"""What a request held of the cache: the same as counting blocks moment by moment, shared blocks once."""

import pytest
from suffice.policies.memory.block_seconds import Timings
from suffice.policies.memory.holding import Holding, full_attention

KV = full_attention(16)


def counted(prompt, generated, prefill_s, token_s):
    """Block-seconds, summed step by step."""
    total = -(-prompt // 16) * prefill_s
    for step in range(1, generated + 1):
        total += -(-(prompt + step) // 16) * token_s
    return total


def run(holding, sample, at, prompt, generated, *, prefill_s=1.0, token_s=0.5, fresh=True):
    """One generation, whose first token comes with the end of its prefill; returns its end."""
    holding.opened(sample, at, prompt, fresh=fresh)
    for step in range(generated):
        holding.grew(sample, at + prefill_s + step * token_s, 1)
    return at + prefill_s + (generated - 1) * token_s


def test_a_sample_by_the_gateways_own_clock():
    holding = Holding(KV)
    end = run(holding, 0, 10.0, 100, 40)
    holding.closed(0, end)
    # The first token comes with the prompt, so that 39 steps are spread over 40 tokens.
    assert holding.total(end) == pytest.approx(counted(100, 40, 1.0, 39 * 0.5 / 40))
    assert holding.total(end + 100) == holding.total(end)


def test_the_engines_times_count():
    holding = Holding(KV)
    end = run(holding, 0, 0.0, 100, 40)
    holding.timed(0, Timings(prefill_s=0.25, decode_s=4.0))
    holding.closed(0, end)
    assert holding.total(end) == pytest.approx(counted(100, 40, 0.25, 0.1))


def test_a_running_sample_is_counted_so_far():
    holding = Holding(KV)
    holding.opened(0, 5.0, 160, fresh=True)
    assert holding.total(7.0) == pytest.approx(20.0)
    holding.grew(0, 7.0, 1)
    holding.grew(0, 8.0, 1)
    assert holding.total(8.0) == pytest.approx(20.0 + 11.0)


def test_what_samples_share_counts_once():
    both, one = Holding(KV), Holding(KV)
    for holding, samples in ((both, (0, 1)), (one, (0,))):
        for sample in samples:
            end = run(holding, sample, 0.0, 161, 32)
        for sample in samples:
            holding.closed(sample, end)
    shared = 10 * (1.0 + 31 * 0.5)
    assert both.total(99) == pytest.approx(2 * one.total(99) - shared)


def test_samples_one_after_the_other_share_nothing_of_their_time():
    late, one = Holding(KV), Holding(KV)
    one.closed(0, run(one, 0, 0.0, 161, 32))
    for sample, at in ((0, 0.0), (1, 100.0)):
        late.closed(sample, run(late, sample, at, 161, 32))
    assert late.total(999) == pytest.approx(2 * one.total(999))


def test_a_pause_costs_nothing_and_going_on_costs_what_it_holds():
    holding = Holding(KV)
    end = run(holding, 0, 0.0, 100, 10)
    holding.closed(0, end)
    before = holding.total(end)
    assert holding.total(end + 50) == before
    end = run(holding, 0, end + 50, 110, 10, fresh=False)
    so_far = holding.total(end)
    holding.closed(0, end)
    assert holding.total(end) == pytest.approx(so_far)
    assert holding.total(end) == pytest.approx(before + counted(110, 10, 1.0, 9 * 0.5 / 10))


def test_prompts_of_different_lengths_share_nothing():
    holding, apart = Holding(KV), []
    for sample, prompt in enumerate((161, 321)):
        alone = Holding(KV)
        for each in (holding, alone):
            each.closed(sample, run(each, sample, 0.0, prompt, 16))
        apart.append(alone.total(99))
    assert holding.total(99) == pytest.approx(sum(apart))


def test_nothing_held_is_nothing():
    holding = Holding(KV)
    assert holding.total(5.0) == 0
    holding.closed(3, 5.0)
    holding.timed(3, Timings(prefill_s=1, decode_s=1))
    assert holding.total(5.0) == 0
