"""Hand features of responses, each against an example by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from specact_rl.types import Action, ToolSpec
from specact_rl.verifiers.base import Item
from specact_rl.verifiers.features import (
    feature_matrix,
    feature_names,
    hand_features,
    has_response,
)
from tests.records import make_proposal, make_step

TRIANGLE = ToolSpec(
    name="geometry.triangle_area",
    description="Area of a triangle from its base and height.",
    parameters={
        "type": "object",
        "properties": {
            "base": {"type": "integer", "description": "Length of the base."},
            "height": {"type": "number", "description": "Height above the base."},
            "unit": {
                "type": "string",
                "enum": ["cm", "feet"],
                "description": "Unit of length (default is cm).",
            },
        },
        "required": ["base", "height"],
    },
)
HOTEL = ToolSpec(
    name="hotel_booking",
    description="Book a room.",
    parameters={
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "City and state, e.g. 'Boston, MA'."},
            "rate": {"type": "number", "description": "Discount."},
            "guests": {"type": "array", "items": {"type": "number"}},
        },
        "required": ["location"],
    },
)
REQUEST = "Find the area of a triangle with base 10 and height 5.5 feet."


def call(tool, **arguments):
    return Action(type="tool_call", tool=tool, arguments=arguments)


def item(*actions, request=REQUEST, tools=(TRIANGLE, HOTEL), text="[f()]", response=None):
    step = make_step(request, tools=list(tools))
    proposal = make_proposal(
        step,
        actions[0] if len(actions) == 1 else text,
        text=text,
        actions=[] if len(actions) == 1 else list(actions),
        parse_error=None if actions else "unreadable",
    )
    messages = [{"role": "assistant", "content": text}] if response is None else response
    return Item(step=step, proposal=proposal, response=messages, siblings=(proposal,))


def feature(name, *actions, **options):
    return hand_features(item(*actions, **options))[name]


def test_all_items_have_the_same_names_in_the_same_order():
    kinds = [
        item(call("hotel_booking", location="Rome")),
        item(call("a"), call("b", c=[1, {"d": None}])),
        item(Action(type="final_answer", text="no")),
        item(text="[broken("),
        item(text=""),
        item(tools=(), request=""),
    ]
    assert {tuple(hand_features(kind)) for kind in kinds} == {feature_names()}
    assert feature_matrix(kinds).shape == (6, len(feature_names()))
    assert feature_matrix([]).shape == (0, len(feature_names()))


def test_nothing_but_request_tools_and_response_is_looked_at():
    plain = item(call("hotel_booking", location="Rome"))
    other = {"family": "parallel", "task_id": "parallel_7", "rollout_id": "x", "step_id": "y"}
    step = replace(plain.step, **other)
    other = {"model_id": "gpt", "task_id": "parallel_7", "acceptable": True, "logprob": -1.0}
    proposal = replace(plain.proposal, **other)
    named = Item(step=step, proposal=proposal, response=plain.response, siblings=())
    np.testing.assert_array_equal(feature_matrix([plain]), feature_matrix([named]))


@pytest.mark.parametrize(
    ("actions", "text", "readable"),
    [
        ([call("f", a=1)], "[f(a=1)]", 1),
        ([call("f", a=1)], '\n{"tool_calls": [{"name": "f"}]}', 1),
        ([call("f", a=1)], '<tool_call>\n{"name": "f"}\n</tool_call>', 1),
        ([call("f", a=1)], "```python\n[f(a=1)]\n```", -1),
        ([call("f", a=1)], "Here you are: [f(a=1)]", -1),
        ([call("f", a=1)], "[f(1)]", -1),
        ([], "[f(a=1", -1),
        ([Action(type="final_answer", text="I cannot.")], "I cannot.", 0),
        ([], "[]", 0),
    ],
)
def test_readable_is_what_a_strict_reader_reads_whole(actions, text, readable):
    assert feature("readable", *actions, text=text) == readable


RIGHT = call("geometry.triangle_area", base=10, height=5.5, unit="feet")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("unknown_tools", call("geometry.circle_area", base=10, height=5.5)),
        ("missing", call("geometry.triangle_area", base=10)),
        ("unknown", call("geometry.triangle_area", base=10, height=5.5, width=3)),
        ("enum_violations", call("geometry.triangle_area", base=10, height=5.5, unit="km")),
        ("string_for_other", call("geometry.triangle_area", base="10", height=5.5)),
        ("fraction_for_integer", call("geometry.triangle_area", base=10.5, height=5.5)),
        ("null_values", call("geometry.triangle_area", base=None, height=5.5)),
        ("other_mistyped", call("geometry.triangle_area", base=[10], height=5.5)),
        ("other_for_string", call("hotel_booking", location=3)),
        ("whole_in_numbers", call("hotel_booking", location="x", guests=[1, 2])),
        ("optional_default", call("geometry.triangle_area", base=10, height=5.5, unit="cm")),
        ("optional_invented", call("hotel_booking", location="x", rate=0.3)),
        ("other_option_said", call("geometry.triangle_area", base=10, height=5.5, unit="cm")),
        ("optional_enum_hinted", call("geometry.triangle_area", base=10, height=5.5)),
        ("numbers_unsaid", call("geometry.triangle_area", base=10, height=7)),
        ("numbers_unused", call("geometry.triangle_area", base=10, height=7)),
        ("same_values", call("geometry.triangle_area", base=10, height=10)),
        ("order_broken", call("geometry.triangle_area", base=5.5, height=10)),
        ("strings_unsaid", call("hotel_booking", location="Paris")),
        ("placeholders", call("hotel_booking", location="<your city>")),
        ("example_copied", call("hotel_booking", location="Boston, MA")),
        ("encoded_json", call("hotel_booking", location='["Rome"]')),
        ("empty_values", call("hotel_booking", location="")),
    ],
)
def test_what_is_wrong_with_a_call_is_seen(name, wrong):
    assert feature(name, wrong) >= 1
    assert feature(name, RIGHT) == 0


@pytest.mark.parametrize(
    ("request_", "value", "said"),
    [
        ("Take two of them", 2, True),
        ("Pay 1,250.50 dollars", 1250.5, True),
        ("A population of 3 million", 3_000_000, True),
        ("At 5% a year", 0.05, True),
        ("At 5% a year", 5, True),
        ("Turn left by -30 degrees", -30, True),
        ("In room b12", 12, True),
        ("Take two of them", 3, False),
        ("Version 1.25", 25, False),
    ],
)
def test_numbers_are_found_as_they_may_be_written(request_, value, said):
    unsaid = feature("numbers_unsaid", call("hotel_booking", rate=value), request=request_)
    assert (unsaid == 0) == said


def test_per_cent_as_a_share_and_as_a_number_are_told_apart():
    share = call("hotel_booking", location="x", rate=0.05)
    whole = call("hotel_booking", location="x", rate=5)
    request = "Book it with a discount of 5%."
    assert feature("percent_share", share, request=request) == 1
    assert feature("percent_whole", whole, request=request) == 1
    assert feature("percent_share", whole, request=request) == 0


@pytest.mark.parametrize(
    ("request_", "entries"),
    [
        ("Compare Apple, Google and Tesla", 3),
        ("Compare Apple, Google, and Tesla", 3),
        ("Compare Apple and Google", 2),
        ("Compare them", 1),
    ],
)
def test_enumerations_of_the_request_are_counted(request_, entries):
    assert feature("request_longest_list", RIGHT, request=request_) == entries


def test_calls_are_counted_and_compared():
    other = call("geometry.triangle_area", base=3, height=5.5, unit="feet")
    three = [RIGHT, RIGHT, other]
    assert feature("calls", *three) == 3
    assert feature("repeated_calls", *three) == 1
    assert feature("parameters_varying", *three) == 1
    assert feature("tools_used", *three) == 1
    assert feature("tools_unused", *three) == 1


def test_word_joined_to_a_value_and_used_nowhere_is_seen():
    request = "Area of triangles with base 10 and height 5.5, in copper and aluminum."
    copper = call("hotel_booking", location="copper")
    both = [copper, call("hotel_booking", location="aluminum")]
    assert feature("partners_unused", copper, request=request) == 1
    assert feature("partners_unused", *both, request=request) == 0


def test_tool_that_the_request_names_and_nobody_called_is_seen():
    request = "Find the area of a triangle, and make a hotel booking."
    assert feature("unused_tool_name_said", RIGHT, request=request) == 1
    assert feature("unused_tools_named", RIGHT, request=request) == 1
    assert feature("tools_named", RIGHT, request=request) == 2
    assert feature("unused_tool_name_said", RIGHT) == 0


def test_called_tool_is_held_against_the_others():
    right, wrong = RIGHT, call("hotel_booking", location="triangle")
    assert feature("likeness_gap", right) > 0 > feature("likeness_gap", wrong)
    assert feature("name_said", right) > feature("name_said", wrong) == 0


def test_features_of_calls_have_no_value_for_a_text():
    names = ("missing", "strings", "numbers_unused", "words_per_call")
    answer = item(Action(type="final_answer", text="No function fits."), text="No function fits.")
    found = hand_features(answer)
    assert all(math.isnan(found[name]) for name in names)
    assert found["calls"] == 0
    assert not math.isnan(found["likeness_best"])


def test_refusals_are_known():
    def refuses(words):
        return feature("text_refuses", Action(type="final_answer", text=words), text=words)

    assert refuses("None of the functions can be used here.")
    assert not refuses("Take the second one.")


def test_episode_is_seen_as_a_whole():
    made = {"function": {"name": "hotel_booking", "arguments": {"location": "Rome"}}}
    response = [
        {"role": "assistant", "content": "", "tool_calls": [made]},
        {"role": "tool", "content": "Error: no such city"},
        {"role": "assistant", "content": "", "tool_calls": [made]},
        {"role": "tool", "content": "booked"},
        {"role": "assistant", "content": "Shall I go on?"},
        {"role": "user", "content": "yes"},
        {"role": "assistant", "content": "Done."},
    ]
    book = Action(type="file_write", tool="hotel_booking", arguments={"location": "Rome"})
    found = hand_features(
        item(book, book, Action(type="final_answer", text="Done."), response=response)
    )
    expected = {
        "steps": 4,
        "user_turns": 1,
        "results": 2,
        "errors": 1,
        "error_share": 0.5,
        "last_error": 0,
        "repeats": 1,
        "writes": 2,
        "says": 1,
        "ends_with_call": 0,
        "ends_with_question": 0,
    }
    assert {name: found[f"episode_{name}"] for name in expected} == expected
    assert math.isnan(feature("episode_steps", book))


def test_step_features_are_those_of_an_item_without_response():
    logged = item(RIGHT)
    live = Item(step=logged.step, proposal=logged.proposal, siblings=logged.siblings)
    assert hand_features(live)["step_num_arguments"] == 3
    assert math.isnan(hand_features(logged)["step_num_arguments"])


def test_silence_is_a_response_where_the_log_has_the_message():
    assert has_response(item(text=""))
    assert not has_response(item(text="", response=[]))


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": None},
        {"properties": {"a": None}, "required": None},
        {"properties": {"a": {"type": ["string", "null"], "items": 3, "enum": "x"}}},
        {"properties": {"a": {"type": "array", "items": {"type": "tuple"}}}},
    ],
)
def test_catalogues_of_any_shape_are_read(schema):
    tool = ToolSpec(name="f", parameters=schema)
    for value in (None, "x", 1, [1.5, None], {"b": {"c": [1]}}, "9" * 400, 10**400):
        hand_features(item(call("f", a=value), tools=(tool,), request="1" * 400))
