import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specact_rl.actions.canonical import (
    action_hash,
    canonical,
    canonical_text,
    canonical_value,
)
from specact_rl.types import Action, ToolSpec

TOOL = ToolSpec(
    name="book",
    parameters={
        "type": "object",
        "properties": {
            "seats": {"type": "integer"},
            "price": {"type": "number"},
            "code": {"type": "string"},
            "window": {"type": "boolean"},
            "dates": {"type": "array", "items": {"type": "integer"}},
            "who": {"type": "object", "properties": {"age": {"type": "integer"}}},
            "row": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "seat": {"type": ["string", "integer"]},
        },
    },
)


def call(**arguments):
    return Action(type="tool_call", tool="book", arguments=arguments)


def say(text, kind="final_answer"):
    return Action(type=kind, text=text)


@pytest.mark.parametrize(
    ("name", "given_value", "expected"),
    [
        ("seats", "3", 3),
        ("seats", " 3 ", 3),
        ("seats", 3.0, 3),
        ("seats", "3.0", 3),
        ("seats", "3.5", "3.5"),
        ("seats", "three", "three"),
        ("seats", True, True),
        ("price", "3.50", 3.5),
        ("price", "4", 4),
        ("price", 4.0, 4),
        ("price", "1e400", "1e400"),
        ("code", 12, "12"),
        ("code", "012", "012"),
        ("code", True, True),
        ("window", "True", True),
        ("window", "yes", "yes"),
        ("dates", ["1", 2.0], [1, 2]),
        ("who", {"age": "4"}, {"age": 4}),
        ("row", "7", 7),
        ("row", None, None),
        ("seat", "7", "7"),
        ("seat", 7, 7),
        ("unknown", "3", "3"),
    ],
)
def test_arguments_take_the_type_of_the_schema_where_they_can(name, given_value, expected):
    value = canonical(call(**{name: given_value}), [TOOL]).arguments[name]
    assert (value, type(value)) == (expected, type(expected))


def test_without_a_catalogue_only_spelling_is_levelled():
    action = call(b=" e\u0301 ", a=2.0)
    assert canonical(action) == call(a=2, b="\u00e9")
    assert list(canonical(action).arguments) == ["a", "b"]
    assert canonical(call(a="2")).arguments == {"a": "2"}


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Done.", "done"),
        ("  The  lamp\nis broken! ", "the lamp is broken"),
        ("STRASSE", "straße"),
        ("e\u0301t\u00e9", "\u00c9TE\u0301"),
    ],
)
def test_texts_that_differ_in_spelling_only_are_equal(left, right):
    assert canonical_text(left) == canonical_text(right)


@pytest.mark.parametrize(("left", "right"), [("f3", "f4"), ("1.5", "15"), ("a b", "ab")])
def test_texts_that_differ_in_content_are_not(left, right):
    assert canonical_text(left) != canonical_text(right)


@settings(deadline=None)
@given(st.text())
def test_canonical_text_is_its_own_canonical_form(text):
    assert canonical_text(canonical_text(text)) == canonical_text(text)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["3", "3.0", "true", " 7"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
SCHEMAS = st.sampled_from([{}, *({"type": t} for t in ("string", "integer", "number", "boolean"))])


@settings(deadline=None)
@given(value=VALUES, schema=SCHEMAS)
def test_a_canonical_value_is_its_own_canonical_form(value, schema):
    once = canonical_value(value, schema)
    assert repr(canonical_value(once, schema)) == repr(once)


@settings(deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_the_hash_does_not_see_key_order(arguments):
    backwards = dict(reversed(arguments.items()))
    assert action_hash(call(**arguments)) == action_hash(call(**backwards))


def test_the_hash_tells_different_actions_apart():
    actions = [
        call(seats=1),
        call(seats=2),
        call(seats=True),
        call(),
        Action(type="tool_call", tool="cancel"),
        say("book"),
        say("Which book?", "ask_clarification"),
        say("Which book"),
    ]
    assert len({action_hash(action, [TOOL]) for action in actions}) == len(actions)


def test_the_hash_of_a_call_does_not_depend_on_what_the_context_made_of_it():
    plain = Action(type="file_read", tool="open", arguments={"file": "f3"})
    again = Action(type="verifier", tool="open", arguments={"file": "f3"})
    assert action_hash(plain) == action_hash(again)


def test_the_hash_types_arguments_by_the_catalogue():
    assert action_hash(call(seats="3"), [TOOL]) == action_hash(call(seats=3), [TOOL])
    assert action_hash(call(seats="3")) != action_hash(call(seats=3))
