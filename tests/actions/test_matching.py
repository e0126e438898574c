import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specact_rl.actions.matching import match_level, reaches
from specact_rl.types import MATCH_LEVELS, Action, ToolSpec

TOOLS = [ToolSpec(name="book", parameters={"properties": {"seats": {"type": "integer"}}})]


def call(tool="book", kind="tool_call", **arguments):
    return Action(type=kind, tool=tool, arguments=arguments)


def say(text, kind="final_answer"):
    return Action(type=kind, text=text)


@pytest.mark.parametrize(
    ("proposal", "reference", "level"),
    [
        (None, call(), "none"),
        (say("done"), call(), "none"),
        (call(kind="retrieval"), call("cancel"), "none"),
        (call("cancel"), call(), "type"),
        (call(seats=1), call(seats=2), "tool"),
        (call(seats=1), call(seats=True), "tool"),
        (call(seats=1, row=1), call(seats=1), "tool"),
        (call(seats="1"), call(seats=1.0), "arguments"),
        (call(row={"a": [1, 2]}), call(row={"a": [1.0, 2]}), "arguments"),
        (say("Done."), say("done"), "arguments"),
        (say("f3"), say("f4"), "tool"),
        (say("Which?", "ask_clarification"), say("Which", "final_answer"), "none"),
    ],
)
def test_the_level_is_the_highest_that_holds(proposal, reference, level):
    assert match_level(proposal, reference, TOOLS) == level


def test_the_same_call_matches_whatever_type_its_context_gave_it():
    assert match_level(call(kind="repair", seats=1), call(seats=1), TOOLS) == "arguments"
    assert match_level(call(kind="repair", seats=2), call(seats=1), TOOLS) == "none"


ACTIONS = st.builds(
    call,
    st.sampled_from(["book", "cancel"]),
    st.sampled_from(["tool_call", "repair"]),
    seats=st.integers(0, 2) | st.sampled_from(["1", True, None]),
) | st.builds(say, st.sampled_from(["a", "A.", "b"]))


@settings(deadline=None)
@given(ACTIONS, ACTIONS)
def test_matching_is_symmetric_and_full_on_itself(left, right):
    assert match_level(left, right, TOOLS) == match_level(right, left, TOOLS)
    assert match_level(left, left, TOOLS) == "arguments"


def test_a_level_reaches_itself_and_those_below():
    assert [level for level in MATCH_LEVELS if reaches(level, "tool")] == ["tool", "arguments"]
