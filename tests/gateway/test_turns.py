"""Messages of the three chatting APIs as turns, and requests put together again from those that stay."""

import pytest
from suffice.server.gateway.turns import pieces_of, preamble, rebuilt

RESULTS = [
    {"type": "tool_result", "tool_use_id": "a", "content": "calm"},
    {"type": "text", "text": "Go on."},
    {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "wet"}]},
]


def told(api, conversation):
    """Role, calls, answered call and places of each turn."""
    name = "input" if api == "responses" else "messages"
    return [(piece.role, piece.calls, piece.answers, piece.places) for piece in pieces_of(api, {name: conversation})]


def test_chat_messages_are_turns():
    calls = [{"id": name, "function": {"name": "look", "arguments": "{}"}} for name in "ab"]
    assert told(
        "chat",
        [
            {"role": "system", "content": "x"},
            {"role": "assistant", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "b", "content": "wet"},
            {"role": "tool", "content": "calm"},
        ],
    ) == [
        ("system", (), None, ((0, None),)),
        ("assistant", ("a", "b"), None, ((1, None),)),
        ("tool", (), "b", ((2, None),)),
        ("tool", (), "a", ((3, None),)),
    ]


def test_each_result_in_a_message_of_anthropics_is_a_turn():
    uses = [{"type": "tool_use", "id": name, "name": "look", "input": {"deep": True}} for name in "ab"]
    found = told("messages", [{"role": "assistant", "content": uses}, {"role": "user", "content": RESULTS}])
    assert found == [
        ("assistant", ("a", "b"), None, ((0, None),)),
        ("tool", (), "a", ((1, 0),)),
        ("user", (), None, ((1, 1),)),
        ("tool", (), "b", ((1, 2),)),
    ]


def test_what_the_assistant_does_at_once_is_one_turn_of_a_response():
    items = [
        {"role": "user", "content": "x"},
        {"type": "reasoning", "content": []},
        {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "calm"},
        {"type": "function_call_output", "call_id": "b", "output": "wet"},
        {"type": "message", "role": "assistant", "content": "y"},
    ]
    assert told("responses", items) == [
        ("user", (), None, ((0, None),)),
        ("assistant", ("a", "b"), None, ((1, None), (2, None), (3, None))),
        ("tool", (), "a", ((4, None),)),
        ("tool", (), "b", ((5, None),)),
        ("assistant", (), None, ((6, None),)),
    ]


@pytest.mark.parametrize(
    ("api", "message"),
    [
        ("chat", {"role": ["user"], "content": 7}),
        ("chat", {"role": "function", "name": "look", "content": "x"}),
        ("chat", {"role": "assistant", "function_call": {"name": "look"}}),
        ("chat", {"role": "tool", "content": None}),
        ("chat", {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
        ("messages", {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "image"}]}]}),
        ("messages", {"content": [None, 7]}),
        ("responses", 7),
        ("responses", {"type": ["message"]}),
        ("responses", {"type": "item_reference", "id": "x"}),
        ("responses", {"type": "function_call_output", "output": [{"type": "input_image"}]}),
    ],
)
def test_what_is_no_plain_turn_is_pinned(api, message):
    pieces = pieces_of(api, {"input" if api == "responses" else "messages": [message]})
    assert [piece.pinned for piece in pieces] == [True]


@pytest.mark.parametrize(("api", "body"), [("completions", {"prompt": "x"}), ("responses", {"input": "x"})])
def test_a_single_text_has_no_turns(api, body):
    assert pieces_of(api, body) is None


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("chat", {}),
        ("messages", {"system": [{"type": "text", "text": "brief"}]}),
        ("responses", {"instructions": "brief"}),
    ],
)
def test_the_preamble_is_tools_and_instructions(api, body):
    front = preamble(api, body | {"messages": [], "tools": [{"name": "look"}]})
    assert front == '[{"name": "look"}]' + ("\nbrief" if body else "")


def test_what_goes_goes_and_what_is_shortened_keeps_its_form():
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}, {"role": "user", "content": RESULTS}]}
    made = rebuilt("messages", body, {(0, None), (1, 0)}, {(1, 2): "w"})
    shorter = RESULTS[2] | {"content": [{"type": "text", "text": "w"}]}
    assert made == {"model": "m", "messages": [{"role": "user", "content": [RESULTS[1], shorter]}]}
    assert rebuilt("messages", body, {(1, 0), (1, 1), (1, 2)}, {})["messages"] == body["messages"][:1]
    assert body["messages"][1]["content"] == RESULTS
