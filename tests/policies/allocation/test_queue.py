from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suffice.policies.allocation import queue as queue_module
from suffice.policies.allocation.queue import FairQueue
from suffice.policies.allocation.tickets import Queued, QueueRule, Refusal, ServiceClass, Ticket
from suffice.policies.errors import IllegalEvent

BULK, INTERACTIVE = ServiceClass.BULK, ServiceClass.INTERACTIVE


def ticket(name, tenant="t", cost=10.0, **more):
    return Ticket(id=name, tenant=tenant, cost=cost, **more)


def filled(*tickets, rule=None, rate=100.0):
    queue = FairQueue(rule, rate=rate)
    for each in tickets:
        assert isinstance(queue.offer(each, 0.0), Queued)
    return queue


def drain(queue, count=None):
    taken = []
    while (each := queue.take()) is not None and (count is None or len(taken) < count):
        taken.append(each)
    return taken


def test_one_tenant_is_served_in_the_order_of_coming():
    queue = filled(*(ticket(name) for name in range(5)))
    assert [each.id for each in drain(queue)] == list(range(5))
    assert len(queue) == 0
    assert queue.work == 0
    assert queue.take() is None


def test_the_earliest_deadline_goes_first_within_a_tenant():
    queue = filled(ticket("none"), ticket("late", deadline=90.0), ticket("soon", deadline=50.0))
    assert [each.id for each in drain(queue)] == ["soon", "late", "none"]


def test_tenants_share_by_what_their_requests_cost():
    cheap = [ticket(f"c{index}", "cheap", cost=10) for index in range(100)]
    dear = [ticket(f"d{index}", "dear", cost=40) for index in range(100)]
    taken = drain(filled(*dear, *cheap), 50)
    spent = Counter()
    for each in taken:
        spent[each.tenant] += each.cost
    assert abs(spent["cheap"] - spent["dear"]) <= 80


def test_weights_scale_a_tenants_part():
    queue = filled(
        *(ticket(f"a{index}", "a", weight=3.0) for index in range(100)),
        *(ticket(f"b{index}", "b") for index in range(100)),
    )
    counts = Counter(each.tenant for each in drain(queue, 40))
    assert 29 <= counts["a"] <= 31


def test_classes_share_by_their_parts_and_bulk_never_starves():
    queue = filled(
        *(ticket(f"i{index}", f"i{index % 7}", service=INTERACTIVE) for index in range(200)),
        *(ticket(f"b{index}", "b", service=BULK) for index in range(200)),
    )
    counts = Counter(each.service for each in drain(queue, 90))
    assert counts[BULK] == 10
    assert counts[INTERACTIVE] == 80


def test_a_class_alone_gets_everything_and_a_returning_class_goes_first_at_a_tie():
    queue = filled(*(ticket(f"b{index}", service=BULK) for index in range(10)))
    assert {each.service for each in drain(queue, 5)} == {BULK}
    queue.offer(ticket("i", service=INTERACTIVE), 1.0)
    assert queue.take().id == "i"


def test_who_was_away_comes_back_level_and_keeps_what_it_overdrew():
    queue = filled(
        *(ticket(f"a{index}", "a") for index in range(20)), *(ticket(f"b{index}", "b") for index in range(20))
    )
    drain(queue, 10)
    queue.offer(ticket("new", "c"), 1.0)
    following = [each.tenant for each in drain(queue, 9)]
    assert following.count("c") == 1
    assert 3 <= following.count("a") <= 5

    greedy = filled(ticket("g", "greedy", cost=500.0), ticket("o0", "other"))
    drain(greedy, 1)
    for index in range(1, 30):
        greedy.offer(ticket(f"o{index}", "other"), 1.0)
    greedy.offer(ticket("again", "greedy"), 1.0)
    assert "again" not in {each.id for each in drain(greedy, 20)}


def test_the_charge_is_corrected_when_a_request_ends():
    queue = filled(*(ticket(f"{name}{index}", name) for index in range(30) for name in "ab"))
    first = [queue.take(), queue.take()]
    mine = next(each for each in first if each.tenant == "a")
    queue.settle(mine, 110.0)
    assert Counter(each.tenant for each in drain(queue, 12))["a"] <= 2


def test_settling_a_tenant_without_waiting_requests_is_remembered():
    queue = filled(ticket("only", "a"))
    taken = queue.take()
    queue.settle(taken, 100.0)
    for index in range(20):
        queue.offer(ticket(f"b{index}", "b"), 1.0)
    queue.offer(ticket("a2", "a"), 1.0)
    assert "a2" not in {each.id for each in drain(queue, 9)}


def test_the_bounds_hold_for_all_and_for_each_tenant():
    rule = QueueRule(most=5, most_per_tenant=3)
    queue = filled(ticket(0), ticket(1), ticket(2), rule=rule)
    refused = queue.offer(ticket(3), 0.0)
    assert refused.reason is Refusal.TENANT_FULL
    assert refused.retry_after_s >= rule.least_retry_s
    queue.offer(ticket(4, "u"), 0.0)
    queue.offer(ticket(5, "v"), 0.0)
    assert queue.offer(ticket(6, "w"), 0.0).reason is Refusal.FULL
    queue.take()
    assert isinstance(queue.offer(ticket(6, "w"), 0.0), Queued)
    with pytest.raises(IllegalEvent):
        queue.offer(ticket(6, "w"), 0.0)


def test_a_deadline_out_of_reach_is_told_at_the_door():
    queue = filled(*(ticket(name, cost=100.0) for name in range(10)), rate=100.0)
    assert queue.expected_wait(ticket("x")) == pytest.approx(10.0)
    assert queue.offer(ticket("x", deadline=12.0, service_s=5.0), 0.0).reason is Refusal.DEADLINE
    assert isinstance(queue.offer(ticket("x", deadline=16.0, service_s=5.0), 0.0), Queued)


def test_the_expected_wait_of_a_light_tenant_is_not_that_of_the_heavy_one():
    queue = filled(*(ticket(name, "heavy", cost=100.0) for name in range(50)), rate=100.0)
    assert queue.expected_wait(ticket("x", "light", cost=10.0)) == pytest.approx(0.1)
    assert queue.expected_wait(ticket("y", "heavy")) == pytest.approx(50.0)
    bulk = ticket("z", "light", cost=10.0, service=BULK)
    assert 0.3 < queue.expected_wait(bulk) < 2.0


def test_the_rate_follows_what_the_engine_holds():
    queue = FairQueue(rate=100.0)
    for second in range(200):
        queue.observe_rate(float(second), 400.0)
    queue.offer(ticket("a", cost=400.0), 0.0)
    assert queue.expected_wait(ticket("b")) == pytest.approx(1.0, rel=0.01)


def test_requests_that_can_no_longer_make_it_are_taken_out():
    queue = filled(
        ticket("a", deadline=10.0, service_s=4.0), ticket("b", deadline=20.0), ticket("c"), ticket("d", deadline=8.0)
    )
    assert queue.next_expiry() == 6.0
    queue.cancel("d")
    assert [each.id for each in queue.expire(7.0)] == ["a"]
    assert queue.next_expiry() == 20.0
    assert queue.expire(19.0) == ()
    queue.cancel("b")
    assert queue.next_expiry() is None
    assert [each.id for each in drain(queue)] == ["c"]


def test_cancelling_is_idempotent_and_leaves_no_trace():
    queue = filled(ticket("a"), ticket("b"))
    assert queue.cancel("a").id == "a"
    assert queue.cancel("a") is None
    assert queue.waiting(ServiceClass.DEFAULT) == 1
    assert [each.id for each in drain(queue)] == ["b"]


def test_memory_is_bounded_whatever_comes_and_goes():
    queue = filled(ticket("stays", "x", deadline=1e9))
    for index in range(3000):
        queue.offer(ticket(index, "x", deadline=1e9), 0.0)
        queue.cancel(index)
        queue.offer(ticket(index, f"t{index}", cost=1000), 0.0)
        queue.cancel(index)
    lane = queue._lanes[ServiceClass.DEFAULT]
    assert len(lane.lines["x"].heap) < 200
    assert len(queue._expiry) < 200
    assert len(lane.heap) < 200
    assert len(queue._tenants) == 1


def test_of_tenants_that_overdrew_only_so_many_are_remembered(monkeypatch):
    monkeypatch.setattr(queue_module, "_MOST_IDLE", 3)
    queue = FairQueue(rate=1.0)
    for index in range(10):
        queue.offer(ticket(index, f"t{index}"), 0.0)
    drain(queue)
    assert len(queue._lanes[ServiceClass.DEFAULT].idle) == 3


def test_a_request_that_does_not_fit_is_overtaken_a_bounded_number_of_times():
    rule = QueueRule(skips=5)
    queue = filled(ticket("huge", "a"), rule=rule)
    taken = []
    for index in range(20):
        queue.offer(ticket(index, "b"), 0.0)
        each = queue.take(lambda candidate: candidate.id != "huge")
        if each is not None:
            taken.append(each.id)
    assert len(taken) == 5
    assert queue.take().id == "huge"


def test_being_refused_while_nobody_overtakes_counts_for_nothing():
    queue = filled(ticket("huge"), rule=QueueRule(skips=1))
    for _ in range(10):
        assert queue.take(lambda _: False) is None
    queue.offer(ticket("small", "b"), 0.0)
    assert queue.take(lambda candidate: candidate.id == "small").id == "small"


def test_another_class_may_go_while_one_does_not_fit():
    queue = filled(ticket("i", service=INTERACTIVE), ticket("b", service=BULK))
    assert queue.take(lambda candidate: candidate.service is BULK).id == "b"


@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("offer"),
                st.integers(0, 3),
                st.sampled_from(ServiceClass),
                st.floats(0.1, 50),
                st.one_of(st.none(), st.floats(0, 100)),
            ),
            st.tuples(st.just("take"), st.integers(0, 3)),
            st.tuples(st.just("cancel"), st.integers(0, 60)),
            st.tuples(st.just("settle"), st.floats(0, 100)),
            st.tuples(st.just("expire"), st.floats(0, 100)),
        ),
        max_size=120,
    )
)
@settings(deadline=None)
def test_nothing_is_lost_or_served_twice_and_the_queue_is_work_conserving(actions):
    queue = FairQueue(QueueRule(most=30, most_per_tenant=12), rate=10.0)
    waiting, taken, number = {}, [], 0
    for action, *rest in actions:
        if action == "offer":
            tenant, service, cost, deadline = rest
            each = ticket(number, f"t{tenant}", cost=cost, service=service, deadline=deadline)
            number += 1
            if isinstance(queue.offer(each, 0.0), Queued):
                waiting[each.id] = each
        elif action == "take":
            unwanted = f"t{rest[0]}"
            each = queue.take(lambda candidate, unwanted=unwanted: candidate.tenant != unwanted)
            if each is not None:
                assert waiting.pop(each.id) == each
                taken.append(each)
        elif action == "cancel":
            assert (queue.cancel(rest[0]) is not None) == (waiting.pop(rest[0], None) is not None)
        elif action == "settle" and taken:
            queue.settle(taken.pop(), rest[0])
        elif action == "expire":
            for each in queue.expire(rest[0]):
                assert waiting.pop(each.id).deadline < rest[0]
        assert len(queue) == len(waiting)
        assert queue.work == pytest.approx(sum(each.cost for each in waiting.values()), abs=1e-6)
    assert {each.id for each in drain(queue)} == set(waiting)


@given(st.lists(st.floats(1, 20), min_size=2, max_size=5), st.integers(0, 10_000))
@settings(deadline=None, max_examples=50)
def test_the_difference_between_busy_tenants_is_bounded_by_their_largest_requests(costs, seed):
    queue = FairQueue(rate=10.0)
    for tenant, cost in enumerate(costs):
        for index in range(40):
            size = cost * (0.5 + (seed * 31 + index * 17 + tenant) % 100 / 100)
            queue.offer(ticket((tenant, index), f"t{tenant}", cost=size), 0.0)
    spent = Counter()
    largest = 1.5 * max(costs)
    # As long as all have work, nobody is ahead of another by more than twice the largest request.
    while all(any(each.tenant == f"t{tenant}" for each in _waiting(queue)) for tenant in range(len(costs))):
        each = queue.take()
        spent[each.tenant] += each.cost
        levels = [spent[f"t{tenant}"] for tenant in range(len(costs))]
        assert max(levels) - min(levels) <= 2 * largest


def _waiting(queue):
    return [waiting.ticket for waiting in queue._waiting.values()]


def test_a_ticket_can_be_offered_again_under_its_name_once_it_is_gone():
    queue = filled(ticket("a", deadline=5.0))
    queue.cancel("a")
    queue.offer(replace(ticket("a"), deadline=50.0), 0.0)
    assert queue.expire(10.0) == ()
    assert queue.take().deadline == 50.0
