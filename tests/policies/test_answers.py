"""Answers as models write them, and text that nobody should write."""

import contextlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suffice.policies.answer_text import MOST_TEXT
from suffice.policies.answers import READERS, Classes
from suffice.policies.errors import InvalidBudget
from suffice.policies.patterns import BadPattern, LinearPattern


def read(kind, text, **parameters):
    options = parameters.pop("options", ())
    return READERS.make(kind, parameters, options=options).read(text)


NUMBERS = [
    ("So the total is \\boxed{42}.", "42"),
    ("\\boxed{\\frac{3}{4}}", "0.75"),
    ("\\boxed{3\\frac{1}{2}}", "3.5"),
    ("The answer is \\(\\frac12\\).", "0.5"),
    ("\\boxed{\\dfrac{-2}{6}}", "-1/3"),
    ("\\boxed{x = 5}", "5"),
    ("\\boxed{\\text{17 apples}}", "17"),
    ("$$\\boxed{\\$ 12.00}$$", "12"),
    ("\\boxed{10\\%}", "10"),
    ("\\boxed{1.2 \\times 10^{3}}", "1200"),
    ("\\boxed{2^{10}}", "1024"),
    ("\\boxed{1} is wrong, rather \\boxed{2}", "2"),
    ("\\boxed{\\left( 7 \\right)}", "7"),
    ("The answer is 1,234.50 dollars.", "1234.5"),
    ("The answer is $\\$2{,}500$.", "2500"),
    ("The answer is $18 per day * 7 = $126.", "126"),
    ("The answer is 18 (since 9*2=18).", "18"),
    ("The answer is 12, i.e. x = 3", "12"),
    ("The answer to this question, which is hard, is 42.", "42"),
    ("The final answer is 3 1/2 cups", "3.5"),
    ("The answer is 2/3.", "2/3"),
    ("The answer is \u22127.", "-7"),
    ("The answer is -$5", "-5"),
    ("The answer is 3 million people", "3000000"),
    ("**Answer:** -3.50", "-3.5"),
    ("Answer:\n\n42", "42"),
    ("Answer: 50%", "50"),
    ("Answer: 5 apples, as 2+3=5", "5"),
    ("Answer: 1.2 \u00d7 10^3", "1200"),
    ("9 * 2 = 18\n#### 1,018", "1018"),
    ("it is 1.2e3", "1200"),
    ("1.234,56 \u20ac", "1234.56"),
    ("1.234.567", "1234567"),
    ("1\u202f234\u202f567", "1234567"),
    ("3,5 kg", "3.5"),
    ("at (3,4)", "4"),
    ("5 \u00d7 4 = 20", "20"),
    ("I think 3-5", "5"),
    ("<think>7 it is</think>The answer is 8", "8"),
    ("<think>7</think>", "7"),
    ("the answer is 007", "7"),
    ("Answer the question 5", "5"),
    ("The answer\nis not here: 6", "6"),
    ("1 2/0", None),
    ("-0", "0"),
    (".5", "0.5"),
    ("12.", "12"),
    ("GPT4 says x5", None),
    ("no number here", None),
    ("The answer is 1/0", None),
    ("1e999", None),
    ("9" * 100, None),
    ("", None),
]


@pytest.mark.parametrize(("text", "key"), NUMBERS, ids=[text[:30] for text, _ in NUMBERS])
def test_numbers(text, key):
    assert read("number", text) == key


def test_a_percentage_can_be_a_fraction():
    assert read("number", "Answer: 40 %", percent="fraction") == "0.4"
    assert read("number", "Answer: 0.4", percent="fraction") == "0.4"


@given(st.fractions(max_denominator=10_000))
def test_a_canonical_number_reads_as_itself(value):
    key = read("number", f"The answer is {value.numerator}/{value.denominator}")
    assert read("number", f"Answer: {key}") == key
    assert read("number", f"\\boxed{{\\frac{{{value.numerator}}}{{{value.denominator}}}}}") == key


@given(st.integers(-(10**15), 10**15))
def test_the_ways_to_write_a_whole_number_are_one_answer(value):
    forms = (f"{value}", f"{value:,}", f"{value}.0", f"{value:_}", f"${value}", f"{value} apples")
    assert {read("number", f"The answer is {form}.") for form in forms} == {str(value)}


CHOICES = [
    ("B", "B"),
    ("(b)", "B"),
    (" **C. Aspirin**", "C"),
    ("C.", "C"),
    ("B) 42\nis right", "B"),
    ("The answer is (C).", "C"),
    ("The answer is B: Paris", "B"),
    ("The answer is option (D)", "D"),
    ("The answer is most likely B.", "B"),
    ("Answer: D", "D"),
    ("**Answer: B**", "B"),
    ("Final answer: **C**", "C"),
    ("the correct answer is\n\nC", "C"),
    ("the correct answer is:\n\nC", "C"),
    ("The correct option is A.", "A"),
    ("I think a cat is best. So the best choice is C", "C"),
    ("Option E is wrong... therefore the answer is A because", "A"),
    ("Answer choices: (A) 3 (B) 4.\nThe answer is B", "B"),
    ("\\boxed{B}", "B"),
    ("\\boxed{\\text{(C)}}", "C"),
    ("<think>The answer is A</think>\nAnswer: E", "E"),
    ("answer is a dog", None),
    ("A man walks. It is D.", None),
    ("Answer: F", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "key"), CHOICES, ids=[text[:30] for text, _ in CHOICES])
def test_choices(text, key):
    assert read("choice", text) == key


def test_a_choice_can_be_named_by_its_text():
    options = ("Paris", "London", "london bridge", "Rome")
    assert read("choice", "The capital is\nLondon.", options=options) == "B"
    assert read("choice", "The answer is rome", options=options) == "D"
    assert read("choice", "somewhere else", options=options) is None
    assert read("choice", "Answer: J", choices=10) == "J"


def test_exact_answers_ignore_case_spacing_and_final_stops():
    assert read("exact", "  New\n York. ") == read("exact", "new york") == "new york"
    assert read("exact", " \n") is None


@pytest.mark.parametrize(
    ("pattern", "text", "key"),
    [
        (r"ans\w*\s*:\s*(\d+)", "answer: 41\nanswer: 42 answer: 43\nbye", "42"),
        (r"(?i)result=(?P<answer>[a-f0-9]{2,4}?)(?P<rest>.*)", "RESULT=deadbeef", "de"),
        (r"(?P<x>\w+) is (?P<answer>\w+)", "this is it", "it"),
        (r"\b\d{3}\b", "12 345 6789", "345"),
        (r"^(a|ab)(c|bcd)$", "abcd", "a"),
        (r"x(\d*)y", "xy", None),
        (r"[^\W\d]+$", "12 ab cd", "cd"),
        (r"z", "none", None),
    ],
    ids=str,
)
def test_patterns(pattern, text, key):
    assert read("regex", text, pattern=pattern) == key


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        r"(a)\1",
        "(?=a)b",
        "(?<!a)b",
        "(?>a)b",
        "a*+b",
        "a{1000}",
        "(((a{9}){9}){9})",
        "",
        "[",
        "x" * 301,
        "(" * 150,
    ],
    ids=lambda pattern: pattern[:12] or "none",
)
def test_patterns_that_cannot_be_matched_safely_are_refused(pattern):
    with pytest.raises(InvalidBudget) as raised:
        READERS.make("regex", {"pattern": pattern})
    assert raised.value.param == "suffice.answer.pattern"


atoms = st.sampled_from(["a", "b", "ab", ".", "[ab]", "[^a]", r"\d", r"\w", "(a|b)", "(?:a|ab)", "^", "$", r"\b", "A"])
quantifiers = st.sampled_from(["", "*", "+", "?", "*?", "+?", "??", "{1,2}", "{2}"])
patterns = st.lists(st.tuples(atoms, quantifiers), min_size=1, max_size=5).map(
    lambda parts: "".join(a if a in {"^", "$", r"\b"} else a + q for a, q in parts)
)


@given(body=patterns, flags=st.sampled_from(["", "(?i)"]), line=st.text("abAB1 ", max_size=12))
def test_a_pattern_finds_what_python_finds(body, flags, line):
    pattern = f"{flags}(?P<answer>{body})"
    expected = re.search(pattern, line)
    # Python's $ also stands before a final line break; here there are none.
    assert LinearPattern(pattern).find(line) == (None if expected is None else expected["answer"])


@given(st.text(max_size=30))
def test_any_pattern_is_compiled_or_refused(pattern):
    compiled = None
    with contextlib.suppress(BadPattern):
        compiled = LinearPattern(pattern)
    if compiled is None:
        with pytest.raises(BadPattern, match=r".+"):
            LinearPattern(pattern)
    else:
        found = compiled.find("some line of text 42")
        assert found is None or found in "some line of text 42"


def test_json_is_compared_by_value():
    text = 'Here you are:\n```json\n{"b": 1.0, "a": [1e2, {"why": "x", "z": null}]}\n```\nDone.'
    assert read("json", text, exclude="why") == '{"a":[100,{"z":null}],"b":1}'
    assert read("json", 'It is {"a": 1, "b": 2} I think', fields="a") == '{"a":1}'
    assert read("json", "[1, 2]") == "[1,2]"
    assert read("json", "null") == "null"
    assert read("json", "NaN") is None
    assert read("json", "nothing") is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_json_spacing_and_order_change_nothing(value):
    loose = json.dumps(value, indent=2)
    assert read("json", loose) == read("json", json.dumps(value, sort_keys=True))


@pytest.mark.parametrize("kind", ["json", "tool_call"])
@pytest.mark.parametrize("depth", [10, 400, 600, 900, 5000])
def test_values_nested_beyond_reason_are_read_or_not_but_never_raise(kind, depth):
    nested = "[" * depth + "]" * depth
    text = nested if kind == "json" else f'{{"name": "f", "arguments": {nested}}}'
    key = read(kind, text)
    assert key is None or nested in key
    assert key is not None or depth > 10


def test_tool_calls_are_compared_by_name_and_arguments():
    openai = [
        {"type": "function", "id": "1", "function": {"name": "f", "arguments": '{"b": 2, "a": 1.0, "note": "x"}'}}
    ]
    key = '[["f",{"a":1,"b":2}]]'
    assert read("tool_call", json.dumps(openai), exclude="note") == key
    assert read("tool_call", json.dumps({"tool_calls": openai}), exclude="note") == key
    assert read("tool_call", '<tool_call>{"name": "f", "arguments": {"a": 1, "b": 2}}</tool_call>') == key
    assert read("tool_call", '{"name": "g", "arguments": ""}') == '[["g",{}]]'
    assert read("tool_call", '{"name": "g", "arguments": "{"}') is None
    assert read("tool_call", '{"arguments": {}}') is None
    assert read("tool_call", "I call nobody") is None


def test_code_is_compared_without_comments_and_layout():
    ours = "```python\n# doubles\ndef f(x):\n        return x+1  # one\n\n```"
    assert read("code", ours) == read("code", "def f(x):\n  return x + 1\n")
    assert read("code", ours) != read("code", "def f(x):\n  return x + 2\n")
    assert read("code", "```js\nlet  x = 1;\n```") == "let x = 1;"
    assert read("code", "if x:\npass") != read("code", "if x: pass")
    assert read("code", "'''") == "'''"
    assert read("code", "# only a comment") is None


ALL_KINDS = [(kind, {"pattern": r"(\w+\s?)+(\d*)*$"} if kind == "regex" else {}) for kind in READERS.kinds]
HOSTILE = [
    "1",
    "1,",
    "1/1/",
    " ",
    "\\frac{",
    "{",
    "\\boxed{",
    "answer is ",
    "answer: \n",
    '{"a":',
    "[1,",
    "```",
    "(\n",
    "'''\n",
]


@pytest.mark.parametrize(("kind", "parameters"), ALL_KINDS, ids=[kind for kind, _ in ALL_KINDS])
@given(
    text=st.one_of(
        st.text(max_size=300), st.tuples(st.sampled_from(HOSTILE), st.integers(1, 300)).map(lambda p: p[0] * p[1])
    )
)
def test_a_reader_takes_any_text_and_gives_the_same_for_the_same(kind, parameters, text):
    key = read(kind, text, **parameters)
    assert key is None or key
    assert read(kind, text, **parameters) == key


@pytest.mark.parametrize(("kind", "parameters"), ALL_KINDS, ids=[kind for kind, _ in ALL_KINDS])
@pytest.mark.parametrize("piece", HOSTILE, ids=repr)
def test_only_the_end_of_a_long_text_is_read(kind, parameters, piece):
    text = piece * (MOST_TEXT // len(piece) + 1)
    text = text[-MOST_TEXT:]
    assert read(kind, "Answer: 77\n" * 1000 + text, **parameters) == read(kind, text, **parameters)


def test_classes_are_numbered_in_order_of_discovery():
    classes = Classes()
    assert [classes.of(key) for key in ("7", "8", None, "7", "9")] == [0, 1, None, 0, 2]
    assert classes.keys == ("7", "8", "9")


def test_numbers_within_the_tolerance_of_a_class_are_in_it():
    classes = Classes(tolerance=0.01)
    assert [classes.of(key) for key in ("100", "100.9", "102", "1/3", "0.3333", "x", "0")] == [0, 0, 1, 2, 2, 3, 4]
    assert Classes().of("100") == 0


def test_a_judge_can_merge_answers_before_they_count():
    classes = Classes()
    classes.of("car")
    assert classes.is_new("automobile")
    classes.alias("automobile", like="car")
    assert classes.of("automobile") == 0
    classes.of("bike")
    with pytest.raises(ValueError, match="merged"):
        classes.alias("bike", like="car")
    with pytest.raises(ValueError, match="merged"):
        classes.alias("van", like="lorry")
