import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specact_rl.logs.bfcl_calls import MAX_CHARACTERS, assistant_message, decode_response
from specact_rl.types import ToolSpec

TOOLS = [
    ToolSpec(name="math.add", parameters={"properties": {"x": {}, "y": {}}}),
    ToolSpec(name="play", parameters={"properties": {"from": {}, "song": {}}}),
]
ADD = {"name": "math.add", "arguments": {"x": 1, "y": [2.5, "a"]}}


@pytest.mark.parametrize(
    "response",
    [
        '[math.add(x=1, y=[2.5, "a"])]',
        "  math.add(1, [2.5, 'a'])\n",
        "[math.add(x=1, y=(2.5, 'a'))",
        "```python\n[math.add(x=1, y=[2.5, 'a'])]\n```",
        [{"math_add": '{"x": 1, "y": [2.5, "a"]}'}],
        [{"math.add": {"x": 1, "y": [2.5, "a"]}}],
        '\n{"tool_calls": [{"name": "math.add", "arguments": {"x": 1, "y": [2.5, "a"]}}]}',
        '[{"name": "math.add", "parameters": {"x": 1, "y": [2.5, "a"]}}]',
        '<tool_call>\n{"arguments": {"x": 1, "y": [2.5, "a"]}, "name": "math_add"}\n</tool_call>',
        "<tool_call>{'name': 'math.add', 'arguments': {'x': 1, 'y': [2.5, 'a']}}</tool_call>",
    ],
)
def test_one_call_in_any_dialect_is_the_same_call(response):
    decoded = decode_response(response, TOOLS)
    assert (list(decoded.calls), decoded.text, decoded.broken) == ([ADD], "", False)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("-3", -3),
        ("None", None),
        ("true", True),
        ("False", False),
        ("{'k': {'z': 1}}", {"k": {"z": 1}}),
        ("{1: 'x'}", {"1": "x"}),
        ("myVariable", "myVariable"),
        ("a.b.C", "a.b.C"),
        ("1e999", "1e309"),
        ("new(x)", "new(x)"),
        ("lambda v: v + 1", "lambda v: v + 1"),
        ("MyClass.class", "MyClass.class"),
    ],
)
def test_values_are_json_and_code_is_its_source(source, value):
    (call,) = decode_response(f"[f(v={source})]", TOOLS).calls
    assert call == {"name": "f", "arguments": {"v": value}}


def test_a_parameter_may_be_a_reserved_word():
    (call,) = decode_response("[play(from='here', song='from=there')]", TOOLS).calls
    assert call["arguments"] == {"from": "here", "song": "from=there"}


@pytest.mark.parametrize("response", ["", "I cannot help.", "[]", "```json\n[]\n```", "None", []])
def test_text_without_calls_is_text(response):
    decoded = decode_response(response, TOOLS)
    assert (decoded.calls, decoded.broken) == ((), False)
    assert decoded.text == (response or "")


@pytest.mark.parametrize(
    "response",
    [
        "[math.add(x=1,, y=2)]",
        "[math.add(1, 2, 3)]",
        "['math.add']",
        "[math.add(**x)]",
        '<tool_call>{"name": "math.add", "arguments": [1]}</tool_call>',
        [{"math_add": "{x: 1}"}],
        [{"math_add": '{"x": NaN}'}],
        '[{"name": "math.add"}, 3]',
        "[" + "f(x=" * 400 + ")" * 400 + "]",
        "[" * (MAX_CHARACTERS + 1),
        7,
    ],
)
def test_what_means_to_call_and_cannot_be_read_is_broken_and_kept(response):
    decoded = decode_response(response, TOOLS)
    assert (decoded.calls, decoded.broken) == ((), True)
    assert decoded.text != ""


def test_the_message_holds_all_calls():
    message = assistant_message(decode_response("[f(a=1), f(a=2)]", TOOLS))
    assert [c["function"]["arguments"] for c in message["tool_calls"]] == [{"a": 1}, {"a": 2}]
    assert assistant_message(decode_response("Hello", TOOLS)) == {
        "role": "assistant",
        "content": "Hello",
    }


@settings(max_examples=60)
@given(st.text(max_size=200) | st.text(alphabet="[](){}'\",:=.ab1 \n<>/_`\\", max_size=60))
def test_any_text_is_decoded_without_an_exception_to_json_values(text):
    decoded = decode_response(text, TOOLS)
    json.dumps([dict(call) for call in decoded.calls], allow_nan=False).encode()
    assert not (decoded.calls and decoded.text)
