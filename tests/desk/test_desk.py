"""The desk without a server: who starts, who waits, who is refused, and that nothing it holds is ever lost."""

import asyncio
from dataclasses import replace

import pytest
from suffice.policies.allocation.lengths import LengthBook
from suffice.policies.allocation.tickets import ServiceClass
from suffice.policies.memory.capacity import KvCapacity
from suffice.server.config import KvSection
from suffice.server.desk.desk import Desk
from suffice.server.desk.seat import Visit
from suffice.server.engine.metrics import EngineState
from suffice.server.errors import ClientLeft, ContextExceeded, DeadlineUnreachable, Overloaded
from suffice.server.telemetry.metrics import Metrics

POOL = KvCapacity(block_size=16, pool_blocks=101)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def made(blocks=100, **section):
    clock = Clock()
    desk = Desk(KvSection(**{"headroom": 0} | section), Metrics(), LengthBook(), clock)
    if blocks:
        desk.read(EngineState(at=clock.now, kv_usage=0.5, capacity=replace(POOL, pool_blocks=blocks + 1)))
    return desk, clock


def visit(name, *, tokens=784, prompt=16, **more):
    """A request of half the memory, unless told otherwise: 800 tokens are 50 blocks."""
    about = {"key": "k", "tenant": "t", "route": "chat", "model": "m", "service": ServiceClass.DEFAULT}
    return Visit(**about | {"id": name, "prompt_tokens": prompt, "sample_tokens": tokens, "received": 1000.0} | more)


async def waiting(desk, *visits):
    """Seats and their tasks, each at rest."""
    found = []
    for one in visits:
        seat = desk.seat(one)
        found.append((seat, asyncio.create_task(seat.wait())))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return found


def verdicts(desk):
    """What the desk decided, by its own metric."""
    samples = next(iter(desk._metrics.admission_decisions.collect())).samples
    return {one.labels["verdict"]: one.value for one in samples if one.name.endswith("_total")}


@pytest.mark.anyio
async def test_as_many_start_as_fit_and_the_next_when_one_leaves():
    desk, clock = made()
    (a, ta), (b, tb), (c, tc) = await waiting(desk, visit("a"), visit("b", tokens=700), visit("c", tokens=700))
    assert (ta.done(), tb.done(), tc.done()) == (True, True, False)
    clock.now += 3
    a.leave()
    await asyncio.sleep(0)
    await tc
    assert c.queue_s == 3
    assert verdicts(desk) == {"admitted": 2, "queued": 1}
    for seat in (a, b, c):
        seat.leave()
        seat.leave()
    assert len(desk.admission) == 0
    assert desk.admission.peak == 0


@pytest.mark.anyio
async def test_what_can_never_fit_is_told_at_once():
    desk, _ = made()
    with pytest.raises(ContextExceeded, match="at most 1599 tokens fits") as caught:
        await desk.seat(visit("a", tokens=5000)).wait()
    assert (caught.value.status, caught.value.error_code) == (400, "kv_cache_exceeded")


@pytest.mark.anyio
async def test_a_prompt_estimated_too_long_keeps_nobody_waiting():
    desk, _ = made()
    await asyncio.wait_for(desk.seat(visit("a", prompt=100_000, tokens=1500)).wait(), 1)


@pytest.mark.anyio
async def test_one_that_fills_the_memory_alone_is_let_in_alone():
    desk, _ = made()
    (_, first), (_, second) = await waiting(desk, visit("a", tokens=1584), visit("b", tokens=1))
    assert first.done()
    assert not second.done()
    second.cancel()


@pytest.mark.anyio
async def test_the_queue_is_bounded_in_all_and_for_each_tenant():
    desk, _ = made(queue=3, queue_per_tenant=2)
    await waiting(desk, visit("a"), visit("b", tokens=700))
    seats = await waiting(desk, visit("c"), visit("d"))
    with pytest.raises(Overloaded) as caught:
        await desk.seat(visit("e")).wait()
    assert (caught.value.error_code, caught.value.status) == ("tenant_queue_full", 503)
    assert caught.value.headers()["retry-after"]
    seats += await waiting(desk, visit("f", tenant="u"))
    with pytest.raises(Overloaded) as caught:
        await desk.seat(visit("g", tenant="v")).wait()
    assert caught.value.error_code == "queue_full"
    for _, task in seats:
        task.cancel()


@pytest.mark.anyio
async def test_a_deadline_that_the_wait_breaks_is_told_at_the_door():
    desk, _ = made()
    desk.pace.step_s = 0.1
    await waiting(desk, visit("a", tokens=1584))
    with pytest.raises(DeadlineUnreachable) as caught:
        await desk.seat(visit("b", deadline_s=20)).wait()
    assert caught.value.error_code == "deadline_unreachable"
    assert float(caught.value.headers()["retry-after"]) > 0


@pytest.mark.anyio
async def test_a_deadline_that_passes_in_the_queue_is_told_then():
    desk, clock = made()
    desk.pace.step_s = 0.001
    await waiting(desk, visit("a", tokens=1584))
    ((_, task),) = await waiting(desk, visit("b", deadline_s=30))
    assert not task.done()
    clock.now += 31
    desk.advance()
    with pytest.raises(DeadlineUnreachable):
        await task


@pytest.mark.anyio
async def test_whoever_leaves_the_queue_leaves_nothing_behind():
    desk, _ = made()
    await waiting(desk, visit("a", tokens=1584))
    (left, gone), (_, cancelled), (_, last) = await waiting(desk, visit("b"), visit("c"), visit("d"))
    left.give_up()
    left.give_up()
    cancelled.cancel()
    with pytest.raises(ClientLeft):
        await gone
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert len(desk._queue) == len(desk._waiting) == 1
    desk.close()
    with pytest.raises(Overloaded) as caught:
        await last
    assert caught.value.error_code == "shutting_down"
    with pytest.raises(Overloaded):
        await desk.seat(visit("e")).wait()
    assert len(desk._queue) == len(desk._waiting) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("known", [True, False], ids=["stale", "never-read"])
@pytest.mark.parametrize("rule", ["fail_open", "fail_closed", "hold_last"])
async def test_an_engine_that_is_not_seen(rule, known):
    desk, clock = made(100 if known else 0, when_stale=rule, stale_s=5)
    clock.now += 6
    first = desk.seat(visit("a", tokens=1584))
    second = desk.seat(visit("b", tokens=1584))
    if rule == "fail_closed":
        with pytest.raises(Overloaded) as caught:
            await first.wait()
        assert caught.value.error_code == "engine_state_unknown"
    elif rule == "fail_open" or not known:
        await first.wait()
        await second.wait()
    else:
        await first.wait()
        ((_, task),) = await waiting(desk, visit("c", tokens=1584))
        assert not task.done()
        task.cancel()


@pytest.mark.anyio
async def test_without_admission_everybody_starts():
    desk, _ = made(admission="off")
    for name in "abcdefgh":
        await desk.seat(visit(name)).wait()
    assert verdicts(desk) == {"off": 8}


@pytest.mark.anyio
async def test_answers_that_were_short_let_more_in():
    desk, _ = made()
    for _ in range(40):
        desk.learn(visit("x"), 64, cut=False)
    seats = [desk.seat(visit(str(number))) for number in range(12)]
    for seat in seats:
        await asyncio.wait_for(seat.wait(), 1)
    assert desk.admission.peak_blocks <= 100


@pytest.mark.anyio
async def test_a_sample_that_outlives_its_prediction_is_seen():
    desk, _ = made()
    for _ in range(40):
        desk.learn(visit("x"), 64, cut=False)
    seat = desk.seat(visit("a"))
    await seat.wait()
    seat.opened(0, 0)
    before = desk.admission.peak
    for _ in range(200):
        seat.grew(0, 1)
    desk.advance()
    assert desk.admission.peak > before + 100
    seat.closed(0)
    assert desk.admission.peak == 0


@pytest.mark.anyio
async def test_a_sample_that_goes_on_holds_what_it_generated():
    desk, _ = made()
    seat = desk.seat(visit("a"))
    await seat.wait()
    seat.opened(0, 0)
    seat.grew(0, 100)
    seat.closed(0)
    assert desk.admission.peak == 0
    seat.opened(0, 100)
    assert desk.admission.peak >= 116
    seat.leave()
    assert desk.admission.peak == 0
    assert desk.pace.samples == 0


@pytest.mark.anyio
async def test_what_is_told_twice_or_oddly_does_no_harm():
    desk, _ = made()
    seat = desk.seat(visit("a"))
    await seat.wait()
    seat.grew(0, 5)
    seat.opened(0, 0)
    for odd in (None, 7, {}, {"time_to_first_token_ms": "x", "generation_time_ms": 1}, {"time_to_first_token_ms": -1}):
        seat.timed(0, odd)
    seat.timed(0, {"time_to_first_token_ms": float("nan"), "generation_time_ms": 5.0})
    seat.closed(0)
    seat.closed(0)
    assert seat.block_seconds >= 0


@pytest.mark.anyio
async def test_tenants_take_turns_whoever_came_first():
    desk, _ = made()
    (first, _), *_ = await waiting(desk, visit("x", tokens=1584))
    order = []

    async def one(name, tenant):
        seat = desk.seat(visit(name, tokens=1584, tenant=tenant))
        await seat.wait()
        order.append(tenant)
        seat.leave()

    tasks = [asyncio.create_task(one(f"a{number}", "a")) for number in range(4)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(one("b", "b")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.leave()
    await asyncio.gather(*tasks)
    assert order.index("b") <= 1
