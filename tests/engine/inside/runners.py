"""vLLM's two runners as far as a logits processor sees them: a model that says WORD wherever it may."""

from __future__ import annotations

import numpy as np
import torch
from setting import CONFIG, CPU, PROMPT, VOCABULARY, WORD
from suffice.server.engine.plugin.processor import SufficeProcessor
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality
from vllm.v1.worker.gpu.buffer_utils import StagedWriteTensor, UvaBackedTensor
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcRequestState


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


def on_both(check):
    """The check runs on either runner's interface."""

    def run():
        for kind in (First, Second):
            check(kind())

    run.__name__ = check.__name__
    return run
