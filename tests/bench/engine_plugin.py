"""What the plugin costs: tokens a second of one vLLM, with the plugin taken out, idle, and at work.

Run by the engine's Python, with a Hugging Face folder as the model:

    .venv-engine/bin/python tests/bench/engine_plugin.py --model tests/tiny_model/weights --batch 1 --batch 16

One engine runs in this process, so that the processor can be taken out of its sampler and put back between rounds.
Every round runs each arm once, in an order of its own; an arm is compared with the plugin taken out in the same round.
Told are medians, and the ratio to it with a bootstrap interval over rounds: by the clock, and by what the process
computed, which a busy machine disturbs less. The median time that the plugin takes of a step is told beside it.
"""

# ruff: noqa: T201 - it prints what it measures
from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["VLLM_NO_USAGE_STATS"] = "1"
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from suffice.server.engine.plugin.processor import SufficeProcessor
from vllm import LLM, SamplingParams

ABSENT = "plugin taken out"
ARMS: dict[str, dict[str, Any] | None] = {
    ABSENT: None,
    "loaded, nobody asks": {},
    "all take signals": {"slot": True},
    "all run repetition": {"slot": True, "suffice_rules": "repetition:least=4096,max_pattern=64,min_count=64"},
    "all run engine_entropy": {"slot": True, "suffice_rules": "engine_entropy:threshold=0,variance=0"},
}
"""What every request of an arm asks for; rules are set so that none fires."""


class Bench:
    """One engine and the arms."""

    def __init__(self, model: str, tokens: int) -> None:
        self._llm = LLM(
            model=model,
            max_model_len=tokens + 64,
            gpu_memory_utilization=0.3,
            enforce_eager=True,
            enable_prefix_caching=False,
            seed=0,
        )
        self._tokens = tokens
        core = self._llm.llm_engine.engine_core.engine_core
        runner = core.model_executor.driver_worker.worker.model_runner
        self._processors = runner.input_batch.logitsprocs.non_argmax_invariant
        (self._plugin,) = [one for one in self._processors if isinstance(one, SufficeProcessor)]
        self._nonce = 0
        self._apply = self._plugin.apply
        self._plugin.apply = self._timed_apply
        self.step_us: list[float] = []
        """Microseconds that the plugin took of each step of the last run."""

    def run(self, arm: str, batch: int) -> tuple[float, float]:
        """Tokens of one arm by second of the clock, and by second of this process's own computing."""
        asked = ARMS[arm]
        self.step_us.clear()
        if asked is None:
            self._processors.remove(self._plugin)
        try:
            params = [self._params(asked or {}, slot) for slot in range(batch)]
            prompts = [{"prompt_token_ids": [9 + slot % 8] * 8} for slot in range(batch)]
            began, computed = time.perf_counter(), time.process_time()
            done = self._llm.generate(prompts, params, use_tqdm=False)
            took, computing = time.perf_counter() - began, time.process_time() - computed
        finally:
            if asked is None:
                self._processors.append(self._plugin)
        count = sum(len(one.outputs[0].token_ids) for one in done)
        assert count == batch * self._tokens, "a rule fired or a request ended early"
        return count / took, count / computing

    def _timed_apply(self, logits: Any, ctx: Any = None) -> Any:
        began = time.perf_counter()
        result = self._apply(logits, ctx)
        self.step_us.append((time.perf_counter() - began) * 1e6)
        return result

    def _params(self, asked: dict[str, Any], slot: int) -> SamplingParams:
        extra = {key: value for key, value in asked.items() if key != "slot"}
        if asked.get("slot"):
            self._nonce += 1
            extra |= {"suffice_slot": slot, "suffice_nonce": self._nonce}
        return SamplingParams(
            max_tokens=self._tokens, ignore_eos=True, temperature=1.0, seed=slot, extra_args=extra or None
        )


def interval(values: list[float], seed: int = 1) -> tuple[float, float]:
    """Bootstrap interval of 95 % of the median."""
    rng = random.Random(seed)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[1949]


def measure(bench: Bench, batch: int, rounds: int) -> list[dict[str, Any]]:
    """All arms at one batch size."""
    rates: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    step_us: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for arm in ARMS:
        bench.run(arm, batch)
    for number in range(rounds):
        order = list(ARMS)
        random.Random(number).shuffle(order)
        for arm in order:
            rates[arm].append(bench.run(arm, batch))
            step_us[arm] += bench.step_us
    told = []
    for arm, seen in rates.items():
        took = round(statistics.median(step_us[arm]), 1) if step_us[arm] else 0.0
        line: dict[str, Any] = {"batch": batch, "arm": arm, "rounds": rounds, "plugin_us_per_step": took}
        for column, by in enumerate(("clock", "computing")):
            ratios = [rate[column] / absent[column] for rate, absent in zip(seen, rates[ABSENT], strict=True)]
            line[by] = {
                "tokens_per_s": round(statistics.median(rate[column] for rate in seen), 1),
                "ratio": round(statistics.median(ratios), 4),
                "interval": [round(bound, 4) for bound in interval(ratios)],
            }
        told.append(line)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, action="append", help="requests at once; may be given several times")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each request")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bench = Bench(options.model, options.tokens)
    told = [line for batch in options.batch or [1, 16] for line in measure(bench, batch, options.rounds)]
    if options.json:
        print(json.dumps({"model": options.model, "tokens": options.tokens, "arms": told}))
        return
    for line in told:
        print(f"batch {line['batch']}, {line['arm']}: the plugin takes {line['plugin_us_per_step']} us a step")
        for by in ("clock", "computing"):
            low, high = line[by]["interval"]
            print(f"  by {by:10} {line[by]['tokens_per_s']:10.1f} tokens/s  x{line[by]['ratio']} ({low} to {high})")


if __name__ == "__main__":
    main()
