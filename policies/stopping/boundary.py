"""Closing a thought where it pauses anyway, shortly before its cap would cut it mid-sentence.

The cap itself is held elsewhere, by construction. From ``soft`` of it on, this rule takes the first good place: where
the model was about to close the thought itself, or where a sentence or a line just ended.

How likely is "about to"? If ``n`` tokens are likelier than one of probability ``p``, then ``(n + 1) p < 1``; so
``p >= 1/(r + 1)`` leaves at most ``r - 1`` of them and puts the closing token among the ``r`` most likely. The rank
itself is not in the stream. The bound is sufficient and not necessary: the rule may close later than one that sees
ranks, never at a place where the rank is worse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from suffice.policies.decisions import CONTINUE, CloseThought, RuleDecision
from suffice.policies.events import Chunk, Event, Phase
from suffice.policies.rules import Kind, Parameter
from suffice.policies.stopping.family import Need, Setting, StoppingRule

_TERMINATORS = ".!?\u3002\uff01\uff1f"
_CLOSERS = "\"')]}*_\u201d\u2019\u00bb"
_TAIL = 16


def ends_sentence(text: str) -> bool:
    """Whether a text stands at the end of a line or of a sentence; a dot behind a digit may be a number's."""
    if text.rstrip(" \t").endswith("\n"):
        return True
    bare = text.rstrip().rstrip(_CLOSERS)
    return bare[-1:] != "" and bare[-1] in _TERMINATORS and not (bare[-1] == "." and bare[-2:-1].isdigit())


@dataclass(slots=True)
class _Sample:
    thought: int = 0
    tail: str = ""
    closed: bool = False


class Boundary:
    """Closes a thought at a natural place between ``soft`` of its cap and the cap.

    Probabilities count token by token, so that the rule closes at the first chunk that holds a likely place. Text is
    looked at where a chunk ends, the only place where the thought could be cut there.
    """

    name = "boundary"
    listens: frozenset[type[Event]] = frozenset({Chunk})
    needs: frozenset[Need] = frozenset({Need.CLOSE_LOGPROB})

    def __init__(self, *, soft: float, close_rank: int, setting: Setting) -> None:
        self._from = None if setting.thinking_tokens is None else math.ceil(soft * setting.thinking_tokens)
        self._close_logprob = -math.log(close_rank + 1)
        self._samples: dict[int, _Sample] = {}

    def observe(self, event: Event, /) -> RuleDecision:
        """Follow a chunk of a thought. O(1) a token."""
        if not isinstance(event, Chunk) or event.phase is not Phase.THINKING or self._from is None:
            return CONTINUE
        sample = self._samples.setdefault(event.sample, _Sample())
        before = sample.thought
        sample.thought += event.tokens
        sample.tail = (sample.tail + event.text)[-_TAIL:]
        if not sample.closed and sample.thought >= self._from:
            # The value of token i was known before it was drawn, at a thought of before + i tokens.
            near = event.close_logprobs[max(0, self._from - before) :]
            likely = any(logprob >= self._close_logprob for logprob in near)
            sample.closed = likely or (event.text != "" and ends_sentence(sample.tail))
        return CloseThought(sample=event.sample, rule=self.name) if sample.closed else CONTINUE


KIND: Kind[StoppingRule] = Kind(
    name="boundary",
    make=Boundary,
    parameters={
        "soft": Parameter(default=0.8, least=0.0, most=1.0, what="share of the cap after which a good place is taken"),
        "close_rank": Parameter(default=3, least=1, most=100, what="rank of the closing token that counts as likely"),
    },
    what="closes a thought near its cap where a sentence ends or the model is about to close it",
    guarantee="never before soft of the cap; the cap holds whether a good place comes or not",
)
