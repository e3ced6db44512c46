"""Checks of the processor that need torch and vLLM: run by the engine's Python, collected by ``test_processor``.

Prints one JSON object: each check's name with its traceback, or null. vLLM's own objects are used wherever they can be
made without a GPU: its loaders, its configuration, batch updates, the state and context of its second runner on the
CPU, its endpoint wiring and its key check.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import secrets
import sys
import tempfile
import traceback
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("VLLM_PLUGINS", None)
WORK = Path(tempfile.mkdtemp())
os.environ["SUFFICE_ENGINE_TABLE"] = str(WORK / "tables" / "one.signals")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402
from suffice.server.engine.plugin import processor as plugin  # noqa: E402
from suffice.server.engine.plugin.endpoints import SufficeEndpoints  # noqa: E402
from suffice.server.engine.plugin.measuring import measure  # noqa: E402
from suffice.server.engine.plugin.processor import SufficeProcessor  # noqa: E402
from suffice.server.engine.plugin.setting import EngineSetting  # noqa: E402
from suffice.server.engine.plugin.table import Action, SignalTable  # noqa: E402
from vllm import SamplingParams  # noqa: E402
from vllm.engine.arg_utils import EngineArgs  # noqa: E402
from vllm.exceptions import VLLMValidationError  # noqa: E402
from vllm.plugins import load_endpoint_plugins  # noqa: E402
from vllm.plugins.endpoint_plugins.interface import (  # noqa: E402
    EndpointPlugin,
    attach_endpoint_plugins,
    init_endpoint_plugins_state,
)
from vllm.v1.sample import logits_processor as first_loader  # noqa: E402
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality  # noqa: E402
from vllm.v1.worker.gpu import buffer_utils  # noqa: E402
from vllm.v1.worker.gpu.buffer_utils import StagedWriteTensor, UvaBackedTensor  # noqa: E402
from vllm.v1.worker.gpu.sample.logits_processor import loader as second_loader  # noqa: E402
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcRequestState  # noqa: E402

START, END, EOS, WORD, VOCABULARY = 1, 2, 3, 9, 40
PROMPT = [WORD, START]
CAP = {"suffice_think_start": START, "suffice_think_end": END}
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


class Runner:
    """A runner that steps requests whose model says WORD wherever it may; ``logits`` are what it computed last."""

    def __init__(self):
        self.requests: dict[str, dict] = {}
        self.seed = 0

    def fresh_logits(self, rows):
        self.seed += 1
        logits = torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(self.seed))
        logits[:, WORD] += 20
        return logits

    def outputs(self, name):
        return self.requests[name]["output"]

    def steps(self, count):
        for _ in range(count):
            self.step()


class First(Runner):
    def __init__(self):
        super().__init__()
        self.processor = SufficeProcessor(CONFIG, CPU, False)
        self.rows: list[str] = []

    def add(self, name, sampling, prompt=PROMPT, output=None):
        self.requests[name] = {"params": sampling, "prompt": prompt, "output": output if output is not None else []}
        self._enter(name)

    def _enter(self, name):
        one = self.requests[name]
        self.rows.append(name)
        added = [(len(self.rows) - 1, one["params"], one["prompt"], one["output"])]
        self._update(added=added)

    def remove(self, name):
        """As vLLM does: the last row moves into the gap."""
        index, last = self.rows.index(name), len(self.rows) - 1
        moved = [] if index == last else [(last, index, MoveDirectionality.UNIDIRECTIONAL)]
        self.rows[index] = self.rows[last]
        del self.rows[last]
        self._update(removed=[index], moved=moved)

    def come_back(self, name):
        self._enter(name)

    def swap(self, one, other):
        a, b = self.rows.index(one), self.rows.index(other)
        self.rows[a], self.rows[b] = other, one
        self._update(moved=[(a, b, MoveDirectionality.SWAP)])

    def _update(self, removed=(), added=(), moved=()):
        self.processor.update_state(BatchUpdate(len(self.rows), list(removed), list(added), list(moved)))

    def step(self, discard=()):
        self.processor.update_state(None)
        self.logits = self.fresh_logits(len(self.rows))
        self.raw = self.logits.clone()
        self.logits = self.processor.apply(self.logits)
        for row, name in enumerate(self.rows):
            if name not in discard:
                self.requests[name]["output"].append(int(self.logits[row].argmax()))


class Second(Runner):
    def __init__(self):
        super().__init__()
        self.state = LogitsProcRequestState(
            device=CPU, max_num_reqs=8, vocab_size=VOCABULARY,
            all_token_ids=StagedWriteTensor((8, 256), dtype=torch.int32, device=CPU),
            prompt_len=UvaBackedTensor(8, dtype=torch.int32), prefill_len=UvaBackedTensor(8, dtype=torch.int32),
            total_len=StagedWriteTensor(8, dtype=torch.int32, device=CPU),
        )  # fmt: skip
        self.processor = SufficeProcessor(CONFIG, self.state)
        self.free = list(range(8))
        self.slots: dict[str, int] = {}

    def add(self, name, sampling, prompt=PROMPT, output=None):
        self.requests[name] = {"params": sampling, "prompt": prompt, "output": output if output is not None else []}
        self._enter(name)

    def _enter(self, name):
        one = self.requests[name]
        slot = self.slots[name] = self.free.pop()
        tokens = one["prompt"] + one["output"]
        self.state.prompt_len.np[slot] = len(one["prompt"])
        self.state.prefill_len.np[slot] = len(tokens)
        self.state.all_token_ids.gpu[slot, : len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
        self.asked = self.processor.add_request(slot, one["params"])
        self.processor.apply_staged_writes()

    def remove(self, name):
        self.free.append(self.slots.pop(name))

    come_back = _enter

    def swap(self, one, other):
        """Rows are ordered anew each step; so are these."""
        order = list(self.slots)
        a, b = order.index(one), order.index(other)
        order[a], order[b] = order[b], order[a]
        self.slots = {name: self.slots[name] for name in order}

    def step(self, discard=()):
        names = list(self.slots)
        slots = np.array([self.slots[name] for name in names], dtype=np.int32)
        lengths, newest = [], []
        for name in names:
            tokens = self.requests[name]["prompt"] + self.requests[name]["output"]
            if name in discard:
                tokens = tokens[: self.state.prefill_len.np[self.slots[name]] - 1]
            lengths.append(len(tokens))
            newest.append(tokens[-1])
        mapping = torch.from_numpy(slots)
        context = LogitsContext(
            expanded_idx_mapping=mapping, idx_mapping=mapping, idx_mapping_np=slots,
            expanded_local_pos=torch.zeros_like(mapping), input_ids=torch.tensor(newest, dtype=torch.int32),
            pos=torch.tensor(lengths) - 1, seq_lens_upper_bound_np=np.array(lengths, dtype=np.int32),
        )  # fmt: skip
        self.logits = self.fresh_logits(len(names))
        self.raw = self.logits.clone()
        self.logits = self.processor.apply(self.logits, context)
        for row, name in enumerate(names):
            if name in discard:
                continue
            token = int(self.logits[row].argmax())
            one = self.requests[name]
            self.state.all_token_ids.gpu[self.slots[name], len(one["prompt"]) + len(one["output"])] = token
            one["output"].append(token)


def refusal(kind, call, *given):
    """The message of the error that a call must raise."""
    try:
        call(*given)
    except kind as error:
        return str(error)
    raise AssertionError(given)


def on_both(check):
    """The check runs on either runner's interface."""

    def run():
        for kind in (First, Second):
            check(kind())

    run.__name__ = check.__name__
    return run


def table():
    return SignalTable.open(Path(os.environ["SUFFICE_ENGINE_TABLE"]))


# -- the loaders


def check_the_first_runner_loads_it():
    loaded = first_loader._load_custom_logitsprocs(None)
    assert SufficeProcessor in loaded, loaded
    built = first_loader.build_logitsprocs(CONFIG, CPU, False, False)
    assert any(isinstance(one, SufficeProcessor) for one in built.non_argmax_invariant)


def check_the_second_runner_loads_it():
    assert SufficeProcessor in second_loader._load_v2_logitsprocs(None)
    runner = Second()
    states = SimpleNamespace(**{name: getattr(runner.state, name) for name in runner.state.__dataclass_fields__})
    built = second_loader.build_custom_logits_processors(CONFIG, states, is_pooling_model=False)
    assert [type(one) for one in built].count(SufficeProcessor) == 1


def check_both_take_it_by_name():
    name = "suffice.server.engine.plugin.processor:SufficeProcessor"
    assert first_loader._load_logitsprocs_by_fqcns([name]) == [SufficeProcessor]
    assert second_loader._load_v2_logitsprocs_by_fqcns([name]) == [SufficeProcessor]


def check_bad_arguments_are_refused_at_the_front_of_both_runners():
    second = second_loader.build_custom_logits_processors_params_validator(None)
    for extra in ({"suffice_slot": 1}, {"suffice_rules": "nothing"}, {"suffice_nonsense": 1}):
        for validate in (lambda p: first_loader.validate_logits_processors_parameters(None, p), second):
            assert "suffice" in refusal(VLLMValidationError, validate, params(extra))
    second(params())
    second(params({"other": 1}))
    second(params({"suffice_rules": "repetition", **ticket()}))


def check_a_slot_is_for_one_sample():
    assert "n must be 1" in refusal(ValueError, SufficeProcessor.validate_params, params(ticket(), n=2))
    SufficeProcessor.validate_params(params({"suffice_rules": "repetition"}, n=2))


def check_an_engine_that_cannot_refuses_who_asks_and_nobody_else():
    plugin.UNAVAILABLE.add("speculative_decoding")
    try:
        SufficeProcessor.validate_params(params())
        asks = params({"suffice_thinking_tokens": 1})
        assert "speculative_decoding" in refusal(ValueError, SufficeProcessor.validate_params, asks)
    finally:
        plugin.UNAVAILABLE.clear()


# -- the setting


def check_the_configuration_is_read():
    setting = EngineSetting.of(CONFIG)
    assert (setting.runner, setting.obstacles, setting.signal_obstacles, setting.marks, setting.ranks) == (
        "v1", (), (), None, 1,
    )  # fmt: skip
    assert setting.vocabulary == VOCABULARY


def check_speculative_decoding_is_an_obstacle():
    speculative = config(speculative_config={"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2})
    assert EngineSetting.of(speculative).obstacles == ("speculative_decoding",)
    processor = SufficeProcessor(speculative, Second().state)
    assert processor.add_request(0, params({"suffice_thinking_tokens": 1})) is False


def check_the_first_runner_with_hidden_tokens_is_an_obstacle():
    CONFIG.scheduler_config.async_scheduling = True
    try:
        assert EngineSetting.of(CONFIG).obstacles == ("asynchronous_scheduling",)
    finally:
        CONFIG.scheduler_config.async_scheduling = False


def check_the_marks_are_vllms_own():
    reasoning = SimpleNamespace(
        reasoning_start_token_ids=[1], reasoning_end_token_ids=[7, 2], natural_reasoning_end_token_ids=[2]
    )
    given = SimpleNamespace(
        model_config=CONFIG.model_config, parallel_config=CONFIG.parallel_config, speculative_config=None,
        scheduler_config=CONFIG.scheduler_config, instance_id="x_dp1", reasoning_config=reasoning,
    )  # fmt: skip
    marks = EngineSetting.of(given).marks
    assert (marks.start, marks.end, marks.force) == ((1,), (2,), (7, 2))


# -- measuring


def check_measurements_equal_their_definitions():
    logits = torch.randn(3, 50, dtype=torch.float32) * 4
    logits[1, 5:] = -math.inf
    got = measure(logits, torch.tensor([4, 4, -1]), confidence=True)
    for row in range(3):
        logprobs = torch.log_softmax(logits[row].double(), dim=0)
        p = logprobs.exp()
        entropy = -(p[p > 0] * logprobs[p > 0]).sum()
        assert abs(got[row, 0] - entropy) < 1e-4
        assert abs(got[row, 2] + logprobs.topk(5).values.mean()) < 1e-4
    assert abs(got[0, 1] - torch.log_softmax(logits[0], 0)[4]) < 1e-5
    assert got[2, 1] == -100
    assert torch.isfinite(got).all()


def check_measuring_changes_nothing():
    logits = torch.randn(3, 50)
    before = logits.clone()
    measure(logits, torch.tensor([4, 4, -1]), confidence=False)
    assert torch.equal(logits, before)


# -- steps, on both interfaces


@on_both
def check_a_batch_that_asks_nothing_is_not_touched(runner):
    runner.add("a", params())
    runner.add("b", params({"other": 1}))
    for _ in range(3):
        given = runner.fresh_logits(2)
        before = given.clone()
        assert runner.processor.apply(given) is given
        assert torch.equal(given, before)


@on_both
def check_the_cap_closes_one_thought_and_leaves_the_neighbours_alone(runner):
    runner.add("plain", params())
    runner.add("capped", params(CAP | {"suffice_thinking_tokens": 3}))
    runner.add("other", params())
    for _ in range(6):
        runner.step()
        for row, name in enumerate(runner.rows if isinstance(runner, First) else runner.slots):
            if name != "capped":
                assert torch.equal(runner.logits[row], runner.raw[row])
    assert runner.outputs("capped") == [WORD, WORD, WORD, END, WORD, WORD]
    assert runner.outputs("plain") == [WORD] * 6


@on_both
def check_rows_that_move_keep_their_requests(runner):
    runner.add("first", params())
    runner.add("second", params())
    runner.add("capped", params(CAP | {"suffice_thinking_tokens": 4}))
    runner.steps(2)
    runner.remove("first")
    runner.steps(1)
    runner.swap("capped", "second")
    runner.steps(3)
    assert runner.outputs("capped") == [WORD] * 4 + [END, WORD]
    assert END not in runner.outputs("second")


@on_both
def check_a_newcomer_in_the_place_of_one_that_asked_is_free(runner):
    runner.add("capped", params(CAP | {"suffice_thinking_tokens": 2}))
    runner.steps(1)
    runner.remove("capped")
    runner.add("plain", params())
    runner.steps(4)
    assert runner.outputs("plain") == [WORD] * 4


@on_both
def check_the_thought_may_be_opened_by_the_model(runner):
    runner.add("a", params(CAP | {"suffice_thinking_tokens": 2}), prompt=[WORD])
    runner.steps(1)
    runner.outputs("a")[0] = START
    if isinstance(runner, Second):
        runner.state.all_token_ids.gpu[runner.slots["a"], 1] = START
    runner.steps(3)
    assert runner.outputs("a") == [START, WORD, END, WORD]


@on_both
def check_parts_of_a_prompt_are_not_taken_for_tokens(runner):
    runner.add("long", params(CAP | {"suffice_thinking_tokens": 2}), prompt=[WORD, START, WORD, WORD])
    runner.step(discard=("long",))
    runner.step(discard=("long",))
    runner.steps(4)
    assert runner.outputs("long") == [WORD, WORD, END, WORD]


@on_both
def check_a_rule_on_entropy_sees_the_whole_distribution(runner):
    runner.add("a", params(CAP | {"suffice_rules": "engine_entropy:threshold=20,variance=100,least_steps=2,"
                                  "least_tokens=4,step_tokens=2"}))  # fmt: skip
    rule = next(iter(runner.processor._seats.values()))[0].machine.rules[0]
    seen = []
    observe = rule.observe

    def watched(event):
        seen.append(event)
        return observe(event)

    rule.observe = watched
    runner.seed = 100
    runner.step()
    first = runner.raw[0].clone()
    runner.steps(5)
    assert runner.outputs("a") == [WORD] * 4 + [END, WORD]
    logprobs = torch.log_softmax(first, 0)
    assert abs(seen[0].entropies[0] + float((logprobs.exp() * logprobs).sum())) < 1e-4
    assert abs(seen[0].close_logprobs[0] - float(logprobs[END])) < 1e-4
    assert all(len(event.entropies) == 1 for event in seen)


@on_both
def check_a_loop_in_the_answer_ends_it(runner):
    runner.add("a", params({"suffice_rules": "repetition:min_count=2,least=6,max_pattern=2"}), prompt=[WORD])
    runner.steps(8)
    assert runner.outputs("a")[:7] == [WORD] * 6 + [EOS]


@on_both
def check_a_grammar_is_not_broken_by_a_forced_end(runner):
    grammar = params({"suffice_rules": "repetition:min_count=2,least=6,max_pattern=2"})
    grammar.structured_outputs = object()
    runner.add("a", grammar, prompt=[WORD])
    runner.steps(9)
    assert runner.outputs("a") == [WORD] * 9


@on_both
def check_a_signal_closes_at_the_next_token_and_is_told(runner):
    mine = ticket()
    runner.add("a", params(CAP | mine))
    runner.steps(3)
    front = table()
    front.post(mine["suffice_slot"], mine["suffice_nonce"], Action.CLOSE_THOUGHT)
    runner.steps(3)
    assert runner.outputs("a") == [WORD] * 3 + [END, WORD, WORD]
    status = front.status(mine["suffice_slot"], mine["suffice_nonce"])
    assert (status.closed.rule, status.closed.at_token, status.thinking) == ("signal", 3, 3)
    assert status.tokens == 5  # the newest is taken in at the next step
    front.close()


@on_both
def check_a_signal_to_a_former_tenant_does_nothing(runner):
    mine = ticket()
    runner.add("old", params(CAP | mine))
    runner.steps(1)
    front = table()
    front.post(mine["suffice_slot"], mine["suffice_nonce"], Action.STOP)
    runner.remove("old")
    runner.add("new", params(CAP | {"suffice_slot": mine["suffice_slot"], "suffice_nonce": mine["suffice_nonce"] ^ 1}))
    runner.steps(4)
    assert runner.outputs("new") == [WORD] * 4
    front.close()


@on_both
def check_a_preempted_request_keeps_its_state_and_its_signals(runner):
    mine = ticket()
    runner.add("a", params(CAP | mine | {"suffice_thinking_tokens": 6, "suffice_rules": "length:thought_tokens=4"}))
    runner.steps(3)
    runner.remove("a")
    front = table()
    front.post(mine["suffice_slot"], mine["suffice_nonce"], Action.CAP, 50)
    runner.add("b", params())
    runner.steps(2)
    runner.come_back("a")
    runner.steps(4)
    assert runner.outputs("a") == [WORD] * 5 + [END, WORD]
    assert front.status(mine["suffice_slot"], mine["suffice_nonce"]).closed.rule == "length"
    front.close()


@on_both
def check_a_preempted_request_without_a_slot_is_read_again(runner):
    runner.add("a", params(CAP | {"suffice_thinking_tokens": 5}))
    runner.steps(3)
    runner.remove("a")
    runner.come_back("a")
    runner.steps(4)
    assert runner.outputs("a") == [WORD] * 5 + [END, WORD]


@on_both
def check_marks_outside_the_vocabulary_do_no_harm(runner):
    runner.add("a", params({"suffice_think_start": START, "suffice_think_end": VOCABULARY,
                            "suffice_thinking_tokens": 0}))  # fmt: skip
    runner.steps(2)
    assert runner.outputs("a") == [WORD, WORD]


@on_both
def check_a_mistake_in_a_step_ends_no_engine(runner):
    runner.add("a", params(CAP | {"suffice_thinking_tokens": 2}))
    runner.processor._measure = lambda *_: 1 / 0
    runner.steps(4)
    assert runner.outputs("a") == [WORD] * 4


@on_both
def check_many_requests_at_once(runner):
    for index in range(6):
        runner.add(f"r{index}", params(CAP | {"suffice_thinking_tokens": index, "suffice_rules": "boundary",
                                              **ticket()}))  # fmt: skip
    runner.steps(8)
    for index in range(6):
        assert runner.outputs(f"r{index}") == [WORD] * index + [END] + [WORD] * (7 - index), index


def check_the_second_runner_is_told_who_asks():
    runner = Second()
    runner.add("plain", params())
    assert runner.asked is False
    runner.add("asks", params(ticket()))
    assert runner.asked is True


def check_ranks_act_on_a_signal_at_the_same_token():
    """Two ranks of one engine, the one ahead of the other in either order, read a signal between their steps."""
    for order in ((0, 1), (1, 0)):
        ranks = [First(), First()]
        for rank in ranks:
            rank.processor.setting = EngineSetting.of(CONFIG).__class__(**{
                name: getattr(rank.processor.setting, name) if name != "ranks" else 2
                for name in rank.processor.setting.__slots__
            })  # fmt: skip
        ranks[1].processor._leads = False
        mine = ticket()
        for rank in ranks:
            rank.add("a", params(CAP | mine))
        front = table()
        for step in range(20):
            for number in order:
                ranks[number].step()
                if step == 3 and number == order[0]:
                    front.post(mine["suffice_slot"], mine["suffice_nonce"], Action.CLOSE_THOUGHT)
        one, other = (rank.outputs("a") for rank in ranks)
        assert one == other
        assert one.index(END) in (3 + plugin.AGREEMENT_TOKENS, 4 + plugin.AGREEMENT_TOKENS), one
        front.close()


# -- the routes


def served(configuration=CONFIG, **arguments):
    """vLLM's own wiring of the plugin around an application without an engine."""
    os.environ["VLLM_PLUGINS"] = "suffice"
    try:
        app = FastAPI()
        attach_endpoint_plugins(app, ("generate",))
        args = Namespace(**{"api_key": None} | arguments)
        engine = SimpleNamespace(vllm_config=configuration)
        asyncio.run(init_endpoint_plugins_state(engine, app.state, args))
    finally:
        del os.environ["VLLM_PLUGINS"]
    return TestClient(app)


def check_the_routes_are_loaded_only_where_they_are_named():
    assert not load_endpoint_plugins(("generate",))
    assert isinstance(SufficeEndpoints(), EndpointPlugin)
    First()
    assert served().get("/suffice/v1/plugin").status_code == 200


def check_discovery_tells_what_works():
    First()
    told = served().get("/suffice/v1/plugin").json()
    assert told["runner"] == "v1"
    assert told["rules"]["available"]
    assert {"engine_entropy", "repetition"} <= set(told["rules"]["names"])
    assert told["signals"] == {
        "available": True, "reasons": [], "actions": ["cap", "close_thought", "stop"], "slots": 4096,
        "max_nonce": 2**53 - 1, "lag_tokens": 0,
    }  # fmt: skip
    assert told["thought"] is None


def check_discovery_tells_what_does_not():
    speculative = config(speculative_config={"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2})
    told = served(speculative).get("/suffice/v1/plugin").json()
    assert not told["rules"]["available"]
    assert not told["signals"]["available"]
    assert told["rules"]["reasons"] == ["speculative_decoding"]
    assert {"speculative_decoding"} == plugin.UNAVAILABLE
    plugin.UNAVAILABLE.clear()


def check_signals_and_status_over_http():
    runner = First()
    mine = ticket()
    runner.add("a", params(CAP | mine))
    runner.steps(2)
    client = served()
    slot, nonce = mine["suffice_slot"], mine["suffice_nonce"]
    sent = client.post("/suffice/v1/signal", json={"slot": slot, "nonce": nonce, "action": "cap", "value": 4})
    assert (sent.status_code, sent.json()) == (200, {"accepted": True})
    runner.steps(5)
    assert runner.outputs("a") == [WORD] * 4 + [END, WORD, WORD]
    told = client.get(f"/suffice/v1/slots/{slot}?nonce={nonce}").json()
    assert told == {
        "tokens": 6, "thinking_tokens": 4, "closed": {"rule": "thinking_tokens", "at_token": 4}, "stopped": None,
    }  # fmt: skip


def check_bad_signals_are_refused():
    mine = ticket()
    runner = First()
    runner.add("a", params(CAP | mine))
    client = served()
    good = {"slot": mine["suffice_slot"], "nonce": mine["suffice_nonce"], "action": "close_thought"}
    for change, status in (
        ({"nonce": good["nonce"] ^ 1}, 409), ({"slot": (good["slot"] + 1) % 4096}, 409), ({"slot": -1}, 400),
        ({"slot": 4096}, 400), ({"slot": True}, 400), ({"slot": "1"}, 400), ({"nonce": 0}, 400),
        ({"nonce": 2**70}, 400), ({"action": "explode"}, 400), ({"action": None}, 400), ({"action": ["stop"]}, 400),
        ({"action": "cap"}, 400), ({"value": 3}, 400), ({"action": "cap", "value": 2**32}, 400),
        ({"action": "cap", "value": -1}, 400), ({"more": 1}, 400),
    ):  # fmt: skip
        answer = client.post("/suffice/v1/signal", json=good | change)
        assert answer.status_code == status, (change, answer.text)
        assert answer.json()["error"]["code"] in {"invalid_value", "stale_nonce"}
    for body, status in ((b"", 400), (b"[1]", 400), (b"\xff", 400), (b"[" * 900, 400), (b"x" * 2000, 413)):
        assert client.post("/suffice/v1/signal", content=body).status_code == status, body[:10]
    for path in ("x", "-1", "4096", "1%00", "9" * 30):
        assert client.get(f"/suffice/v1/slots/{path}?nonce=1").status_code == 400, path
    for query in ("", "?nonce=", "?nonce=x", "?nonce=0", "?nonce=%C2%B2"):
        assert client.get(f"/suffice/v1/slots/1{query}").status_code == 400, query
    runner.steps(2)
    assert runner.outputs("a") == [WORD, WORD]


def check_the_key_of_vllm_is_asked_for():
    First()
    client = served(api_key=["secret", "second"])
    for method, path in (("GET", "plugin"), ("POST", "signal"), ("GET", "slots/1?nonce=1")):
        assert client.request(method, f"/suffice/v1/{path}").status_code == 401
        assert client.request(method, f"/suffice/v1/{path}", headers={"Authorization": "Bearer no"}).status_code == 401
    good = client.get("/suffice/v1/plugin", headers={"Authorization": "Bearer second"})
    assert good.status_code == 200


def check_the_key_from_the_environment_counts():
    First()
    os.environ["VLLM_API_KEY"] = "from-env"
    try:
        client = served()
    finally:
        del os.environ["VLLM_API_KEY"]
    assert client.get("/suffice/v1/plugin").status_code == 401


def check_a_render_server_has_no_engine():
    app = FastAPI()
    endpoints = SufficeEndpoints()
    endpoints.attach_router(app)
    asyncio.run(endpoints.init_state(None, app.state, Namespace(api_key=None)))
    assert TestClient(app).get("/suffice/v1/plugin").status_code == 503


def main():
    results = {}
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                check()
            except Exception:  # noqa: BLE001 - each failure is reported as its own test
                results[name] = traceback.format_exc()
            else:
                results[name] = None
    sys.stdout.write("\n" + json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
