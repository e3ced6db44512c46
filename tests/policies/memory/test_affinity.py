from hypothesis import given, settings
from hypothesis import strategies as st
from suffice.policies.memory.affinity import PrefixTable, Replica, choose, prefix_hashes, rendezvous

SYSTEM = "You answer briefly. " * 300


def replicas(*projected, takes=True):
    return [Replica(name=f"r{i}", usable_blocks=1000, projected_blocks=p, takes=takes) for i, p in enumerate(projected)]


def test_a_longer_prompt_has_the_hashes_of_its_prefix():
    short = prefix_hashes([SYSTEM, "a" * 2000])
    longer = prefix_hashes([SYSTEM, "a" * 2000, "b" * 5000])
    assert len(short) > 5
    assert longer[: len(short)] == short


def test_salt_and_the_parting_of_pieces_tell_prompts_apart():
    assert prefix_hashes([SYSTEM], salt="a")[0] != prefix_hashes([SYSTEM], salt="b")[0]
    assert prefix_hashes([SYSTEM, SYSTEM])[-1] != prefix_hashes([SYSTEM + SYSTEM])[-1]


def test_bytes_and_lone_surrogates_are_hashed_too():
    assert prefix_hashes([b"x" * 2048]) == prefix_hashes(["x" * 2048])
    assert len(prefix_hashes(["\ud800" * 1000])) >= 1


def test_hashes_are_bounded_and_a_short_prompt_has_none():
    assert len(prefix_hashes(["x" * 10_000_000], most=20)) == 20
    assert prefix_hashes(["short"]) == []


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(8, 64))
@settings(deadline=None)
def test_hashes_do_not_depend_on_how_blocks_fall_over_pieces(pieces, block):
    hashes = prefix_hashes(pieces, block_bytes=block)
    total = sum(len(piece) + 4 for piece in pieces)
    assert len(hashes) == min(total // block, 256)
    for cut in range(len(pieces)):
        before = prefix_hashes(pieces[:cut], block_bytes=block)
        assert hashes[: len(before)] == before


def test_the_replica_that_saw_the_prefix_gets_the_request():
    table = PrefixTable()
    hashes = prefix_hashes([SYSTEM, "first question"])
    table.record(hashes, "r1")
    again = prefix_hashes([SYSTEM, "second question"])
    choice = choose(replicas(100, 150, 100), again, table, blocks=20)
    assert (choice.name, choice.why) == ("r1", "prefix")
    assert choice.matched == len(again)


def test_unless_its_memory_is_too_full():
    table = PrefixTable()
    hashes = prefix_hashes([SYSTEM])
    table.record(hashes, "r1")
    assert choose(replicas(100, 895, 100), hashes, table, blocks=20).name != "r1"
    assert choose(replicas(100, 600, 100), hashes, table, blocks=20).name != "r1"
    assert choose(replicas(980, 895, 990), hashes, table, blocks=20).name == "r1"


def test_unknown_prefixes_go_by_rendezvous_and_short_prompts_by_memory():
    hashes = prefix_hashes([SYSTEM])
    choice = choose(replicas(100, 110, 120), hashes, PrefixTable())
    assert choice.why == "rendezvous"
    assert choice.name == rendezvous(hashes[0], ["r0", "r1", "r2"])[0]
    assert choose(replicas(300, 110, 120), [], PrefixTable()).name == "r1"


def test_no_replica_takes_requests():
    assert choose(replicas(1, takes=False), [], PrefixTable()) is None


def test_a_replicas_leaving_moves_only_its_own_share():
    names = [f"r{i}" for i in range(8)]
    before = {key: rendezvous(key, names)[0] for key in range(300)}
    after = {key: rendezvous(key, names[:-1])[0] for key in range(300)}
    moved = [key for key in before if before[key] != after[key]]
    assert moved
    assert all(before[key] == "r7" for key in moved)


def test_the_table_is_bounded_and_forgets_the_ends_of_old_prompts_first():
    table = PrefixTable(most=50)
    old = list(range(40))
    table.record(old, "a")
    table.record(list(range(100, 130)), "b")
    assert len(table) == 50
    assert table.matched(old) == {"a": 20}


def test_a_restarted_replica_is_forgotten():
    table = PrefixTable()
    table.record([1, 2, 3], "a")
    table.record([1, 2], "b")
    table.record([9], "c")
    table.forget("a")
    assert table.matched([1, 2, 3]) == {"b": 2}
    assert len(table) == 3
