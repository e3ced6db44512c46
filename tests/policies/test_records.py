"""Events and decisions as records: frozen, slotted, keyword-only, and without text in what is logged of them."""

import dataclasses
import json
from enum import Enum
from typing import get_args, get_type_hints

import pytest
from suffice.policies import decisions, events
from suffice.policies.errors import BadRecord
from suffice.policies.records import decision_from_loggable, event_from_loggable

CANARY = "canary-5120"


def below(kind):
    """All subclasses."""
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


def records():
    """Every event and decision; ``slots=True`` makes a class anew, so each name may be met twice."""
    found = {}
    for root in (events.Event, decisions.Decision):
        for kind in below(root):
            if "__dataclass_fields__" in vars(kind):
                found[kind.__name__] = kind
    return list(found.values())


RECORDS = records()
every = pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)


def example(hint):
    """A value of a field's type; text is a canary."""
    kinds = get_args(hint)
    if hint is str:
        return CANARY
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(iter(hint))
    if hint in (int, float, bool):
        return hint(1)
    if kinds and type(None) in kinds:
        return example(next(kind for kind in kinds if kind is not type(None)))
    if kinds and kinds[-1] is Ellipsis:
        return (example(kinds[0]), example(kinds[0]))
    raise AssertionError(f"no example of {hint}")


def build(kind):
    hints = get_type_hints(kind, vars(events) | vars(decisions))
    return kind(**{field.name: example(hints[field.name]) for field in dataclasses.fields(kind)})


def test_the_unions_name_every_record():
    named = {*get_args(events.AnyEvent), *get_args(decisions.RuleDecision), *get_args(decisions.Action)}
    assert {kind.__name__ for kind in named} == {kind.__name__ for kind in RECORDS}


@every
def test_a_record_never_changes(kind):
    record = build(kind)
    assert not hasattr(record, "__dict__")
    for field in dataclasses.fields(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field.name, None)
    assert record == build(kind)
    assert hash(record) == hash(build(kind))


@every
def test_a_record_is_built_by_names_only(kind):
    fields = dataclasses.fields(kind)
    assert all(field.kw_only for field in fields)
    if fields:
        with pytest.raises(TypeError):
            kind(*[None for _ in fields])


@every
def test_what_is_logged_is_json_without_private_fields(kind):
    record = build(kind)
    logged = record.to_loggable()
    name = "event" if issubclass(kind, events.Event) else "decision"
    assert logged[name] == kind.__name__
    private = getattr(kind, "private", frozenset())
    assert private <= {field.name for field in dataclasses.fields(kind)}
    assert logged.keys() == {name, *(field.name for field in dataclasses.fields(kind))} - private
    assert json.loads(json.dumps(logged)) == logged


TEXTLESS = {"rule", "finish"}
"""Fields whose strings are names of ours."""


@every
def test_no_field_of_text_is_logged(kind):
    hints = get_type_hints(kind, vars(events) | vars(decisions))
    private = getattr(kind, "private", frozenset())
    texts = {field.name for field in dataclasses.fields(kind) if hints[field.name] in (str, str | None)}
    assert texts - private <= TEXTLESS
    logged = {name: value for name, value in build(kind).to_loggable().items() if name not in TEXTLESS}
    assert CANARY not in json.dumps(logged)


def test_ids_of_tokens_are_private_too():
    assert {"text", "token_ids"} <= events.Chunk.private


@every
def test_what_is_logged_can_be_read_again(kind):
    record = build(kind)
    hidden = {
        name: "" if name == "text" else ()
        for name in getattr(kind, "private", ())  # text and ids do not come back
    }
    logged = json.loads(json.dumps(record.to_loggable()))
    read = event_from_loggable if issubclass(kind, events.Event) else decision_from_loggable
    assert read(logged) == dataclasses.replace(record, **hidden)


@every
def test_values_that_may_be_missing_are_read_as_such(kind):
    hints = get_type_hints(kind, vars(events) | vars(decisions))
    optional = {field.name: None for field in dataclasses.fields(kind) if type(None) in get_args(hints[field.name])}
    record = dataclasses.replace(build(kind), **optional)
    read = event_from_loggable if issubclass(kind, events.Event) else decision_from_loggable
    private = getattr(kind, "private", ())
    again = read(json.loads(json.dumps(record.to_loggable())))
    for field in dataclasses.fields(kind):
        assert field.name in private or getattr(again, field.name) == getattr(record, field.name)


@pytest.mark.parametrize(
    "record",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"event": "Chunks"}, id="unknown"),
        pytest.param({"event": "Voted", "at": 1.0, "sample": 0, "answer": None}, id="missing"),
        pytest.param({"event": "Voted", "at": 1.0, "sample": True, "answer": None, "tokens": 1}, id="bool-for-int"),
        pytest.param({"event": "Voted", "at": "1", "sample": 0, "answer": None, "tokens": 1}, id="text-for-float"),
        pytest.param({"event": "Chunk", "at": 1, "sample": 0, "tokens": 1, "phase": "asleep"}, id="no-such-phase"),
    ],
)
def test_what_nothing_wrote_is_refused(record):
    with pytest.raises(BadRecord):
        event_from_loggable(record)
