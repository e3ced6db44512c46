"""The logits processor that vLLM loads: both of its interfaces in one class, over the same machines.

vLLM has two model runners with one entry-point group and an interface each. The first tells which requests come, go
and move, and shows their growing lists of tokens. The second numbers requests itself, never says that one is gone, and
keeps tokens on the device. Both hand over the logits of all requests each step.

A step does, for the requests that asked and for nobody else: bring what was measured last step to the host (one small
copy), let each machine take in its new token, look for a signal (one word of shared memory), measure the new rows
where a rule lives on it, and leave one token possible in rows where a machine says so. Without such requests it does
nothing at all. What must not be here: what rules decide.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from suffice.policies.errors import InvalidBudget
from suffice.server.engine.plugin.arguments import Arguments, read_arguments
from suffice.server.engine.plugin.measuring import force, measure
from suffice.server.engine.plugin.rules import make_rules, measures, reads_confidence
from suffice.server.engine.plugin.setting import EngineSetting
from suffice.server.engine.plugin.steering import Marks, Measured, Steering
from suffice.server.engine.plugin.table import Action, NoTable, SignalTable, decode
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.logits_processor.interface import LogitsProcessor as FirstInterface

try:
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as SecondInterface
except ImportError:  # a vLLM from before its second runner took processors
    from abc import ABC as SecondInterface  # noqa: N811

if TYPE_CHECKING:
    from collections.abc import Sequence

    from suffice.policies.stopping import StoppingRule
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor.interface import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext

_LOG = logging.getLogger("vllm.suffice")

AGREEMENT_TOKENS = 8
"""Where several ranks compute one request, a signal takes effect this many tokens after the leading one read it.

All must act on it at the same token. No rank's host runs more than two steps ahead of another's, since the next step
is planned from what the last one gave; so all have read of it by then.
"""


@dataclass(slots=True, eq=False)
class Rider:
    """A request in the batch that asked for something.

    Attributes:
        machine: Its state.
        slot: Slot of the signal table; None where it takes no signals.
        nonce: Tells it from the slot's other tenants.
        close_id: The token that closes a thought, for measuring; -1 where none is known.
        confidence: Whether a rule lives on confidences.
        begun: Whether its prompt was read.
        read: Word of the last signal that was looked at.
        agreed: A signal that all ranks will act on, and the token at which they do.
        measured: What was measured where its next token was drawn.
        told: Whether what fired was told, for closing and stopping.
    """

    machine: Steering
    slot: int | None
    nonce: int
    close_id: int
    confidence: bool
    begun: bool = False
    read: int = 0
    agreed: tuple[int, int] | None = None
    measured: Measured | None = None
    told: tuple[bool, bool] = (False, False)


Seat: TypeAlias = "tuple[Rider, list[int]]"
"""A rider and, under the first runner, its list of generated tokens, which grows; the second leaves it empty."""


class SufficeProcessor(FirstInterface, SecondInterface):  # type: ignore[misc]  # types only vLLM has
    """Carries out rules and signals inside vLLM; see the module."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse what cannot be honoured, before the request is admitted.

        Raises:
            ValueError: Its message reaches the client in a 400.
        """
        if not sampling_params.extra_args:
            return
        try:
            asked = read_arguments(sampling_params.extra_args)
            if asked is not None:
                _check(asked, sampling_params)
        except InvalidBudget as error:
            raise ValueError(f"{error.param}: {error}") from error

    def __init__(self, vllm_config: VllmConfig, device_or_states: Any, is_pin_memory: bool | None = None) -> None:  # noqa: FBT001 - vLLM's signature
        self.setting = EngineSetting.of(vllm_config)
        self._states: Any = device_or_states if is_pin_memory is None else None
        self._leads = _rank_in_group() == 0
        self._seats: dict[int, Seat] = {}
        """By row of the batch (first runner) or by the runner's own slot (second)."""
        self._tenants: dict[int, Rider] = {}
        """The last tenant of each slot, which may come back after a preemption."""
        self._measured: torch.Tensor | None = None
        self._measured_for: list[Rider] = []
        usable = not self.setting.obstacles and not self.setting.signal_obstacles
        self._table = _make_table(self.setting) if usable else None

    # -- vLLM's first runner

    def is_argmax_invariant(self) -> bool:
        """Forcing a token changes which one is the likeliest."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests as they come, go and move."""
        if batch_update:
            process_dict_updates(self._seats, batch_update, self._seat)

    def _seat(self, params: SamplingParams, prompt: list[int] | None, output: list[int]) -> Seat | None:
        rider = self._rider(params) if params.extra_args else None
        if rider is not None and rider.machine.tokens > len(output):
            rider = self._rider(params, fresh=True)
        if rider is None:
            return None
        if not rider.begun:
            rider.begun = True
            rider.machine.read_prompt(prompt or ())
        return rider, output

    # -- vLLM's second runner

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Take over one of the runner's slots from whoever had it."""
        self._seats.pop(req_idx, None)
        rider = self._rider(sampling_params) if sampling_params.extra_args else None
        if rider is None:
            return False
        self._seats[req_idx] = rider, []
        return True

    def apply(self, logits: torch.Tensor, ctx: LogitsContext | None = None) -> torch.Tensor:
        """Do one step; see the module. Rows of requests that did not ask are not touched."""
        if not self._seats:
            return logits
        try:
            rows = self._take_first() if ctx is None else self._take_second(ctx)
            if rows:
                self._measure(logits, rows)
                self._force(logits, rows)
        except Exception:  # noqa: BLE001 - a mistake here would end the engine and everybody's requests with it
            _LOG.exception("suffice: rules and signals of running requests were dropped")
            self._seats.clear()
            self._measured = None
        return logits

    def _take_first(self) -> list[tuple[int, Rider]]:
        self._bring(None)
        for rider, output in self._seats.values():
            self._take(rider, output[rider.machine.tokens :])
        return [(row, rider) for row, (rider, _) in self._seats.items()]

    def _take_second(self, ctx: LogitsContext) -> list[tuple[int, Rider]]:
        """The rows of riders whose prompt is computed; one row a request, since there is no speculation here."""
        states = self._states
        here = [
            (row, slot, self._seats[slot][0])
            for row, slot in enumerate(ctx.idx_mapping_np.tolist())
            if slot in self._seats and ctx.seq_lens_upper_bound_np[row] >= states.prefill_len.np[slot]
        ]
        if not here:
            return []
        rows = torch.tensor([row for row, _, _ in here], device=ctx.input_ids.device)
        for (row, slot, rider), token in zip(here, self._bring(ctx.input_ids[rows]), strict=True):
            prompt, length = int(states.prompt_len.np[slot]), int(ctx.seq_lens_upper_bound_np[row])
            seen = rider.machine.tokens
            if not rider.begun:
                # The first step of a request, or of one that comes back without its former state.
                rider.begun = True
                history = states.all_token_ids.gpu[slot, :length].tolist()
                rider.machine.read_prompt(history[:prompt])
                self._take(rider, history[prompt:])
            elif length == prompt + seen + 1:
                self._take(rider, (token,))
            else:
                self._take(rider, states.all_token_ids.gpu[slot, prompt + seen : length].tolist())
        return [(row, rider) for row, _, rider in here]

    # -- what both share

    def _rider(self, params: SamplingParams, *, fresh: bool = False) -> Rider | None:
        """The request's rider; its former one where it comes back after a preemption."""
        if self.setting.obstacles:
            return None
        try:
            asked = read_arguments(params.extra_args)
            if asked is None:
                return None
            former = None if asked.slot is None or fresh else self._tenants.get(asked.slot)
            if former is not None and former.nonce == asked.nonce:
                return former
            rider = self._new_rider(asked, params)
        except InvalidBudget as error:  # refused at the front, unless that was an older version
            _LOG.warning("suffice: a request was let run without its rules: %s", error)
            return None
        if asked.slot is not None and self._table is not None:
            self._tenants[asked.slot] = rider
            if self._leads:
                self._table.claim(asked.slot, asked.nonce)
        return rider

    def _new_rider(self, asked: Arguments, params: SamplingParams) -> Rider:
        rules = _rules(asked, params)
        marks = self._marks(asked)
        machine = Steering(
            marks=marks, rules=rules, stop_id=_stop_id(params), cap=asked.thinking_tokens, measures=measures(rules)
        )
        return Rider(
            machine=machine,
            slot=asked.slot if self._table is not None else None,
            nonce=asked.nonce,
            close_id=-1 if marks is None else marks.end[0],
            confidence=reads_confidence(rules),
        )

    def _marks(self, asked: Arguments) -> Marks | None:
        known = self.setting.marks
        start = asked.think_start or (known.start if known else ())
        end = asked.think_end or (known.end if known else ())
        if not start or not end or max(*start, *end) >= self.setting.vocabulary:
            return None
        return Marks(start=start, end=end, force=asked.think_end or (known.force if known else end))

    def _take(self, rider: Rider, tokens: Sequence[int]) -> None:
        machine = rider.machine
        measured = rider.measured if len(tokens) == 1 else None
        if tokens:
            rider.measured = None
        for token in tokens:
            machine.take(token, measured)
        if machine.failed is not None:
            _LOG.error("suffice: rule %s raised and was put aside", machine.failed)
            machine.failed = None
        if rider.slot is not None and self._table is not None:
            signal = self._signal(rider, rider.slot, self._table)
            if signal is not None:
                machine.obey(*signal)
            if self._leads:
                self._tell(rider, rider.slot, self._table)

    def _signal(self, rider: Rider, slot: int, table: SignalTable) -> tuple[Action, int] | None:
        """A signal that takes effect now. One word is read where there is none."""
        if self.setting.ranks == 1:
            word = table.signal(slot)
            if word == rider.read:
                return None
            signal = table.decode(slot, rider.nonce, word)
            if signal is not None:
                rider.read = word
            return signal
        tokens = rider.machine.tokens
        if rider.agreed is None:
            agreed = table.agreed(slot)
            if agreed is not None and agreed[0] != rider.read and decode(rider.nonce, agreed[0]) is not None:
                rider.agreed = agreed
            elif self._leads and (word := table.signal(slot)) != rider.read and table.decode(slot, rider.nonce, word):
                rider.agreed = (word, tokens + AGREEMENT_TOKENS)
                table.agree(slot, *rider.agreed)
        if rider.agreed is None or tokens < rider.agreed[1]:
            return None
        rider.read, rider.agreed = rider.agreed[0], None
        return decode(rider.nonce, rider.read)

    @staticmethod
    def _tell(rider: Rider, slot: int, table: SignalTable) -> None:
        machine = rider.machine
        table.count(slot, machine.tokens, machine.thinking)
        now = (machine.closed is not None, machine.stopped is not None)
        if now == rider.told:
            return
        rider.told = now
        if machine.closed is not None:
            table.tell(slot, machine.closed, stopped=False)
        if machine.stopped is not None:
            table.tell(slot, machine.stopped, stopped=True)

    def _bring(self, tokens: torch.Tensor | None) -> list[int]:
        """Bring last step's measurements, and this step's newest tokens, to the host in one copy.

        Token ids travel as float32, which is exact below 2**24.
        """
        if self._measured is None:
            return [] if tokens is None else tokens.tolist()
        flat = self._measured.flatten()
        values = (flat if tokens is None else torch.cat((flat, tokens.to(flat.dtype)))).tolist()
        for position, rider in enumerate(self._measured_for):
            rider.measured = Measured(*values[3 * position : 3 * position + 3])
        self._measured = None
        return [int(value) for value in values[3 * len(self._measured_for) :]]

    def _measure(self, logits: torch.Tensor, rows: list[tuple[int, Rider]]) -> None:
        wanted = [(row, rider) for row, rider in rows if rider.machine.measures and rider.machine.rules]
        if not wanted:
            return
        at = [row for row, _ in wanted]
        part = logits if at == list(range(logits.shape[0])) else logits[torch.tensor(at, device=logits.device)]
        close = torch.tensor([rider.close_id for _, rider in wanted], device=logits.device)
        self._measured = measure(part, close, confidence=any(rider.confidence for _, rider in wanted))
        self._measured_for = [rider for _, rider in wanted]

    @staticmethod
    def _force(logits: torch.Tensor, rows: list[tuple[int, Rider]]) -> None:
        forced = [(row, token) for row, rider in rows if (token := rider.machine.forced()) is not None]
        if forced:
            force(logits, [row for row, _ in forced], [token for _, token in forced])


UNAVAILABLE: set[str] = set()
"""Obstacles of the engine behind this front end, which ``validate_params`` alone cannot know; set at its start."""


def _check(asked: Arguments, params: SamplingParams) -> None:
    if UNAVAILABLE:
        reasons = ", ".join(sorted(UNAVAILABLE))
        raise InvalidBudget(f"the plugin does nothing in this engine: {reasons}", param="vllm_xargs")
    if asked.slot is not None and params.n > 1:
        raise InvalidBudget("suffice_slot belongs to one sample; n must be 1", param="vllm_xargs.suffice_slot")
    _rules(asked, params)


def _rules(asked: Arguments, params: SamplingParams) -> tuple[StoppingRule, ...]:
    own = asked.thinking_tokens
    cap = getattr(params, "thinking_token_budget", None) if own is None else own
    return make_rules(asked, thinking_tokens=cap, max_tokens=params.max_tokens)


def _stop_id(params: SamplingParams) -> int | None:
    """A token that ends the generation; None without one, and under a grammar, which must take in every token."""
    if params.structured_outputs is not None:
        return None
    if params.eos_token_id is not None:
        end: int = params.eos_token_id
        return end
    return next(iter(params.stop_token_ids or ()), None)


def _rank_in_group() -> int:
    """This process's rank among those that compute the same requests; 0 outside of any group."""
    from vllm.distributed import parallel_state  # noqa: PLC0415 - only an engine process needs it

    if not parallel_state.model_parallel_is_initialized():
        return 0
    rank: int = parallel_state.get_tensor_model_parallel_rank()
    return rank


def _make_table(setting: EngineSetting) -> SignalTable | None:
    try:
        return SignalTable.create(setting.table)
    except NoTable as error:
        _LOG.warning("suffice: the engine takes no signals: %s", error)
        return None
