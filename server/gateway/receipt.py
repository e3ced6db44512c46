"""The receipt: what was allowed and by whom, what was spent, why each sample stopped, what could not be applied."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from suffice.policies.chain import Chain
    from suffice.policies.sampling.draw import Draw
    from suffice.server.config import Config
    from suffice.server.gateway.judging import Judge
    from suffice.server.gateway.trimming import Trimming
    from suffice.server.gateway.voting import Ballots


def policy_version(config: Config) -> str:
    """Name of the rules in force: equal files have equal names."""
    rules = config.model_dump(mode="json", include={"models", "presets", "policies"})
    return f"sha256:{hashlib.sha256(orjson.dumps(rules, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]}"


def usage(chain: Chain) -> dict[str, int]:
    """Usage in OpenAI's words: everything generated, kept or cancelled, and the prompt once."""
    generated = chain.meter.used
    return {
        "prompt_tokens": chain.prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": chain.prompt_tokens + generated,
    }


def build(  # noqa: PLR0913 - a receipt is where everything of a request meets
    chain: Chain,
    *,
    draw: Draw | None = None,
    ballots: Ballots | None = None,
    request_id: str,
    preset: str,
    version: str,
    wall_s: float,
    estimated: bool,
    audit: dict[str, Any] | None = None,
    judge: Judge | None = None,
    queue_s: float = 0.0,
    block_seconds: float = 0.0,
    context: Trimming | None = None,
) -> dict[str, Any]:
    """The receipt of a request that is over.

    Args:
        chain: The request's machine.
        draw: The rule that drew its samples, where one did.
        ballots: The answers that its samples gave.
        request_id: Its id.
        preset: The preset in force.
        version: Name of the rules in force.
        wall_s: Seconds from receipt to the end.
        estimated: Whether the tokens of a cut stream were estimated because its API does not tell them.
        audit: What an audit found: the request ran in full to see what its rules would have changed.
        judge: Who told which answers are equal, where somebody did.
        queue_s: Seconds that it waited for a place.
        block_seconds: KV blocks that it held, times seconds.
        context: What was cut from the conversation.
    """
    plan = chain.plan
    receipt: dict[str, Any] = {
        "request_id": request_id,
        "plan": {
            "preset": preset,
            "policy_version": version,
            "limits": {name: [bound.value, bound.source] for name, bound in sorted(plan.limits.items())},
            "thinking_cap": plan.thinking_cap.value,
        },
        "spent": {
            "prompt_tokens": chain.prompt_tokens,
            "completion_tokens": chain.meter.used - chain.meter.probe_used - chain.cancelled_tokens,
            "probe_tokens": chain.meter.probe_used,
            "cancelled_tokens": chain.cancelled_tokens,
            "samples": chain.samples,
            "wall_ms": round(wall_s * 1000),
            "queue_ms": round(queue_s * 1000),
            "kv_block_seconds": round(block_seconds, 3),
        },
        "saved": _saved(chain, draw),
        "stops": [
            {"sample": stop.sample, "rule": stop.rule, "by": stop.by, "at_token": stop.at_token} for stop in chain.stops
        ],
    }
    if draw is not None and ballots is not None:
        receipt["votes"] = _votes(draw, ballots)
        if judge is not None:
            receipt["votes"]["judge"] = {"name": judge.name, "asked": judge.asked, "merged": judge.merged}
    if audit is not None:
        receipt["audited"] = audit
    if context is not None and context.told is not None:
        receipt["context"] = context.told
    missed = plan.not_applied if context is None else (*plan.not_applied, *context.not_applied)
    if missed:
        receipt["not_applied"] = [{"rule": item.rule, "why": item.why} for item in missed]
    if estimated:
        receipt["spent"]["estimated"] = True
    return receipt


def _saved(chain: Chain, draw: Draw | None) -> dict[str, int]:
    """Samples that were not needed, and their tokens if they had been as long as those that were."""
    samples = 0 if draw is None else chain.plan.most_samples - chain.samples
    tokens = chain.meter.used * samples // chain.samples if chain.samples else 0
    return {"samples": samples, "tokens_estimate": tokens}


def _votes(draw: Draw, ballots: Ballots) -> dict[str, Any]:
    won = None if draw.winner is None else ballots.vote(draw.winner)
    return {
        "winner": None if won is None else ballots.label(won),
        "counts": {ballots.label(answer): count for answer, count in enumerate(draw.counts)},
        "rule": draw.stopped_by or draw.name,
        "confidence": draw.confidence,
        "certified": draw.certified,
    }


def loggable(receipt: dict[str, Any]) -> dict[str, Any]:
    """The receipt in counts, without anything that a model wrote: answers become their order of appearance."""
    cut = receipt.get("context")
    if cut is not None:
        receipt = receipt | {"context": cut | {name: len(cut[name]) for name in ("dropped", "shortened")}}
    votes = receipt.get("votes")
    if votes is None:
        return receipt
    order = {label: str(number) for number, label in enumerate(votes["counts"])}
    counts = {order[label]: count for label, count in votes["counts"].items()}
    return receipt | {"votes": votes | {"winner": order.get(votes["winner"]), "counts": counts}}
