"""What one request teaches once it is over: lengths, a full vote, the outcome of an audit.

What must not be here: where it is kept, and anything that changes the request itself.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

from suffice.policies.sampling.draw_all import DrawAll

if TYPE_CHECKING:
    from suffice.policies.chain import Chain
    from suffice.policies.stopping.lengths import RouteLengths
    from suffice.server.gateway.experience import Experience
    from suffice.server.gateway.rulesets import RuleSet
    from suffice.server.gateway.voting import Ballots
    from suffice.server.telemetry.metrics import Metrics

_LOG = logging.getLogger(__name__)
_REOPENS = "extend"


def drawn_for_audit(request_id: str, share: float) -> bool:
    """Whether a request is audited: the same for the same id, and a share of all ids is."""
    number = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8])
    return number < share * 2**64


def learn_lengths(experience: Experience, lengths: RouteLengths, chain: Chain) -> None:
    """Take in the lengths of all samples. One that was cut is longer than what was seen of it."""
    if chain.failed:
        return
    for sample in range(chain.samples):
        thought = chain.thinking_tokens(sample)
        answer = chain.meter.sample_used(sample) - thought
        places = [stop.at_token for stop in chain.stops if stop.sample == sample and stop.rule != _REOPENS]
        within = any(place <= thought for place in places)
        if thought:
            experience.learn_length(lengths.thoughts, thought, ended=not within)
        if answer > 0:
            ended = all(place <= thought for place in places) and sample not in chain.cut_samples
            experience.learn_length(lengths.answers, answer, ended=ended)


def learn_vote(experience: Experience, model: str, kind: str, ruled: RuleSet, chain: Chain) -> None:
    """Take in a vote, if it was drawn to its end whatever it looked like; others tell of hard questions only."""
    draw = ruled.draw
    full = draw is not None and (isinstance(draw.rule, DrawAll) or ruled.vote is not None)
    if draw is None or not full or chain.failed or chain.cut_samples or draw.drawn < draw.most:
        return
    experience.learn_vote(model, kind, draw.counts, draw.drawn - sum(draw.counts))


def audit(
    experience: Experience, ruled: RuleSet, chain: Chain, ballots: Ballots | None, metrics: Metrics
) -> dict[str, Any] | None:
    """What the audit of a request found, for its receipt; None where it was not audited.

    Each rule's alarm is told what the rule would have lost: the share of samples whose answer it would have changed,
    or whether another answer would have won the vote.
    """
    found: list[dict[str, Any]] = []
    exits, vote = ruled.exits, ruled.vote
    if exits is not None and ballots is not None:
        whole = not chain.failed and not chain.cut_samples
        losses = [exits.loss(sample, ballots.vote(sample)) for sample in range(chain.samples)] if whole else []
        known = [loss for loss in losses if loss is not None]
        would = [{"sample": sample, "at_token": end.at_token} for sample, end in sorted(exits.exits.items())]
        loss = sum(known) / len(known) if known else None
        found.append(_outcome(experience, metrics, exits.name, loss) | {"would_stop": would})
    if vote is not None:
        loss = None if chain.failed else vote.loss()
        found.append(_outcome(experience, metrics, vote.name, loss) | {"would_stop_after": vote.stopped_at})
    return {"rules": found} if found else None


def show_alarms(experience: Experience, metrics: Metrics) -> None:
    """Set the gauges of all alarms."""
    for rule, alarm in experience.alarms().items():
        metrics.drift_evidence.labels(rule).set(alarm.evidence)
        metrics.drift_alarm.labels(rule).set(alarm.alarmed)


def _outcome(experience: Experience, metrics: Metrics, rule: str, loss: float | None) -> dict[str, Any]:
    outcome = "unknown" if loss is None else "changed" if loss else "kept"
    metrics.audits.labels(rule, outcome).inc()
    if loss is not None:
        before = experience.alarm(rule).alarmed
        alarm = experience.audited(rule, loss)
        show_alarms(experience, metrics)
        if alarm.alarmed and not before:
            _LOG.warning(
                "%s changes more answers than policies.audit_risk of %g: evidence %.3g after %d audits",
                rule, alarm.limit, alarm.evidence, alarm.audits,
            )  # fmt: skip
    return {"rule": rule, "loss": loss}
