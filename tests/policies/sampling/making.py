"""What the sampling tests share: events, rules of every kind, and an upstream that runs samples beside each other."""

import heapq
from dataclasses import replace

from hypothesis import strategies as st
from suffice.policies.budget import Budget
from suffice.policies.chain import Chain
from suffice.policies.decisions import Abort, Complete, Open, ReadVote
from suffice.policies.events import Chunk, EndReason, Phase, SegmentEnded, Started, Voted
from suffice.policies.plan import ApiFacts, Asked, ModelFacts, make_plan
from suffice.policies.sampling import RULES, Learner

LEARNED = Learner()
for _repeat in range(40):
    for _counts in ([40], [38, 2], [30, 8, 2], [22, 12, 6], [15, 14, 11], [39, 1]):
        LEARNED.learn(_counts)
PRIOR = LEARNED.fit()


def voted(sample, answer, tokens=1, *, score=None, confidence=None):
    return Voted(at=0.0, sample=sample, answer=answer, tokens=tokens, score=score, confidence=confidence)


def make(name, most=40, *, prior=PRIOR, **parameters):
    return RULES.make(name, parameters, most=most, prior=prior)


def feed(rule, answers, start=0):
    """The last decision after votes for these answers."""
    decision = None
    for sample, answer in enumerate(answers, start):
        decision = rule.observe(voted(sample, answer))
    return decision


answers = st.one_of(st.none(), st.integers(0, 4), st.just(0))
recorded = st.tuples(
    answers,
    st.integers(0, 40),
    st.one_of(st.none(), st.floats(-2, 2, allow_nan=False)),
    st.one_of(st.none(), st.floats(0, 20, allow_nan=False)),
)


class Upstream:
    """Generates recorded samples, one token a step each, for a real chain."""

    def __init__(self, draw, samples):
        """``samples`` are ``(answer, tokens, score, confidence)`` in order of launch."""
        self.samples = samples
        asked = Asked(samples=draw.first, prompt_tokens=1, sources=(("request", Budget(sample_tokens=10_000)),))
        plan = make_plan(asked, ModelFacts(), ApiFacts())
        self.chain = Chain(replace(plan, votes=True, total_tokens=10_000 * (len(samples) + 1)), rules=[draw])
        self.launched = 0
        self.now = 0
        self._finishing = []
        self._begun = {}

    def run(self):
        actions = list(self.chain.observe(Started(at=0.0)))
        while not self.chain.complete:
            while actions:
                actions += self._carry_out(actions.pop(0))
            if self.chain.complete:
                break
            self.now, sample = heapq.heappop(self._finishing)
            if self.chain.is_open(sample):
                actions += self._generate(sample, self.samples[sample][1], EndReason.STOP)
        return self

    def _carry_out(self, action):
        match action:
            case Open():
                self.launched += 1
                self._begun[action.sample] = self.now
                heapq.heappush(self._finishing, (self.now + self.samples[action.sample][1], action.sample))
            case Abort():
                return self._generate(action.sample, self.now - self._begun[action.sample], EndReason.ABORTED)
            case ReadVote():
                answer, tokens, score, confidence = self.samples[action.sample]
                return self.chain.observe(voted(action.sample, answer, tokens, score=score, confidence=confidence))
            case Complete():
                pass
        return ()

    def _generate(self, sample, tokens, reason):
        actions = []
        if tokens:
            actions += self.chain.observe(Chunk(at=0.0, sample=sample, tokens=tokens, phase=Phase.ANSWER))
        ended = SegmentEnded(at=0.0, sample=sample, reason=reason, phase=Phase.ANSWER)
        return [*actions, *self.chain.observe(ended)]
