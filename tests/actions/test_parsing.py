import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specact_rl.actions.parsing import MAX_DEPTH, ParsedAction, parse_action
from specact_rl.actions.serialise import action_text
from specact_rl.types import ACTION_TYPES, Action, ToolSpec

BOOK = ToolSpec(
    name="book",
    parameters={
        "type": "object",
        "properties": {
            "seats": {"type": "integer"},
            "kind": {"type": "string", "enum": ["aisle", "window"]},
            "price": {"type": "number"},
            "vip": {"type": "boolean"},
            "names": {"type": "array", "items": {"type": "string"}},
            "who": {"type": "object", "properties": {"age": {"type": "integer"}}},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "free": {"type": "object"},
        },
        "required": ["seats"],
    },
)
OPEN = ToolSpec(name="open", parameters={}, action_type="file_read")
TOOLS = [BOOK, OPEN]


def block(body):
    return f"<tool_call>\n{body}\n</tool_call>"


def book(**arguments):
    return block(json.dumps({"name": "book", "arguments": arguments}))


def error_of(text):
    parsed = parse_action(text, TOOLS, [])
    assert parsed.action is None
    return parsed.error


def test_a_block_with_whitespace_around_it_is_a_call():
    expected = ParsedAction(
        action=Action(type="tool_call", tool="book", arguments={"seats": 2}), error=None
    )
    for text in (book(seats=2), f"\n {book(seats=2)} \n", book(seats=2).replace("\n", "")):
        assert parse_action(text, TOOLS, []) == expected


def test_plain_text_is_said_to_the_user_as_it_is():
    assert parse_action(" Which\nseat? ", TOOLS, []).action == Action(
        type="ask_clarification", text=" Which\nseat? "
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty text"),
        (" \n", "empty text"),
        (block('{"name": "book", "arguments": {"seats": 2}'), "malformed JSON at position"),
        (block("{'name': 'book'}"), "malformed JSON at position 1"),
        (block(""), "malformed JSON at position 0"),
        ('<tool_call>\n{"name": "book", "argum', "no </tool_call>"),
        ('<tool_call>\n{"name": "book", "arguments": {"seats": 2}}', "no </tool_call>"),
        ("<tool_call>", "no </tool_call>"),
        ("{}\n</tool_call>", "</tool_call> without <tool_call>"),
        (book(seats=1) + "\n" + book(seats=2), "several calls"),
        ("Booking now.\n" + book(seats=1), "text beside the call"),
        (book(seats=1) + "\nDone.", "text beside the call"),
        ("<tool_call>" + book(seats=1) + "</tool_call>", "malformed JSON at position 0"),
        (block('{"name": "book", "arguments": {"seats": 1}} and more'), "text after the JSON"),
        (block('{"name": "fly", "arguments": {}}'), "unknown tool 'fly'"),
        (block('{"name": 3, "arguments": {}}'), "tool name must be a string, got 3"),
        (block('{"name": "open"}'), "exactly the keys"),
        (block('{"name": "open", "arguments": {}, "id": 1}'), "exactly the keys"),
        (block("[]"), "must be an object"),
        (block('{"name": "open", "arguments": "{}"}'), "arguments must be an object, got '{}'"),
        (block('{"name": "open", "arguments": []}'), "arguments must be an object, got []"),
        (block('{"name": "open", "arguments": {"a": 1, "a": 1}}'), "duplicated key 'a'"),
        (block('{"name": "open", "name": "book", "arguments": {}}'), "duplicated key 'name'"),
        (block('{"name": "open", "arguments": {"a": NaN}}'), "NaN is not JSON"),
        (block('{"name": "open", "arguments": {"a": 1e999}}'), "1e999 is beyond float64"),
        (block('{"name": "open", "arguments": {"a": %s}}' % ("9" * 5000)), "too long"),
        (block('{"name": "open", "arguments": {"a": "\\ud800"}}'), "lone surrogate"),
        (block('{"name": "open", "arguments": {"\\ud800": 1}}'), "lone surrogate"),
        ("a \ud800 b", "lone surrogate"),
        (block('{"name": "open", "arguments": {"a": %s}}' % ("[" * 99 + "]" * 99)), "nested"),
        (block("[" * 100_000), "nested"),
        (book(), "book: missing required argument 'seats'"),
        (book(seats=1, colour="red"), "book: unknown argument 'colour'; known are 'seats'"),
        (book(seats="1"), "'seats' must be of type integer, got '1'"),
        (book(seats=1.0), "'seats' must be of type integer, got 1.0"),
        (book(seats=True), "'seats' must be of type integer, got True"),
        (book(seats=None), "'seats' must be of type integer, got None"),
        (book(seats=1, kind="middle"), "'kind' must be one of ['aisle', 'window'], got 'middle'"),
        (book(seats=1, price="4"), "'price' must be of type number"),
        (book(seats=1, price=True), "'price' must be of type number"),
        (book(seats=1, vip=1), "'vip' must be of type boolean, got 1"),
        (book(seats=1, names="ann"), "'names' must be of type array"),
        (book(seats=1, names=["ann", 3]), "'names[1]' must be of type string, got 3"),
        (book(seats=1, who={"age": "4"}), "'who.age' must be of type integer"),
        (book(seats=1, who={"name": "x"}), "unknown argument 'who.name'"),
        (book(seats=1, note=5), "'note' fits none of the allowed forms, got 5"),
    ],
)
def test_what_is_not_exactly_one_action_is_an_error_in_words(text, reason):
    assert reason in error_of(text)


@pytest.mark.parametrize(
    "arguments",
    [
        {"seats": 1, "price": 2},
        {"seats": 1, "price": 2.5, "vip": False, "names": []},
        {"seats": 1, "kind": "aisle", "note": None, "who": {}, "free": {"any": [1]}},
    ],
)
def test_arguments_that_fit_the_schema_are_kept_as_they_are(arguments):
    assert parse_action(book(**arguments), TOOLS, []).action.arguments == arguments


def test_a_tool_of_unknown_parameters_takes_all_arguments():
    text = block('{"name": "open", "arguments": {"b": 1, "a": [null]}}')
    action = parse_action(text, TOOLS, []).action
    assert list(action.arguments.items()) == [("b", 1), ("a", [None])]


def test_a_marker_inside_a_string_does_not_end_the_call():
    text = block(json.dumps({"name": "open", "arguments": {"a": "x </tool_call> <tool_call> y"}}))
    assert parse_action(text, TOOLS, []).action.arguments == {"a": "x </tool_call> <tool_call> y"}


def test_the_history_decides_the_type_of_the_call():
    call = {"type": "function", "function": {"name": "book", "arguments": {"seats": 9}}}
    history = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "error: only 4 left"},
    ]
    assert parse_action(book(seats=4), TOOLS, history).action.type == "repair"


def test_nesting_up_to_the_limit_is_read():
    depth = MAX_DEPTH - 3  # the call, its arguments and the innermost value are levels too
    body = "[" * depth + "]" * depth
    text = block(f'{{"name": "open", "arguments": {{"a": {body}}}}}')
    assert parse_action(text, TOOLS, []).error is None
    text = block(f'{{"name": "open", "arguments": {{"a": [[[{body}]]]}}}}')
    assert "nested" in error_of(text)


PIECES = st.sampled_from(
    ["<tool_call>", "</tool_call>", "\n", '{"name": "open", "arguments": {', "}", "}}", '"a": 1']
)


@settings(deadline=None)
@given(st.text() | st.lists(PIECES | st.text(max_size=5), max_size=8).map("".join))
def test_no_text_raises_and_every_text_is_an_action_or_an_error(text):
    parsed = parse_action(text, TOOLS, [])
    assert (parsed.action is None) != (parsed.error is None)


@settings(deadline=None)
@given(st.text(st.characters(codec=None, categories=["Cs", "L", "Nd"])))
def test_half_characters_never_raise(text):
    parse_action(block(text), TOOLS, [])


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["", '"', "\\", "</tool_call>", "\u2028", "\U0001f600", "null"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CALL_TYPES = sorted(set(ACTION_TYPES) - {"BLOCKED"})


@settings(deadline=None)
@given(kind=st.sampled_from(CALL_TYPES), arguments=st.dictionaries(st.text(), VALUES, max_size=4))
def test_every_call_is_read_back_from_what_a_model_would_write(kind, arguments):
    action = Action(type=kind, tool="tool", arguments=arguments)
    tools = [ToolSpec(name="tool", action_type=kind)]
    parsed = parse_action(action_text(action), tools, [])
    assert parsed == ParsedAction(action=action, error=None)
    assert json.dumps(parsed.action.arguments) == json.dumps(arguments)


@settings(deadline=None)
@given(
    kind=st.sampled_from(["BLOCKED", "ask_clarification", "final_answer"]),
    words=st.text(min_size=1).filter(lambda text: text.strip() and "tool_call>" not in text),
)
def test_every_text_is_read_back_from_what_a_model_would_write(kind, words):
    text = {
        "BLOCKED": f"BLOCKED: {words}",
        "ask_clarification": f"So {words} ?",
        "final_answer": f"So {words}.",
    }[kind]
    action = Action(type=kind, text=text)
    assert parse_action(action_text(action), TOOLS, []) == ParsedAction(action=action, error=None)
