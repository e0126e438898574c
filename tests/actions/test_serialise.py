import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specact_rl.actions.serialise import (
    action_message,
    action_text,
    call_text,
    message_action,
    shown_text,
    wire_messages,
)
from specact_rl.types import Action, ToolSpec

QUIRKY = {
    "name": 'Zoë "Z" \u2028 </x> & <y>',
    "n": 1,
    "x": 1.0,
    "tiny": 1e-07,
    "none": None,
    "yes": True,
    "nested": {"b": [1, {"a": ""}], "a": {}},
    "empty": [],
}


def call(**arguments):
    return Action(type="tool_call", tool="book", arguments=arguments)


def test_the_wire_string_is_this():
    assert call_text(call(seat="4é", n=1)) == (
        '<tool_call>\n{"name": "book", "arguments": {"seat": "4é", "n": 1}}\n</tool_call>'
    )
    assert call_text(call()) == '<tool_call>\n{"name": "book", "arguments": {}}\n</tool_call>'


def test_the_wire_string_is_what_the_qwen3_template_writes():
    template = pytest.importorskip("trl.chat_template_utils").qwen3_chat_template
    render = pytest.importorskip("transformers.utils.chat_template_utils").render_jinja_template
    messages = [{"role": "user", "content": "q"}, action_message(call(**QUIRKY))]
    (rendered,), _ = render(conversations=[messages], chat_template=template)
    assert call_text(call(**QUIRKY)) in rendered


@pytest.mark.parametrize("text", ["", " ", "a <tool_call> b", "</tool_call>"])
def test_a_text_that_no_parser_could_read_back_is_refused(text):
    with pytest.raises(ValueError, match="must not be empty or hold"):
        action_text(Action(type="final_answer", text=text))


def test_a_text_has_no_wire_string_of_a_call():
    with pytest.raises(ValueError, match="only a call"):
        call_text(Action(type="final_answer", text="done"))


def test_messages_are_plain_chat_messages_with_arguments_as_objects():
    assert action_message(call(a=1)) == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "book", "arguments": {"a": 1}}}],
    }
    assert action_message(Action(type="final_answer", text="done")) == {
        "role": "assistant",
        "content": "done",
    }


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=3))
def test_the_action_of_a_calls_message_is_the_call(arguments):
    assert message_action(action_message(call(**{"a": arguments})), [], []) == call(a=arguments)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("BLOCKED", "BLOCKED: no"), ("ask_clarification", "Which?"), ("final_answer", "f3")],
)
def test_the_action_of_a_texts_message_is_the_text(kind, text):
    action = Action(type=kind, text=text)
    assert message_action(action_message(action), [], []) == action


def test_the_call_is_the_action_of_a_message_with_text_beside_it():
    message = action_message(call(a=1)) | {"content": "Let me see."}
    assert message_action(message, [], []) == call(a=1)


def test_a_logged_call_is_not_checked_against_the_catalogue():
    tools = [ToolSpec(name="book", parameters={"properties": {}}, action_type="retrieval")]
    assert message_action(action_message(call(a=1)), tools, []).type == "retrieval"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": ""}, "must have text"),
        ({"content": None, "tool_calls": None}, "must have text"),
        ({"tool_calls": action_message(call())["tool_calls"] * 2}, "got 2 calls"),
        (
            {"tool_calls": [{"function": {"name": "x", "arguments": "{}"}}]},
            "arguments of 'x' must be an object",
        ),
    ],
)
def test_a_message_that_is_not_one_action_is_refused(message, reason):
    with pytest.raises(ValueError, match=reason):
        message_action({"role": "assistant", **message}, [], [])


def calls(*calls):
    return {"role": "assistant", "content": "", "tool_calls": list(calls)}


def logged_call(name, /, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def test_on_the_wire_arguments_are_text_and_results_name_their_calls_in_order():
    messages = [
        {"role": "system", "content": "Help.", "is_error": False},
        calls(logged_call("a", x="é", y=[1, None])),
        {"role": "tool", "content": "1"},
        calls(logged_call("b"), logged_call("c")),
        {"role": "tool", "content": "2", "name": "b"},
        {"role": "tool", "content": "3"},
        {"role": "user", "content": "Go on."},
    ]
    before = repr(messages)
    wired = wire_messages(messages)
    assert repr(messages) == before
    assert wired[0] == {"role": "system", "content": "Help."}
    (first,), (second, third) = wired[1]["tool_calls"], wired[3]["tool_calls"]
    assert first["type"] == "function"
    assert first["function"] == {"name": "a", "arguments": '{"x": "é", "y": [1, null]}'}
    ids = [first["id"], second["id"], third["id"]]
    assert [wired[i]["tool_call_id"] for i in (2, 4, 5)] == ids
    assert len(set(ids)) == 3
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", each) for each in ids)
    assert wired[4]["name"] == "b"
    assert wired[6] == messages[6]


def test_ids_of_the_log_go_out_and_a_result_without_a_call_has_none():
    messages = [
        {"role": "tool", "content": "before any call"},
        calls({"id": "x", **logged_call("a")}, {"id": "y", **logged_call("b")}),
        {"role": "tool", "content": "of b", "tool_call_id": "y"},
        {"role": "tool", "content": "of a"},
    ]
    wired = wire_messages(messages)
    assert wired[0] == messages[0]
    assert [call["id"] for call in wired[1]["tool_calls"]] == ["x", "y"]
    assert [wired[i]["tool_call_id"] for i in (2, 3)] == ["y", "x"]


def test_a_logged_text_that_no_parser_could_tell_from_a_call_can_be_shown():
    odd = Action(type="final_answer", text="I would write <tool_call> here.")
    with pytest.raises(ValueError, match="tool_call"):
        action_text(odd)
    assert shown_text(odd) == odd.text
    call = Action(type="tool_call", tool="look", arguments={"at": "sky"})
    assert shown_text(call) == action_text(call)
