"""What the price of a sample does to the drawing: nothing where it is free, never more samples where it is dearer."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import Upstream, answers, make, recorded, voted
from suffice.policies.auditing import AuditedVote
from suffice.policies.decisions import CONTINUE, DrawSamples, EndRequest, Finish
from suffice.policies.events import Chunk, Phase, Priced, PromptCounted, Voted
from suffice.policies.replay import RecordedSample, replay_votes
from suffice.policies.sampling import RULES, Draw
from suffice.policies.sampling.price import SamplePrice

ALL = pytest.mark.parametrize("name", sorted(RULES.kinds))
VOTING = sorted(name for name, kind in RULES.kinds.items() if make(name).priced)


def priced(second=0.0, block_second=0.0, *, token_s=0.01, step_s=0.02, block_size=16):
    return Priced(
        at=0.0, second=second, block_second=block_second, token_s=token_s, step_s=step_s, block_size=block_size
    )


def prompt(tokens):
    return PromptCounted(at=0.0, sample=0, prompt_tokens=tokens)


def as_recorded(samples):
    return [
        RecordedSample(answer=None if answer is None else str(answer), tokens=tokens, score=score, confidence=sure)
        for answer, tokens, score, sure in samples
    ]


def test_a_sample_costs_its_share_of_the_steps_and_the_blocks_it_holds():
    price = SamplePrice()
    assert price.cost == 0
    for event in (priced(0.5, 0.25), prompt(160), voted(0, 0, tokens=80), voted(1, 0, tokens=120)):
        price.take(event)
    seconds, block_seconds = 100 * 0.01, 0.02 / 16 * (160 * 100 + 100**2 / 2)
    assert price.mean == 100
    assert price.cost == pytest.approx(0.5 * seconds + 0.25 * block_seconds)
    price.take(priced(0.5, 0.25, block_size=0))
    assert price.cost == pytest.approx(0.5 * seconds)
    price.take(prompt(10_000))
    assert price.prompt == 160


@pytest.mark.parametrize(
    ("second", "drawn"),
    [(0.0, 4), (0.02, 3), (0.05, 2), (0.2, 1), (100.0, 1)],
    ids=["free", "cheap", "fair", "dear", "absurd"],
)
def test_the_drawing_ends_where_the_next_vote_is_not_worth_its_price(second, drawn):
    """The odds that a lead of one, two or three is turned are 1/8, 1/24 and 1/64 a vote; a sample takes a second."""
    draw = Draw(make("adaptive_consistency"), wave=1, most=40)
    draw.observe(priced(second))
    for sample in range(drawn - 1):
        assert draw.observe(voted(sample, 0, tokens=100)) == DrawSamples(count=1, rule="adaptive_consistency")
    by = "price" if second else "adaptive_consistency"
    stop = EndRequest(rule=by, finish=Finish.STOP)
    assert draw.observe(voted(drawn - 1, 0, tokens=100)) == stop
    assert draw.observe(priced()) == draw.observe(voted(drawn, 1)) == stop
    assert (draw.stopped_by, draw.winner, draw.launched, draw.drawn) == (by, 0, drawn, drawn)


def test_a_split_vote_is_worth_more_than_a_clear_one():
    clear, split = (Draw(make("majority_lock"), wave=2, most=40) for _ in range(2))
    for draw, second in ((clear, 0), (split, 1)):
        draw.observe(priced(0.1))
        draw.observe(voted(0, 0, tokens=100))
        draw.observe(voted(1, second, tokens=100))
    assert clear.stopped_by == "price"
    assert split.stopped_by is None


@pytest.mark.parametrize(
    ("price", "length"),
    [(priced(0.0, 0.01), 4000), (priced(0.01, 0.0), 4000)],
    ids=["memory", "time"],
)
def test_a_long_prompt_is_paid_in_memory_only(price, length):
    stopped = []
    for tokens in (0, length):
        draw = Draw(make("majority_lock"), wave=2, most=40)
        draw.observe(prompt(tokens))
        draw.observe(price)
        for sample in range(2):
            draw.observe(voted(sample, 0, tokens=50))
        stopped.append(draw.stopped_by)
    assert stopped == [None, "price" if price.block_second else None]


def test_the_latest_price_is_in_force():
    draw = Draw(make("majority_lock"), wave=1, most=40)
    draw.observe(priced(100.0))
    draw.observe(priced())
    assert isinstance(draw.observe(voted(0, 0, tokens=100)), DrawSamples)
    draw.observe(priced(100.0))
    assert draw.observe(voted(1, 0, tokens=100)) == EndRequest(rule="price", finish=Finish.STOP)


def best_of_n(second, *, cost=0.0, scores=(0.1, 0.5, 0.2, 0.4, 0.3, 0.45)):
    rule = make("best_of_n", 40, cost=cost, least=4)
    rule.observe(priced(second))
    for sample, score in enumerate(scores):
        decision = rule.observe(voted(sample, 0, tokens=100, score=score))
    return rule, decision


def test_best_of_n_pays_the_price_beside_its_own_cost():
    free, going = best_of_n(0.0)
    assert free.reservation_value == math.inf
    assert going is CONTINUE
    dear, ended = best_of_n(1.0)
    assert ended == EndRequest(rule="price", finish=Finish.STOP)
    assert dear.reservation_value < 0.5
    assert dear.winner == 1
    # A second a sample at half a gain a second, or half a point for its hundred tokens: one and the same.
    half, same = best_of_n(0.5)[0], best_of_n(0.0, cost=5.0)[0]
    assert half.reservation_value == pytest.approx(same.reservation_value)
    assert best_of_n(0.5, cost=5.0)[1] == EndRequest(rule="best_of_n", finish=Finish.STOP)
    assert best_of_n(math.inf)[0].reservation_value == -math.inf


def test_an_audited_vote_is_drawn_in_full_at_any_price():
    draw = Draw(AuditedVote(make("bayesian", 8)), wave=2, most=8)
    assert Priced not in draw.listens
    assert Priced not in AuditedVote(make("best_of_n", 8)).listens
    draw.observe(priced(1e9))
    for sample in range(8):
        assert not isinstance(draw.observe(voted(sample, 0, tokens=100)), EndRequest)
    assert draw.launched == draw.drawn == 8


free_prices = st.builds(
    priced,
    token_s=st.floats(0, 10),
    step_s=st.floats(0, 10),
    block_size=st.sampled_from([0, 1, 16]),
)


@ALL
@given(
    sequence=st.lists(
        st.one_of(
            st.builds(voted, st.integers(0, 30), answers, st.integers(0, 100), score=st.none() | st.floats(-2, 2)),
            free_prices,
            st.builds(prompt, st.integers(1, 9000)),
            st.builds(
                Chunk,
                at=st.just(0.0),
                sample=st.integers(0, 30),
                tokens=st.just(1),
                phase=st.just(Phase.ANSWER),
                confidences=st.just((1.0,)),
            ),
        ),
        max_size=60,
    ),
    most=st.integers(1, 20),
    wave=st.integers(1, 6),
)
def test_at_a_price_of_nothing_every_decision_is_as_without_any(name, sequence, most, wave):
    told, untold = (Draw(make(name, most), wave=wave, most=most) for _ in range(2))
    assert told.first == untold.first
    for event in sequence:
        decision = told.observe(event)
        if not isinstance(event, Priced):
            assert decision == untold.observe(event)
    for fact in ("winner", "confidence", "counts", "launched", "stopped_by", "certified"):
        assert getattr(told, fact) == getattr(untold, fact)


prices = st.builds(
    priced,
    st.floats(0, 50),
    st.floats(0, 50),
    token_s=st.floats(0, 0.1),
    step_s=st.floats(0, 0.1),
    block_size=st.sampled_from([0, 16]),
)


@ALL
@given(
    samples=st.lists(recorded, min_size=1, max_size=20),
    price=prices,
    dearer=st.tuples(st.floats(1, 20), st.floats(1, 20)),
    wave=st.integers(1, 6),
)
def test_a_higher_price_never_draws_more(name, samples, price, dearer, wave):
    votes = as_recorded(samples)
    higher = priced(
        price.second * dearer[0],
        price.block_second * dearer[1],
        token_s=price.token_s,
        step_s=price.step_s,
        block_size=price.block_size,
    )
    free, cheap, dear = (
        replay_votes(votes, lambda: make(name, len(votes)), range(len(votes)), wave=wave, priced=one)
        for one in (None, price, higher)
    )
    first = Draw(make(name, len(votes)), wave=wave, most=len(votes)).first
    assert first <= dear.drawn <= cheap.drawn <= free.drawn
    assert dear.tokens <= cheap.tokens <= free.tokens
    assert (dear.winner is None) <= all(vote.answer is None for vote in votes[:first])
    if name in {"all", "first_finish"}:
        assert dear == free


@ALL
@given(samples=st.lists(recorded, min_size=1, max_size=16), price=prices, wave=st.integers(1, 6))
def test_a_priced_replay_is_what_the_chain_does_live(name, samples, price, wave):
    draw = Draw(make(name, len(samples)), wave=wave, most=len(samples))
    upstream = Upstream(draw, samples)
    assert upstream.chain.observe(price) == ()
    live = upstream.run()
    votes = as_recorded(samples)
    replayed = replay_votes(votes, lambda: make(name, len(samples)), range(len(samples)), wave=wave, priced=price)
    assert (live.launched, live.chain.meter.used) == (replayed.drawn, replayed.tokens)
    assert draw.stopped_by == replayed.stopped_by


any_price = st.builds(
    Priced,
    at=st.just(0.0),
    second=st.floats(),
    block_second=st.floats(),
    token_s=st.floats(),
    step_s=st.floats(),
    block_size=st.integers(-1, 64),
)


@ALL
@given(
    sequence=st.lists(
        st.one_of(
            st.builds(
                Voted,
                at=st.just(0.0),
                sample=st.integers(0, 30),
                answer=answers,
                tokens=st.integers(0, 10**6),
                score=st.none() | st.floats(),
            ),
            any_price,
            st.builds(prompt, st.integers(0, 10**6)),
        ),
        max_size=60,
    ),
    wave=st.integers(1, 6),
)
def test_any_price_is_taken_and_a_stop_stays(name, sequence, wave):
    draw = Draw(make(name, 20), wave=wave, most=20)
    stop = None
    for event in sequence:
        decision = draw.observe(event)
        if stop is not None:
            assert decision is stop
        elif isinstance(decision, EndRequest):
            stop = decision
            assert stop.rule in {name, "majority_lock", "price"}
    assert draw.stopped_by == (None if stop is None else stop.rule)


def test_rules_of_votes_hear_of_prices():
    assert set(VOTING) == RULES.kinds.keys() - {"all", "best_of_n", "first_finish"}
    for name in VOTING:
        assert {Priced, PromptCounted} <= Draw(make(name), wave=1, most=40).listens
