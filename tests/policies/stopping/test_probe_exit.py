"""Each probing rule on probes whose right verdict is plain."""

import pytest
from suffice.policies.decisions import CONTINUE, CloseThought, TakeProbe
from suffice.policies.events import Chunk, Phase, Probed
from suffice.policies.stopping import RULES, Setting
from suffice.policies.stopping.hopeless import Hopeless
from suffice.policies.stopping.moving import MovingMoments


def probe(answer=0, confidence=None, entropy=None, at_token=100, sample=0):
    return Probed(
        at=1.0, sample=sample, at_token=at_token, tokens=5, answer=answer, confidence=confidence, entropy=entropy
    )


def thought(tokens, sample=0, phase=Phase.THINKING):
    return Chunk(at=1.0, sample=sample, tokens=tokens, phase=phase)


def verdicts(rule, probes):
    return [rule.observe(one) is not CONTINUE for one in probes]


def make(name, setting=None, **given):
    return RULES.make(name, given, setting=setting or Setting())


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param([1, 1], [False, True], id="two-equal"),
        pytest.param([1, 2, 1, 1], [False, False, False, True], id="change-of-mind"),
        pytest.param([1, None, 1, 1], [False, False, False, True], id="no-answer-between"),
        pytest.param([None, None, None], [False] * 3, id="never-an-answer"),
    ],
)
def test_convergence(answers, expected):
    assert verdicts(make("convergence"), map(probe, answers)) == expected


def test_a_wider_window_waits_longer():
    assert verdicts(make("convergence", window=3), [probe(4)] * 3) == [False, False, True]


@pytest.mark.parametrize(
    ("answer", "confidence", "expected"),
    [(0, 0.95, True), (0, 0.9499, False), (0, None, False), (None, 0.99, False)],
    ids=["just-enough", "just-below", "unknown", "no-answer"],
)
def test_confidence(answer, confidence, expected):
    assert verdicts(make("confidence"), [probe(answer, confidence)]) == [expected]


def test_entropy_waits_for_its_probes_and_for_calm():
    calm, restless = [0.3, 0.31, 0.3], [0.3, 0.9, 0.2, 1.2, 0.1]
    assert verdicts(make("entropy"), [probe(entropy=x) for x in calm]) == [False, False, True]
    assert not any(verdicts(make("entropy"), [probe(entropy=x) for x in restless]))
    assert not any(verdicts(make("entropy"), [probe(entropy=None)] * 9))


@pytest.mark.parametrize(
    ("probes", "expected"),
    [
        pytest.param([(1, 0.99, None), (1, 0.99, None)], True, id="equal-and-confident"),
        pytest.param([(1, 0.2, 0.5), (1, 0.2, 0.5), (1, 0.2, 0.5)], True, id="equal-and-settled"),
        pytest.param([(1, 0.99, None), (2, 0.99, None)], False, id="confident-and-different"),
        pytest.param([(1, 0.2, None), (1, 0.2, None)], False, id="equal-and-unsure"),
    ],
)
def test_combined(probes, expected):
    seen = verdicts(make("combined"), [probe(*one) for one in probes])
    assert (seen[-1], any(seen[:-1])) == (expected, False)


def test_giving_up_bears_its_own_name_and_only_late():
    setting = Setting(thinking_tokens=1000)
    rule = make("convergence", setting, hopeless=0.5)
    assert rule.observe(probe(1, 0.1, at_token=300)) is CONTINUE
    assert rule.observe(probe(2, 0.6, at_token=990)) is CONTINUE
    assert rule.observe(probe(3, 0.1, at_token=990)) == CloseThought(sample=0, rule="hopeless")
    assert rule.observe(thought(5)) == CloseThought(sample=0, rule="hopeless")


def test_what_is_asked_of_a_thought_rises_along_the_cap():
    hopeless = Hopeless(0.8, 0.7, 12.0, 1000)
    asked = [hopeless.asked_at(position) for position in range(0, 2000, 50)]
    assert asked == sorted(asked)
    assert asked[0] < 0.001
    assert hopeless.asked_at(700) == pytest.approx(0.4)
    assert asked[-1] == pytest.approx(0.8 / (1 + 2.718281828 ** (-3.6)))
    assert not Hopeless(None, 0.7, 12.0, 1000).gives_up(1000, 0.0)
    assert not Hopeless(0.8, 0.7, 12.0, None).gives_up(1000, 0.0)
    assert not hopeless.gives_up(1000, None)


def test_samples_are_judged_apart():
    rule = make("convergence")
    assert rule.observe(probe(1, sample=0)) is CONTINUE
    assert rule.observe(probe(1, sample=1)) is CONTINUE
    assert rule.observe(probe(1, sample=1)) == CloseThought(sample=1, rule="convergence")
    assert rule.observe(thought(300, sample=0)) == TakeProbe(sample=0, rule="convergence", max_tokens=20)


def test_answers_are_not_probed():
    assert make("convergence").observe(thought(9999, phase=Phase.ANSWER)) is CONTINUE


def test_a_refused_probe_is_asked_for_again_at_the_next_place():
    rule = make("convergence", probe_first=10, probe_growth=2.0)
    asked = [position for position in range(1, 100) if isinstance(rule.observe(thought(1)), TakeProbe)]
    assert asked == [10, 20, 40, 80]


def test_the_baseline_probes_evenly():
    rule = make("fixed_interval")
    asked = [position for position in range(1, 300) if isinstance(rule.observe(thought(1)), TakeProbe)]
    assert asked == [64, 128, 192, 256]


def test_moving_moments_weigh_as_they_say():
    rate, values = 0.3, [4.0, 1.0, 5.0, 2.0]
    moments = MovingMoments(rate)
    for value in values:
        moments.add(value)
    weights = [(1 - rate) ** (len(values) - 1 - place) for place in range(len(values))]
    mean = sum(w * x for w, x in zip(weights, values, strict=True)) / sum(weights)
    variance = sum(w * (x - mean) ** 2 for w, x in zip(weights, values, strict=True)) / sum(weights)
    assert (moments.mean, moments.variance) == (pytest.approx(mean), pytest.approx(variance))
