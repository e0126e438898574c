import json
from pathlib import Path

import pytest

from specact_rl.errors import ConfigError, RolloutFormatError
from specact_rl.logs import IMPORTERS
from specact_rl.store import read_jsonl, write_jsonl
from specact_rl.types import Action, Rollout, ToolSpec

FIXTURE = Path(__file__).parents[1] / "fixtures" / "logs" / "openai_chat.jsonl"
import_chat = IMPORTERS["openai_chat"]


def write_row(path, **row):
    default = {"tools": [], "messages": [{"role": "user", "content": "Hi"}]}
    path.write_text(json.dumps(default | row) + "\n")
    return path


def assistant(*arguments, content=""):
    calls = [{"type": "function", "function": {"name": "x", "arguments": a}} for a in arguments]
    return {"role": "assistant", "content": content, "tool_calls": calls}


@pytest.fixture(scope="module")
def result():
    return import_chat(FIXTURE)


def test_every_message_with_one_action_is_a_step(result):
    first = result.rollouts[0]
    assert [step.message_index for step in first.steps] == [3, 5, 11]
    assert [step.executed for step in first.steps] == [
        Action(type="tool_call", tool="find_order", arguments={"customer": "Zoë", "limit": 2.0}),
        Action(type="repair", tool="find_order", arguments={"customer": "Zoë"}),
        Action(type="final_answer", text="The chair is returned."),
    ]


def test_what_became_no_step_is_counted_by_reason_and_stays_in_the_conversation(result):
    assert result.dropped == {"no_request": 1, "parallel_calls": 1, "empty_message": 1}
    assert len(result.rollouts[0].messages) == 12
    assert result.counts() == {
        "rollouts": 4,
        "tasks": 2,
        "messages": 12 + 4 + 2 + 2,
        "steps": 3 + 2 + 1 + 1,
        "unparsable_steps": 1,
    }


def test_arguments_become_objects_and_content_becomes_text(result):
    messages = result.rollouts[0].messages
    assert messages[2]["content"] == "Please return my chair, I am Zoë."
    assert messages[3]["tool_calls"] == [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "find_order", "arguments": {"customer": "Zoë", "limit": 2.0}},
        }
    ]
    assert messages[5]["content"] == ""
    assert messages[4] == {"role": "tool", "tool_call_id": "c1", "content": "Error: busy"}


def test_arguments_that_are_no_json_make_a_step_without_action_and_keep_the_text(result):
    step = result.rollouts[1].steps[0]
    wire = '<tool_call>\n{"name": "return_item", "arguments": {"order": }\n</tool_call>'
    assert (step.executed, step.executed_text) == (None, wire)
    assert result.rollouts[1].messages[1] == {"role": "assistant", "content": wire}


def test_tools_come_with_or_without_their_wrapper(result):
    find, give_back = result.rollouts[0].tools
    assert (find.name, find.description) == ("find_order", "Orders of a customer.")
    assert find.parameters["required"] == ["customer"]
    assert give_back == ToolSpec(name="return_item")


def test_a_reward_of_one_is_a_success_where_the_log_says_nothing_else(result):
    assert [rollout.success for rollout in result.rollouts] == [True, False, False, None]
    assert result.rollouts[0].info == {"reward": 1.0, "seconds": 4.5}


def test_without_ids_equal_requests_are_one_task_and_repeats_are_trials(result):
    one, other = result.rollouts[2:]
    assert one.task_id == other.task_id == one.family
    assert (one.policy, one.trial, other.trial) == ("unknown", 0, 1)
    assert one.rollout_id != other.rollout_id
    assert result.rollouts[1].trial == 1


def test_imported_rollouts_are_native_rollouts(result, tmp_path):
    write_jsonl(tmp_path / "rollouts.jsonl", result.rollouts)
    assert read_jsonl(tmp_path / "rollouts.jsonl", Rollout) == result.rollouts
    assert list(IMPORTERS["native"](tmp_path).rollouts) == result.rollouts


@pytest.mark.parametrize(
    "arguments", ["", "[1]", "null", '{"a": NaN}', '{"a": "\\ud800"}', None, 3, "[" * 9999]
)
def test_whatever_the_arguments_are_the_rollout_can_be_stored(tmp_path, arguments):
    messages = [{"role": "user", "content": "Hi"}, assistant(arguments)]
    rollouts = import_chat(write_row(tmp_path / "a.jsonl", messages=messages)).rollouts
    assert rollouts[0].steps[0].executed is None
    write_jsonl(tmp_path / "out.jsonl", rollouts)


def test_several_calls_are_dropped_also_when_one_of_them_is_broken(tmp_path):
    messages = [{"role": "user", "content": "Hi"}, assistant("{}", "{", content="Both:")]
    result = import_chat(write_row(tmp_path / "a.jsonl", messages=messages))
    assert result.dropped == {"parallel_calls": 1}
    assert result.rollouts[0].messages[1]["content"] == (
        'Both:\n<tool_call>\n{"name": "x", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "x", "arguments": {}\n</tool_call>'
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": "Hi"}, "messages must be a list of objects"),
        ({"tools": None}, "tools must be a list of objects"),
        ({"tools": [{"description": "x"}]}, "every tool must have a name"),
        ({"messages": [{"role": "robot", "content": ""}]}, r"messages\[0\]\.role must be one of"),
        ({"messages": [{"role": "user", "content": 3}]}, r"messages\[0\]\.content must be text"),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "c"}]}]},
            r"messages\[0\]\.tool_calls\[0\] must hold a function with a name",
        ),
        (
            {"messages": [{"role": "assistant", "function_call": {"name": "x"}}]},
            "convert it to tool_calls",
        ),
        ({"success": 1}, "success must be"),
        ({"reward": True}, "reward must be"),
        ({"id": 7}, "id must be"),
    ],
)
def test_a_line_of_another_form_is_named_by_path_and_line(tmp_path, row, message):
    with pytest.raises(RolloutFormatError, match=rf"a\.jsonl:1.*{message}"):
        import_chat(write_row(tmp_path / "a.jsonl", **row))


def test_a_line_that_is_no_object_is_named_by_path_and_line(tmp_path):
    (tmp_path / "a.jsonl").write_text(FIXTURE.read_text() + "[1]\n")
    with pytest.raises(RolloutFormatError, match=r"a\.jsonl:6: "):
        import_chat(tmp_path / "a.jsonl")


def test_calls_of_tools_that_do_not_exist_are_kept_and_flagged(tmp_path):
    messages = [{"role": "user", "content": "Hi"}, assistant("{}"), assistant("{}")]
    tools = [{"type": "function", "function": {"name": "y"}}]
    result = import_chat(write_row(tmp_path / "a.jsonl", messages=messages, tools=tools, model="m"))
    assert [step.executed.tool for step in result.rollouts[0].steps] == ["x", "x"]
    [flag] = result.flags
    assert (flag.kind, flag.group) == ("unknown_tools", "m")
    assert flag.detail.startswith("2 calls name a tool that the catalogue of their rollout lacks")


def test_a_log_without_tools_has_no_unknown_ones(tmp_path):
    messages = [{"role": "user", "content": "Hi"}, assistant("{}")]
    assert import_chat(write_row(tmp_path / "a.jsonl", messages=messages)).flags == []


def test_a_repeated_id_is_refused_across_the_files_of_a_folder(tmp_path):
    write_row(tmp_path / "a.jsonl", id="same")
    write_row(tmp_path / "b.jsonl", id="same")
    with pytest.raises(RolloutFormatError, match=r"b\.jsonl:1: id must be unique, 'same'"):
        import_chat(tmp_path)


@pytest.mark.parametrize("name", sorted(IMPORTERS))
def test_a_place_without_logs_is_refused(tmp_path, name):
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(ConfigError, match="must be a"):
            IMPORTERS[name](path)
