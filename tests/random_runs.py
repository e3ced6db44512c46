"""Runs of a chain at random, recorded as the driver records them."""

from __future__ import annotations

from suffice.policies import sampling, stopping
from suffice.policies.budget import Bound
from suffice.policies.chain import Chain
from suffice.policies.decisions import Abort, Open, Probe, ReadVote, Signal
from suffice.policies.errors import IllegalEvent
from suffice.policies.events import Chunk, EndReason, Phase, Priced, Probed, PromptCounted, SegmentEnded, Started, Voted
from suffice.policies.plan import NotApplied, Plan, ThinkingCap
from suffice.policies.recording import Recorder, watched
from suffice.policies.records import RuleSpec, build_rule

SMALL = {
    "probe_first": 4, "interval": 4, "probe_tokens": 4, "cap": 20, "least": 12, "max_pattern": 3, "min_count": 2,
    "warm_up": 2, "window": 2, "probability": 0.3, "soft": 0.3, "switch_s": 0.0,
}  # fmt: skip


def small(registry, name):
    parameters = registry.kinds[name].parameters
    return {key: value for key, value in SMALL.items() if key in parameters}


SPECS = [
    *(RuleSpec(family="guards", rule=name, parameters=small(stopping.GUARDS, name)) for name in stopping.GUARDS.kinds),
    *(
        RuleSpec(family="early_exit", rule=name, parameters=small(stopping.RULES, name))
        for name in stopping.RULES.kinds
    ),
    RuleSpec(family="early_exit", rule="convergence", parameters={"probe_first": 4}, audited=True),
    RuleSpec(family="early_exit", rule="confidence", parameters=small(stopping.RULES, "confidence"), usual_tokens=30),
    RuleSpec(family="guards", rule="length", parameters={}, lengths=(15, 5)),
    *(
        RuleSpec(family="sampling", rule=name, parameters=small(sampling.RULES, name), wave=2)
        for name in sampling.RULES.kinds
    ),
    RuleSpec(family="sampling", rule="bayesian", wave=2, audited=True, prior=sampling.Prior().to_json()),
]


def plan_for(spec, *, close_by):
    draws = spec.family == "sampling"
    return Plan(
        samples=2,
        most_samples=5 if draws else 2,
        total_tokens=400,
        sample_tokens=70,
        thinking_tokens=40,
        thinking_cap=ThinkingCap.GATEWAY,
        deadline_s=3.0,
        prompts=1,
        prompt_tokens=5,
        limits={"answer_reserve": Bound(value=4, source="default")},
        not_applied=(NotApplied(rule="x", why="y"),),
        probe_tokens=20,
        close_by=close_by,
        votes=draws,
        pause_at_close=True,
        close_tokens=1,
    )


class Upstream:
    """Plays driver and engine at random, and records as the driver does."""

    def __init__(self, chance, spec, plan, *, each_chunk):
        self.chance = chance
        rules = watched([build_rule(spec, plan)])
        self.chain = Chain(plan, rules)
        self.recorder = Recorder(rules, each_chunk=each_chunk)
        self.at = 0.0
        self.left, self.thinking = {}, {}
        self.probes, self.votes, self.aborted = {}, [], set()

    def see(self, event):
        try:
            actions = self.chain.observe(event)
        except IllegalEvent:
            return
        self.recorder.note(event, actions)
        for action in actions:
            match action:
                case Open():
                    self.left[action.sample] = action.max_tokens
                    self.thinking[action.sample] = not action.close_thought and (
                        action.segment == 0 or self.thinking.get(action.sample, True)
                    )
                case Probe():
                    self.probes[action.sample] = action
                case Abort():
                    self.aborted.add(action.sample)
                case Signal():
                    self.thinking[action.sample] = False
                case ReadVote():
                    self.votes.append(action.sample)

    def goes_over(self, sample):
        """Whether the model ends its thought with the next chunk, within the stream."""
        return self.chance.random() < 0.03

    def chunk(self, sample):
        count = self.chance.randint(1, min(6, self.left[sample]))
        if self.thinking[sample] and self.goes_over(sample):
            self.thinking[sample] = False
        phase = Phase.THINKING if self.thinking[sample] else Phase.ANSWER
        self.left[sample] -= count
        words = tuple(self.chance.randint(0, 1) for _ in range(count))
        values = tuple(-self.chance.uniform(0, 4) for _ in range(count))
        self.see(
            Chunk(
                at=self.at, sample=sample, tokens=count, phase=phase, text="so." if words[0] else "so", token_ids=words,
                logprobs=values, confidences=tuple(-value for value in values), close_logprobs=values,
            )
        )  # fmt: skip

    def priced(self):
        second, block_second = self.chance.choice([0.0, 0.1, 50.0]), self.chance.choice([0.0, 0.1])
        self.see(
            Priced(
                at=self.at, second=second, block_second=block_second, token_s=0.01, step_s=0.02, block_size=16
            )
        )  # fmt: skip

    def ended(self, sample, reason):
        phase = Phase.THINKING if self.thinking[sample] else Phase.ANSWER
        self.aborted.discard(sample)
        self.see(SegmentEnded(at=self.at, sample=sample, reason=reason, phase=phase))

    def vote(self, sample):
        self.votes.remove(sample)
        answer = self.chance.choice([None, 0, 0, 1])
        score = self.chance.choice([None, self.chance.random()])
        tokens = self.chain.meter.sample_used(sample)
        self.see(Voted(at=self.at, sample=sample, answer=answer, tokens=tokens, score=score))

    def run(self):
        if self.chance.random() < 0.5:
            self.priced()
        self.see(Started(at=0.0))
        for sample in tuple(self.left):
            self.see(PromptCounted(at=0.1, sample=sample, prompt_tokens=5))
        for _ in range(400):
            if self.chain.complete:
                return
            self.at += self.chance.choice([0.0, 0.01, 0.3])
            if self.chance.random() < 0.05:
                self.priced()
            choices = [
                ("chunk", s) for s in self.left if self.chain.is_open(s) and s not in self.aborted and self.left[s]
            ]
            choices += [("end", s) for s in self.left if self.chain.is_open(s)]
            choices += [("probe", s) for s in self.probes] + [("vote", s) for s in self.votes]
            what, sample = self.chance.choice(choices + [c for c in choices if c[0] == "chunk"] * 8)
            if what == "chunk":
                self.chunk(sample)
            elif what == "end" and sample in self.aborted:
                self.ended(sample, EndReason.ABORTED)
            elif what == "end":
                reasons = [EndReason.LENGTH] if not self.left[sample] else [EndReason.STOP]
                reasons += [EndReason.THOUGHT_END] if self.thinking[sample] and self.left[sample] else []
                self.ended(sample, self.chance.choice(reasons))
            elif what == "probe":
                probe = self.probes.pop(sample)
                answer = self.chance.choice([None, 0, 0, 1])
                tokens = self.chance.randint(0, probe.max_tokens)
                self.see(
                    Probed(
                        at=self.at, sample=sample, at_token=probe.at_token, tokens=tokens, answer=answer,
                        confidence=self.chance.random(), entropy=2 * self.chance.random(),
                    )
                )  # fmt: skip
            else:
                self.vote(sample)
