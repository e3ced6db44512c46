import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.server.gateway.sse import DONE, Decoder, EventTooLarge, ServerSentEvent, encode

STREAM = (
    b': ping\n\ndata: {"a": "\xc3\xa9"}\n\nevent: x\r\ndata: 1\r\ndata: 2\r\n\r\nid: 7\nretry: 3\ndata:3\n\n' + DONE
)
EVENTS = [
    ServerSentEvent(b"", '{"a": "é"}'.encode()),
    ServerSentEvent(b"x", b"1\n2"),
    ServerSentEvent(b"", b"3"),
    ServerSentEvent(b"", b"[DONE]"),
]


def decode(pieces):
    decoder = Decoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def test_whole():
    assert decode([STREAM]) == EVENTS


def test_byte_by_byte():
    assert decode([STREAM[i : i + 1] for i in range(len(STREAM))]) == EVENTS


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_any_cut_gives_the_same_events(cuts):
    places = [0, *sorted(cuts), len(STREAM)]
    assert decode([STREAM[a:b] for a, b in itertools.pairwise(places)]) == EVENTS


@given(blob=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=10))
def test_any_bytes_decode_alike_however_cut(blob, cuts):
    places = [0, *sorted(min(cut, len(blob)) for cut in cuts), len(blob)]
    assert decode([blob[a:b] for a, b in itertools.pairwise(places)]) == decode([blob])


def test_a_byte_order_mark_is_passed_over():
    assert decode([b"\xef", b"\xbb\xbfdata: 1\n\n"]) == [ServerSentEvent(b"", b"1")]


@pytest.mark.parametrize("blob", [b"data: " + b"x" * 100, b"data: x\n" * 20], ids=["one-line", "many-lines"])
def test_an_event_has_a_largest_size(blob):
    with pytest.raises(EventTooLarge):
        Decoder(max_event_bytes=50).feed(blob)


def test_encoding_is_undone_by_decoding():
    assert decode([encode(b"{}", b"ping"), encode(b"1")]) == [
        ServerSentEvent(b"ping", b"{}"),
        ServerSentEvent(b"", b"1"),
    ]
