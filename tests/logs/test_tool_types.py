from dataclasses import replace

import pytest

from specact_rl.actions.serialise import action_message
from specact_rl.actions.taxonomy import (
    ToolTable,
    builtin_table,
    builtin_tables,
    read_tool_table,
)
from specact_rl.errors import ConfigError
from specact_rl.logs.tool_types import action_histogram, retyped
from specact_rl.types import Action, Rollout, StepRecord, ToolSpec

TABLE = """\
[tools]
put = "file_write"
look = "file_read"
hand_over = "BLOCKED"

[[patterns]]
match = ["list_*", "find_*"]
type = "retrieval"

[[patterns]]
match = ["*_all"]
type = "verifier"

[results]
error = ['\\{"error"', 'failed']

[text]
refusal = ['\\bcannot\\b']
question = ['\\?', 'please confirm']
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "tools.toml"
    path.write_text(TABLE)
    return read_tool_table(path)


def test_an_exact_name_wins_then_the_first_pattern(table):
    tools = ("put", "list_all", "check_all", "find_x", "put_x")
    assert [table.plain_type(t) for t in tools] == [
        "file_write",
        "retrieval",
        "verifier",
        "retrieval",
        None,
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"error": 1}', True),
        ("  Failed: x", True),
        ("it failed", False),
        ("Error: x", False),
        ({"error": 1}, False),
        (None, False),
    ],
)
def test_an_error_is_what_the_table_says_at_the_start(table, content, expected):
    assert table.is_error(content) is expected


def test_a_table_without_rules_is_as_the_taxonomy():
    assert ToolTable().is_error("Error: x")
    assert ToolTable().classify_text("Which?") == "ask_clarification"
    assert ToolTable().classify_text("I cannot") == "final_answer"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I cannot. Anything else?", "BLOCKED"),
        ("Is it a? Or b.", "ask_clarification"),
        ("PLEASE CONFIRM", "ask_clarification"),
        ("Done.", "final_answer"),
    ],
)
def test_a_text_refuses_before_it_asks_before_it_answers(table, text, expected):
    assert table.classify_text(text) == expected


def rollout(*turns, tools=()):
    """Actions and, as strings, the results after them."""
    messages, steps = [{"role": "user", "content": "go"}], []
    for turn in turns:
        if isinstance(turn, str):
            messages.append({"role": "tool", "content": turn})
            continue
        steps.append(StepRecord(index=len(steps), message_index=len(messages), executed=turn))
        messages.append(action_message(turn))
    return Rollout(
        rollout_id="r",
        task_id="t",
        family="t",
        policy="m",
        trial=0,
        messages=messages,
        tools=list(tools),
        steps=steps,
    )


def call(tool, **arguments):
    return Action(type="tool_call", tool=tool, arguments=arguments)


def types(log):
    return [step.executed.type for step in log.steps]


def test_context_comes_before_the_table(table):
    log = rollout(
        call("look", file="a"),
        "failed",
        call("look", file="b"),
        "text",
        call("look", file="b"),
        "text",
        call("put", file="c"),
        "ok",
        call("look", file="c"),
        "text",
        call("put", file="d"),
        "failed",
        call("look", file="d"),
        "text",
        call("hand_over"),
        tools=[ToolSpec(name=n) for n in ("look", "put")],
    )
    assert types(retyped(log, table)) == (
        "file_read repair file_read file_write verifier file_write file_read BLOCKED".split()
    )


def test_a_text_between_ends_the_context(table):
    log = rollout(call("look"), "failed", Action(type="final_answer", text="Which?"), call("look"))
    assert types(retyped(log, table)) == ["file_read", "ask_clarification", "file_read"]


def test_a_result_that_the_log_marks_an_error_is_one(table):
    log = rollout(call("look"), "nothing", call("look"))
    log.messages[2]["is_error"] = True
    assert types(retyped(log, table)) == ["file_read", "repair"]


def test_a_type_that_the_log_gives_a_tool_stays(table):
    log = rollout(call("look"), tools=[ToolSpec(name="look", action_type="retrieval")])
    assert types(retyped(log, table)) == ["retrieval"]


def test_retyping_twice_changes_nothing_more(table):
    once = retyped(rollout(call("look"), "failed", call("look"), call("x")), table)
    assert retyped(once, table) == once


def test_the_histogram_tells_several_calls_from_what_cannot_be_read():
    log = rollout(call("x"), call("y"), call("z"), Action(type="final_answer", text="ok"))
    steps = [replace(s, executed=None) if s.index in (1, 2) else s for s in log.steps]
    log.messages[2]["tool_calls"] *= 2
    assert action_histogram([replace(log, steps=steps)]) == {
        "tool_call": 1,
        "several_calls": 1,
        "unparsable": 1,
        "final_answer": 1,
    }


@pytest.mark.parametrize("name", builtin_tables())
def test_a_built_in_table_is_read(name):
    assert isinstance(builtin_table(name), ToolTable)


def test_there_are_built_in_tables():
    assert {"bfcl_multi_turn", "bfcl_single_turn", "tau_bench", "tinyagent"} <= set(
        builtin_tables()
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[tools]\nx = "reading"', "a type must be one of.*'reading'"),
        ("[toools]", r"unknown \['toools'\]"),
        ("[text]\nrefusals = []", r"unknown \['refusals'\]"),
        ("[text]\nrefusal = ['(']", "must be a tool table"),
        ("[[patterns]]\nmatch = ['x']", "must be a tool table"),
        ("[tools", "must be a tool table"),
    ],
)
def test_a_table_that_says_something_else_is_refused(tmp_path, text, message):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_tool_table(tmp_path / "x.toml")
