"""What rules want to know of a distribution, for many rows at once and without a copy to the host.

All in float32 over the whole vocabulary, on the logits as vLLM hands them over: before temperature and top-k, so that
a request's sampling settings do not move a rule's thresholds. What must not be here: requests, rules.
"""

from __future__ import annotations

import torch

TOP = 5
"""Most likely tokens that a confidence is a mean over, as in the gateway."""
FLOOR = -100.0
"""Log-probability of a token that cannot come, as in the gateway."""


def measure(logits: torch.Tensor, close_ids: torch.Tensor, *, confidence: bool) -> torch.Tensor:
    """Entropy, log-probability of the closing token, and confidence of each row.

    Args:
        logits: ``[rows, vocabulary]``; tokens ruled out are minus infinity. Not changed.
        close_ids: ``[rows]`` int64: the token that closes a thought; negative where a row knows none.
        confidence: Whether anyone lives on the third column; it costs a top-k.

    Returns:
        ``[rows, 3]`` float32 on the same device: entropy (nats); log-probability (nats, at least ``FLOOR``); minus the
        mean log-probability of the ``TOP`` most likely tokens (nats), or 0.
    """
    logits = logits.float()
    total = torch.logsumexp(logits, dim=-1)
    logprobs = (logits - total[:, None]).clamp_(min=FLOOR)
    entropies = -(logprobs.exp() * logprobs).sum(dim=-1)
    close = logprobs.gather(1, close_ids.clamp(min=0)[:, None]).squeeze(1)
    close = torch.where(close_ids < 0, FLOOR, close)
    if confidence:
        sure = -logprobs.topk(min(TOP, logprobs.shape[1]), dim=-1).values.mean(dim=-1)
    else:
        sure = torch.zeros_like(entropies)
    return torch.stack((entropies, close, sure), dim=1)


def force(logits: torch.Tensor, rows: list[int], tokens: list[int]) -> None:
    """Leave each of the rows one token that can come. In place."""
    at = torch.tensor(rows, dtype=torch.int64, device=logits.device)
    logits.index_fill_(0, at, -torch.inf)
    logits[at, torch.tensor(tokens, dtype=torch.int64, device=logits.device)] = 0.0
