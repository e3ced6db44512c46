"""Recorded votes on disk."""

import gzip

import pytest
from suffice.policies.answers import READERS
from suffice.server.replay.files import VotesFileError, read_votes

GOOD = b'{"id": "q", "gold": 18, "samples": [{"answer": "18", "tokens": 3, "score": 1, "confidence": 0.5}]}\n'


def test_texts_numbers_and_null_are_answers(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_bytes(
        GOOD
        + b"\n"
        + b'{"id": 2, "samples": [{"answer": null, "tokens": 0}, {"answer": 1.0, "tokens": 1},'
        + b' {"answer": 2.5, "tokens": 1}, {"answer": true, "tokens": 1}]}'
    )
    first, second = read_votes(path)
    assert (first.id, first.gold, first.samples[0].answer, first.samples[0].score) == ("q", "18", "18", 1.0)
    assert second.gold is None
    assert [sample.answer for sample in second.samples] == [None, "1", "2.5", "true"]


def test_gzip_is_seen_by_its_content(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_bytes(gzip.compress(GOOD))
    assert len(read_votes(path)) == 1


def test_answers_can_be_read_out_of_texts(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_bytes(b'{"id":1,"gold":"1,000","samples":[{"answer":"The answer is $1000.","tokens":1}]}')
    (question,) = read_votes(path, READERS.make("number", {}).read)
    assert question.gold == question.samples[0].answer == "1000"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "must be an object"),
        (b'{"samples": []}', "id must be"),
        (b'{"id": 1, "samples": []}', "samples must be"),
        (b'{"id": 1, "samples": [1]}', r"samples\[0\] must be an object"),
        (b'{"id": 1, "samples": [{"tokens": 1}]}', r"samples\[0\].answer is missing"),
        (b'{"id": 1, "samples": [{"answer": [], "tokens": 1}]}', r"samples\[0\].answer must be"),
        (b'{"id": 1, "gold": {}, "samples": [{"answer": 1, "tokens": 1}]}', "gold must be"),
        (b'{"id": 1, "samples": [{"answer": 1}]}', r"samples\[0\].tokens must be"),
        (b'{"id": 1, "samples": [{"answer": 1, "tokens": -1}]}', r"samples\[0\].tokens must be"),
        (b'{"id": 1, "samples": [{"answer": 1, "tokens": true}]}', r"samples\[0\].tokens must be"),
        (b'{"id": 1, "samples": [{"answer": 1, "tokens": 1, "score": "x"}]}', r"samples\[0\].score must be"),
    ],
    ids=lambda value: value.decode("latin-1") if isinstance(value, bytes) else value,
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "votes.jsonl"
    path.write_bytes(GOOD + line + b"\n")
    with pytest.raises(VotesFileError, match=f"votes.jsonl:2: .*{message}"):
        read_votes(path)


def test_files_that_are_no_files(tmp_path):
    for name, content, message in (
        ("empty", b"\n\n", "no questions"),
        ("cut", gzip.compress(GOOD * 1000)[:60], "compressed data is broken"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VotesFileError, match=message):
            read_votes(tmp_path / name)
    with pytest.raises(VotesFileError, match="No such file"):
        read_votes(tmp_path / "missing")
