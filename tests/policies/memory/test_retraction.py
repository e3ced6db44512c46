from hypothesis import given, settings
from hypothesis import strategies as st
from suffice.policies.memory.retraction import Generation, Retract, Retraction, RetractionRule


def generation(name, peak=100):
    return Generation(id=name, held_blocks=peak // 2, peak_blocks=peak)


def running(machine, *names, at=0.0):
    for name in names:
        machine.started(name, at)
    return tuple(generation(name) for name in names)


def test_pressure_pauses_bulk_work_down_to_the_low_mark_but_never_the_eldest():
    machine = Retraction()
    bulk = running(machine, "a", "b", "c", "d")
    done = machine.decide(10.0, 1000, 960, bulk)
    assert done == Retract(pause=("d", "c"))
    everything = machine.decide(20.0, 1000, 2000, bulk[:2])
    assert everything.pause == ("b",)


def test_it_resumes_in_the_order_of_the_pauses_and_only_below_the_low_mark():
    machine = Retraction()
    bulk = running(machine, "a", "b", "c", "d")
    assert machine.decide(10.0, 1000, 960, bulk).pause == ("d", "c")
    assert machine.paused == ("c", "d")
    assert machine.decide(11.0, 1000, 850, bulk[:2]) == Retract()
    assert machine.decide(12.0, 1000, 690, bulk[:2]).resume == ("c",)
    assert machine.decide(13.0, 1000, 500, bulk[:2]).resume == ("d",)


def test_the_largest_goes_first_and_whoever_was_paused_before_last():
    machine = Retraction(RetractionRule(grace_s=0))
    for name in "abc":
        machine.started(name, 0.0)
    bulk = (generation("a"), generation("b", 300), generation("c", 100))
    assert machine.decide(1.0, 1000, 960, bulk).pause == ("b",)
    assert machine.decide(2.0, 1000, 100, bulk).resume == ("b",)
    assert machine.decide(3.0, 1000, 960, bulk).pause[0] == "c"


def test_a_resumed_generation_is_left_alone_for_a_while():
    machine = Retraction(RetractionRule(grace_s=5))
    bulk = running(machine, "a", "b")
    assert machine.decide(10.0, 1000, 960, bulk).pause == ("b",)
    assert machine.decide(11.0, 1000, 100, bulk[:1]).resume == ("b",)
    assert machine.decide(12.0, 1000, 999, bulk) == Retract()
    assert machine.decide(16.0, 1000, 999, bulk).pause == ("b",)


def test_one_that_waited_long_resumes_above_the_low_mark_and_is_never_paused_again():
    machine = Retraction(RetractionRule(longest_pause_s=30, grace_s=0))
    bulk = running(machine, "a", "b")
    assert machine.decide(1.0, 1000, 960, bulk).pause == ("b",)
    assert machine.decide(20.0, 1000, 840, bulk[:1]) == Retract()
    assert machine.decide(31.0, 1000, 840, bulk[:1]).resume == ("b",)
    assert machine.decide(40.0, 1000, 999, bulk) == Retract()


def test_an_empty_engine_resumes_even_what_is_larger_than_the_low_mark():
    machine = Retraction(RetractionRule(grace_s=0))
    for name in ("small", "huge"):
        machine.started(name, 0.0)
    assert machine.decide(1.0, 1000, 990, (generation("small"), generation("huge", 900))).pause == ("huge",)
    machine.ended("small")
    assert machine.decide(2.0, 1000, 0, ()).resume == ("huge",)


def test_what_ended_is_forgotten_and_what_is_unknown_left_alone():
    machine = Retraction(RetractionRule(grace_s=0))
    bulk = running(machine, "a", "b")
    machine.decide(1.0, 1000, 999, bulk)
    machine.ended("b")
    machine.ended("b")
    assert machine.paused == ()
    assert machine.decide(2.0, 1000, 999, (generation("stranger"),)) == Retract()


@given(
    st.lists(st.integers(0, 1200), min_size=1, max_size=80),
    st.integers(1, 6),
    st.integers(1, 3),
)
@settings(deadline=None)
def test_pauses_are_bounded_and_someone_always_runs(loads, count, pauses):
    machine = Retraction(RetractionRule(pauses=pauses, grace_s=0.5, longest_pause_s=10))
    names = [f"g{i}" for i in range(count)]
    for name in names:
        machine.started(name, 0.0)
    paused = dict.fromkeys(names, 0)
    for step, load in enumerate(loads, start=1):
        live = tuple(generation(name) for name in names if name not in machine.paused)
        assert live
        before = set(machine.paused)
        done = machine.decide(float(step), 1000, load + sum(each.peak_blocks for each in live), live)
        assert not (done.pause and done.resume)
        assert set(done.resume) <= before
        assert set(machine.paused) == (before | set(done.pause)) - set(done.resume)
        for name in done.pause:
            paused[name] += 1
    assert all(times <= pauses for times in paused.values())
    # With the load gone everybody comes back.
    for step in range(len(loads) + 1, len(loads) + 30):
        machine.decide(float(step), 1000, 0, ())
    assert machine.paused == ()
