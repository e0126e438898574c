import pytest

from specact_rl.actions.serialise import action_message
from specact_rl.actions.taxonomy import (
    TAXONOMY,
    CallContext,
    call_context,
    classify_call,
    classify_text,
    is_error_result,
)
from specact_rl.types import ACTION_TYPES, Action, ToolSpec

READ = ToolSpec(
    name="look",
    action_type="file_read",
    effect="read",
    parameters={"properties": {"file": {"type": "string"}, "page": {"type": "integer"}}},
)
WRITE = ToolSpec(name="put", action_type="tool_call", effect="write")
CHECK = ToolSpec(name="check", action_type="verifier", effect="read")
TOOLS = [READ, WRITE, CHECK]
REQUEST = {"role": "user", "content": "please"}


def after(tool, arguments, result, *later):
    made = action_message(Action(type="tool_call", tool=tool, arguments=arguments))
    return [REQUEST, made, {"role": "tool", "content": result}, *later]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("error: no file f3", True),
        ("Error executing tool", True),
        ("  ERROR", True),
        ("no errors found", False),
        ("err", False),
        ("", False),
        (None, False),
        ([{"type": "text", "text": "error"}], False),
    ],
)
def test_an_error_result_starts_with_error(content, expected):
    assert is_error_result(content) is expected


def test_the_catalogue_decides_before_the_table_and_the_rest_are_tool_calls():
    assert classify_call("look", {}, TOOLS, []) == "file_read"
    assert classify_call("read_file", {}, [], []) == "file_read"
    assert classify_call("Read_File", {}, [], []) == "file_read"
    renamed = ToolSpec(name="read_file", action_type="retrieval")
    assert classify_call("read_file", {}, [renamed], []) == "retrieval"
    assert classify_call("make_coffee", {}, [], []) == "tool_call"


def test_the_table_names_action_types_only():
    assert set(TAXONOMY.values()) <= set(ACTION_TYPES)
    assert all(name == name.casefold() for name in TAXONOMY)


def test_a_call_right_after_an_error_of_its_tool_is_a_repair():
    history = after("put", {"id": "f3"}, "error: stale")
    assert classify_call("put", {"id": "f3"}, TOOLS, history) == "repair"
    assert classify_call("look", {"file": "f3"}, TOOLS, history) == "file_read"


@pytest.mark.parametrize(
    "later",
    [
        {"role": "user", "content": "try again"},
        {"role": "assistant", "content": "Shall I try again?"},
    ],
)
def test_an_error_that_something_else_followed_needs_no_repair(later):
    history = after("put", {"id": "f3"}, "error: stale", later)
    assert classify_call("put", {"id": "f3"}, TOOLS, history) == "tool_call"


def test_reading_what_was_just_written_is_a_verification():
    history = after("put", {"text": "x", "id": "f3"}, "ok")
    assert classify_call("look", {"file": "f3"}, TOOLS, history) == "verifier"
    assert classify_call("look", {"file": "f4"}, TOOLS, history) == "file_read"
    assert classify_call("put", {"id": "f3"}, TOOLS, history) == "tool_call"


def test_the_first_argument_is_the_schemas_first_whatever_order_the_model_wrote():
    history = after("put", {"id": "f3", "page": 2}, "ok")
    assert classify_call("look", {"page": 1, "file": "f3"}, TOOLS, history) == "verifier"
    assert classify_call("look", {"page": 2, "file": "f4"}, TOOLS, history) == "file_read"


def test_reading_after_a_failed_write_or_a_read_verifies_nothing():
    assert classify_call("look", {"file": "f3"}, TOOLS, after("put", {"id": "f3"}, "Error")) == (
        "file_read"
    )
    assert classify_call("look", {"file": "f3"}, TOOLS, after("look", {"file": "f3"}, "x")) == (
        "file_read"
    )


@pytest.mark.parametrize("value", ["", True, None, 1.5, ["f3"]])
def test_a_value_that_names_no_record_verifies_nothing(value):
    history = after("put", {"id": value}, "ok")
    assert classify_call("look", {"file": value}, TOOLS, history) == "file_read"


def test_a_verifying_tool_is_one_without_any_context():
    assert classify_call("check", {}, TOOLS, []) == "verifier"


def test_without_effects_the_table_says_what_writes():
    history = after("write_file", {"path": "a.txt"}, "ok")
    assert classify_call("read_file", {"path": "a.txt"}, [], history) == "verifier"


def test_an_environment_can_give_the_context_that_the_history_would_show():
    history = after("put", {"id": "f3"}, "error: stale")
    context = CallContext(last_tool="put", last_arguments={"id": "f3"}, failed=True)
    assert call_context(history) == context
    assert classify_call("put", {}, TOOLS, context) == "repair"


def test_a_call_whose_result_is_not_there_yet_did_not_fail():
    assert call_context(after("put", {"id": "f3"}, "ok")[:2]) == CallContext(
        last_tool="put", last_arguments={"id": "f3"}
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("BLOCKED: not allowed", "BLOCKED"),
        (" BLOCKED, shall I ask?", "BLOCKED"),
        ("blocked road", "final_answer"),
        ("Which file? ", "ask_clarification"),
        ("Which? I chose f3.", "final_answer"),
        ("", "final_answer"),
    ],
)
def test_texts_are_typed_by_how_they_start_and_end(text, expected):
    assert classify_text(text) == expected
