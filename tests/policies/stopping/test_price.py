"""What the price of thinking on does to a probed thought: nothing where it is free, an earlier end where it is dear."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.policies.auditing import AuditedExit
from suffice.policies.decisions import CONTINUE, CloseThought, Continue, TakeProbe
from suffice.policies.events import Chunk, Phase, Priced, Probed, PromptCounted
from suffice.policies.stopping import GUARDS, RULES, Setting
from suffice.policies.stopping.criteria import Confident, Converged, ConvergedAndSure, Never, Settled
from suffice.policies.stopping.lengths import RouteLengths
from suffice.policies.stopping.price import thinking_pays, tokens_ahead

PROBING = ("convergence", "confidence", "entropy", "combined", "hopeless", "fixed_interval")
SCHEDULE = {"probe_first": 4, "probe_growth": 1.3, "probe_tokens": 3}


def priced(second=0.0, block_second=0.0, *, token_s=0.01, step_s=0.02, block_size=16):
    return Priced(
        at=0.0, second=second, block_second=block_second, token_s=token_s, step_s=step_s, block_size=block_size
    )


def probe(answer=0, confidence=None, entropy=None, *, at_token=100, sample=0):
    return Probed(
        at=1.0, sample=sample, at_token=at_token, tokens=5, answer=answer, confidence=confidence, entropy=entropy
    )


def thought(tokens, sample=0):
    return Chunk(at=1.0, sample=sample, tokens=tokens, phase=Phase.THINKING)


def make(name, setting=None, **given):
    small = {"interval": 4, "probe_tokens": 3} if name == "fixed_interval" else SCHEDULE
    return RULES.make(name, small | given, setting=setting or Setting(thinking_tokens=100))


@pytest.mark.parametrize(
    ("criterion", "probes", "expected"),
    [
        pytest.param(Converged(3), [], 1.0, id="no-probe"),
        pytest.param(Converged(3), [probe(1)], 1 / 2, id="one-answer"),
        pytest.param(Converged(3), [probe(1), probe(1)], 1 / 3, id="two-equal"),
        pytest.param(Converged(3), [probe(1), probe(2)], 1 / 2, id="two-unlike"),
        pytest.param(Converged(3), [probe(1), probe(None)], 1.0, id="no-answer"),
        pytest.param(Confident(0.9), [probe(0, 0.3), probe(0, 0.75)], 0.25, id="confident"),
        pytest.param(Confident(0.9), [probe(0, 0.75), probe(0, None)], 1.0, id="confidence-unknown"),
        pytest.param(Confident(0.9), [probe(None, 0.75)], 1.0, id="confident-of-nothing"),
        pytest.param(Confident(0.9), [probe(0, math.nan)], 1.0, id="confidence-no-number"),
        pytest.param(Confident(0.9), [probe(0, 1.5)], 0.0, id="confidence-out-of-range"),
        pytest.param(Never(), [probe(0, 0.75)], 0.25, id="giving-up"),
        pytest.param(Settled(0.5, 1e-3, 3), [], 1.0, id="no-entropy"),
        pytest.param(Settled(0.5, 1e-3, 3), [probe(entropy=math.log(2))], 0.5, id="two-even-tokens"),
        pytest.param(Settled(0.5, 1e-3, 3), [probe(entropy=0.0)] * 2, 0.0, id="one-token"),
    ],
)
def test_how_probable_a_criterion_finds_another_answer(criterion, probes, expected):
    for one in probes:
        criterion.satisfied_by(one)
    assert criterion.doubt == pytest.approx(expected)


def test_combined_doubts_as_it_judges():
    both = ConvergedAndSure(Converged(2), Confident(0.9), Settled(0.5, 1e-3, 3))
    both.satisfied_by(probe(0, 0.9, 3.0))
    assert both.doubt == pytest.approx(1 / 2)
    for _ in range(20):
        both.satisfied_by(probe(0, 0.9, 3.0))
    assert both.doubt == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("usual", "longest", "expected"),
    [(None, None, 20), (500, None, 400), (90, None, 20), (500, 300, 200), (None, 90, 0)],
    ids=["next-probe", "usual", "past-the-usual", "cap", "past-the-cap"],
)
def test_a_thought_goes_on_to_its_usual_length_and_to_its_next_probe_at_least(usual, longest, expected):
    assert tokens_ahead(100, 120, usual, longest) == expected


def test_half_of_the_routes_thoughts_keep_to_the_usual_length():
    lengths = RouteLengths()
    assert Setting(lengths=lengths).usual_thought is None
    for tokens in range(1, 100):
        lengths.thoughts.add(tokens)
    assert Setting(lengths=lengths).usual_thought == 50
    assert Setting(lengths=lengths, usual_tokens=7).usual_thought == 7
    assert Setting(usual_tokens=7).usual_thought == 7
    for _ in range(200):
        lengths.thoughts.add(5, ended=False)
    assert Setting(lengths=lengths).usual_thought is None


def test_thinking_on_costs_its_share_of_the_steps_and_the_blocks_held():
    cost = 0.5 * 100 * 0.01 + 0.25 * 0.02 / 16 * (300 * 100 + 100**2 / 2)
    prices = priced(0.5, 0.25)
    assert thinking_pays(prices, cost * 1.001, held=300, tokens=100)
    assert not thinking_pays(prices, cost * 0.999, held=300, tokens=100)
    assert thinking_pays(None, 0.0, held=300, tokens=100)
    assert thinking_pays(priced(), 0.0, held=300, tokens=100)
    assert thinking_pays(prices, 0.0, held=300, tokens=0)


@pytest.mark.parametrize(
    ("second", "closed"),
    [(0.0, False), (0.2, False), (0.3, True)],
    ids=["free", "worth-it", "dear"],
)
def test_a_thought_is_closed_whose_doubt_is_not_worth_the_tokens_ahead(second, closed):
    """A confidence of 0.75 leaves a quarter to gain; the usual thought goes on for a hundred tokens, a second."""
    rule = make("confidence", Setting(thinking_tokens=1000, usual_tokens=200), probe_first=100)
    assert rule.observe(priced(second)) is CONTINUE
    assert rule.observe(PromptCounted(at=0.0, sample=0, prompt_tokens=64)) is CONTINUE
    assert isinstance(rule.observe(thought(100)), TakeProbe)
    expected = CloseThought(sample=0, rule="price") if closed else CONTINUE
    assert rule.observe(probe(0, 0.75)) == expected
    assert rule.observe(thought(1)) == expected


def test_the_rules_own_verdict_comes_before_the_price():
    rule = make("confidence", threshold=0.5)
    rule.observe(priced(1e9))
    rule.observe(thought(4))
    assert rule.observe(probe(0, 0.75)) == CloseThought(sample=0, rule="confidence")
    rule = make("convergence", hopeless=1.0, hopeless_middle=0.0)
    rule.observe(priced(1e9))
    rule.observe(thought(99))
    assert rule.observe(probe(0, 0.1, at_token=99)) == CloseThought(sample=0, rule="hopeless")


def test_each_sample_pays_for_its_own_prompt():
    rule = make("confidence", probe_first=10)
    rule.observe(priced(0.0, 0.01))
    for sample, tokens in enumerate((10, 100_000)):
        rule.observe(PromptCounted(at=0.0, sample=sample, prompt_tokens=tokens))
        rule.observe(thought(10, sample))
    assert rule.observe(probe(0, 0.75, sample=0)) is CONTINUE
    assert rule.observe(probe(0, 0.75, sample=1)) == CloseThought(sample=1, rule="price")


def test_an_audited_exit_hears_of_no_price():
    assert Priced not in AuditedExit(make("confidence")).listens


def test_rules_without_probes_hear_of_no_price():
    for registry in (RULES, GUARDS):
        for name in registry.kinds:
            rule = registry.make(name, {}, setting=Setting())
            assert (Priced in rule.listens) == (name in PROBING)


def play(name, probes, told, *, usual=None, tokens=90):
    """Every decision of a thought of so many tokens, a token at a time."""
    rule = make(name, Setting(thinking_tokens=100, usual_tokens=usual))
    decisions = []
    for position in range(1, tokens + 1):
        for price in told.get(position, ()):
            assert rule.observe(price) is CONTINUE
        decision = rule.observe(thought(1))
        decisions.append(decision)
        if isinstance(decision, TakeProbe):
            answer, confidence, entropy = probes[position % len(probes)]
            decisions.append(rule.observe(probe(answer, confidence, entropy, at_token=position)))
    return decisions


def first_close(decisions):
    places = [place for place, decision in enumerate(decisions) if isinstance(decision, CloseThought)]
    return min(places, default=math.inf)


probe_tables = st.lists(
    st.tuples(st.none() | st.integers(0, 2), st.none() | st.floats(0, 1), st.none() | st.floats(0, 2)),
    min_size=1,
    max_size=9,
)
usuals = st.none() | st.integers(1, 200)
free_prices = st.builds(
    priced, token_s=st.floats(0, 10), step_s=st.floats(0, 10), block_size=st.sampled_from([0, 1, 16])
)


@pytest.mark.parametrize("name", PROBING)
@given(
    probes=probe_tables,
    told=st.dictionaries(st.integers(1, 90), st.lists(free_prices, min_size=1, max_size=2), max_size=9),
    usual=usuals,
)
def test_at_a_price_of_nothing_every_decision_is_as_without_any(name, probes, told, usual):
    assert play(name, probes, told, usual=usual) == play(name, probes, {}, usual=None)


@pytest.mark.parametrize("name", PROBING)
@given(
    probes=probe_tables,
    second=st.floats(0, 20),
    block_second=st.floats(0, 20),
    dearer=st.tuples(st.floats(1, 20), st.floats(1, 20)),
    usual=usuals,
)
def test_a_higher_price_never_closes_later(name, probes, second, block_second, dearer, usual):
    free, cheap, dear = (
        play(name, probes, {1: [price]}, usual=usual)
        for price in (priced(), priced(second, block_second), priced(second * dearer[0], block_second * dearer[1]))
    )
    assert first_close(dear) <= first_close(cheap) <= first_close(free)
    ends = first_close(dear)
    assert dear[: len(dear) if ends is math.inf else ends] == free[: len(dear) if ends is math.inf else ends]


@pytest.mark.parametrize("name", PROBING)
@given(
    events=st.lists(
        st.one_of(
            st.builds(
                Priced,
                at=st.floats(),
                second=st.floats(),
                block_second=st.floats(),
                token_s=st.floats(),
                step_s=st.floats(),
                block_size=st.integers(-1, 64),
            ),
            st.builds(PromptCounted, at=st.floats(), sample=st.integers(0, 2), prompt_tokens=st.integers(0, 10**7)),
            st.builds(thought, st.integers(0, 10**6), st.integers(0, 2)),
            st.builds(
                probe,
                st.none() | st.integers(0, 2),
                st.none() | st.floats(),
                st.none() | st.floats(),
                at_token=st.integers(-1, 10**6),
                sample=st.integers(0, 2),
            ),
        ),
        max_size=50,
    ),
    usual=usuals,
)
def test_any_price_is_taken(name, events, usual):
    rule = make(name, Setting(usual_tokens=usual))
    closed = {}
    for event in events:
        decision = rule.observe(event)
        assert isinstance(decision, Continue | TakeProbe | CloseThought)
        if isinstance(event, Priced | PromptCounted):
            assert decision is CONTINUE
        elif event.sample in closed:
            assert decision == closed[event.sample]
        elif isinstance(decision, CloseThought):
            assert decision.sample == event.sample
            closed[event.sample] = decision
