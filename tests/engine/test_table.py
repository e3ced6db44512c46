"""The signal table: who may write to whom, and what a signal that comes too late does."""

import multiprocessing
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.server.engine.plugin.table import (
    Action,
    Fired,
    NoTable,
    SignalTable,
    StaleNonce,
    decode,
    default_path,
    encode,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "private" / "one.signals"


@pytest.fixture
def engine(path):
    table = SignalTable.create(path)
    yield table
    table.close()


@pytest.fixture
def front(engine, path):
    table = SignalTable.open(path)
    yield table
    table.close()


def read(engine, slot, nonce):
    return engine.decode(slot, nonce, engine.signal(slot))


def test_a_signal_reaches_the_tenant(engine, front):
    engine.claim(3, 77)
    front.post(3, 77, Action.CAP, 2**32 - 1)
    assert read(engine, 3, 77) == (Action.CAP, 2**32 - 1)


def test_a_slot_without_tenant_takes_no_signal(engine, front):
    with pytest.raises(StaleNonce):
        front.post(3, 77, Action.STOP)
    with pytest.raises(StaleNonce):
        front.status(3, 0)


def test_a_late_signal_reaches_nobody(engine, front):
    engine.claim(3, 77)
    front.post(3, 77, Action.CLOSE_THOUGHT)
    engine.claim(3, 78)

    assert read(engine, 3, 78) is None
    with pytest.raises(StaleNonce):
        front.post(3, 77, Action.STOP)


def test_a_signal_that_was_checked_before_and_written_after_the_change_of_tenants_reaches_nobody(engine, front):
    engine.claim(3, 77)
    front._check_owner = lambda *_: engine.claim(3, 78)  # the engine is faster
    front.post(3, 77, Action.STOP)

    assert read(engine, 3, 78) is None


@pytest.mark.parametrize(
    ("first", "second", "stands"),
    [
        (Action.CAP, Action.CLOSE_THOUGHT, Action.CLOSE_THOUGHT),
        (Action.CLOSE_THOUGHT, Action.CAP, Action.CLOSE_THOUGHT),
        (Action.STOP, Action.CLOSE_THOUGHT, Action.STOP),
        (Action.CAP, Action.CAP, Action.CAP),
    ],
    ids=["stronger", "weaker", "stop", "same"],
)
def test_of_two_signals_the_stronger_stands(engine, front, first, second, stands):
    engine.claim(0, 5)
    front.post(0, 5, first, 1)
    front.post(0, 5, second, 2)
    assert read(engine, 0, 5)[0] is stands


def test_a_cap_can_be_moved(engine, front):
    engine.claim(0, 5)
    front.post(0, 5, Action.CAP, 100)
    front.post(0, 5, Action.CAP, 300)
    assert read(engine, 0, 5) == (Action.CAP, 300)


def test_what_happened_is_told_until_the_slot_has_another_tenant(engine, front):
    engine.claim(9, 5)
    engine.count(9, 120, 100)
    engine.tell(9, Fired(rule="engine_entropy", at_token=100), stopped=False)
    engine.tell(9, Fired(rule="a_name_that_is_longer_than_its_room", at_token=2**32 - 1), stopped=True)

    status = front.status(9, 5)

    assert (status.tokens, status.thinking) == (120, 100)
    assert status.closed == Fired(rule="engine_entropy", at_token=100)
    assert status.stopped == Fired(rule="a_name_that_is_longer_th", at_token=2**32 - 1)
    engine.claim(9, 6)
    fresh = front.status(9, 6)
    assert (fresh.tokens, fresh.closed, fresh.stopped) == (0, None, None)


def test_a_tenant_that_comes_back_finds_its_line(engine, front):
    engine.claim(9, 5)
    engine.count(9, 7, 7)
    engine.claim(9, 5)
    assert front.status(9, 5).tokens == 7


@pytest.mark.parametrize("slot", [-1, 4096])
def test_there_is_nothing_beyond_the_table(engine, slot):
    with pytest.raises(IndexError):
        engine.signal(slot)


def test_ranks_agree_on_the_token(engine):
    word = encode(5, Action.STOP, 0)
    assert engine.agreed(1) is None
    engine.agree(1, word, 2**32 - 1)
    assert engine.agreed(1) == (word, 2**32 - 1)


def test_a_half_written_agreement_is_none(engine):
    engine.agree(1, encode(5, Action.CAP, 9), 40)
    engine._words[8 + 16 + 2] = encode(5, Action.STOP, 0)
    assert engine.agreed(1) is None


@given(nonce=st.integers(1, 2**53 - 1), action=st.sampled_from(Action), value=st.integers(0, 2**32 - 1))
def test_words_carry_what_was_put_in(nonce, action, value):
    assert decode(nonce, encode(nonce, action, value)) == (action, value)


@given(nonce=st.integers(1, 2**53 - 1), word=st.integers(0, 2**64 - 1))
def test_any_word_can_be_read(nonce, word):
    read_ = decode(nonce, word)
    assert read_ is None or read_[0] in Action


def test_only_the_owner_can_enter(engine, path):
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_directory_that_others_can_enter_is_refused(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    with pytest.raises(NoTable, match="open to others"):
        SignalTable.create(shared / "one.signals")


def test_a_link_is_not_followed(tmp_path, path):
    path.parent.mkdir(mode=0o700)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NoTable):
        SignalTable.create(path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("content", [None, b"", b"x" * 524352], ids=["missing", "empty", "foreign"])
def test_what_is_no_table_is_not_opened(path, content):
    path.parent.mkdir(mode=0o700)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NoTable):
        SignalTable.open(path)


def test_a_message_names_no_path(path):
    with pytest.raises(NoTable) as refused:
        SignalTable.open(path)
    assert str(path.parent) not in str(refused.value)


def test_tables_of_dead_engines_are_swept_and_of_living_ones_are_not(engine, path):
    dead = path.with_name("dead.signals")
    SignalTable.create(dead).close()
    second = SignalTable.create(path.with_name("second.signals"))
    second.close()

    assert not dead.exists()
    assert path.exists()


def _other_process(path, slot, nonce):
    table = SignalTable.open(path)
    table.post(slot, nonce, Action.CLOSE_THOUGHT)
    table.close()


def test_two_processes_share_it(engine, path):
    engine.claim(2, 11)
    process = multiprocessing.get_context("spawn").Process(target=_other_process, args=(path, 2, 11))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert read(engine, 2, 11) == (Action.CLOSE_THOUGHT, 0)


def test_the_operator_can_name_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("SUFFICE_ENGINE_TABLE", str(tmp_path / "t.signals"))
    assert default_path("abc") == tmp_path / "t.signals"


def test_the_default_file_is_ours_and_named_after_the_instance(monkeypatch):
    monkeypatch.delenv("SUFFICE_ENGINE_TABLE", raising=False)
    found = default_path("ab/../c1")
    assert found.name == "abc1.signals"
    assert found.parent.name == f"suffice-{os.getuid()}"
