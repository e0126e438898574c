import json

import pytest

from specact_rl.errors import RolloutFormatError
from specact_rl.logs import IMPORTERS
from specact_rl.types import Action

import_anthropic = IMPORTERS["anthropic"]
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def use(name, **arguments):
    return {"type": "tool_use", "id": "t1", "name": name, "input": arguments}


def result(content, **more):
    return {"type": "tool_result", "tool_use_id": "t1", "content": content, **more}


def text(words):
    return {"type": "text", "text": words}


ROW = {
    "id": "run-1",
    "task_id": "t",
    "model": "claude",
    "success": True,
    "system": [text("Be "), text("kind.")],
    "tools": [{"name": "open_file", "description": "Opens.", "input_schema": SCHEMA}],
    "messages": [
        {"role": "user", "content": "Read a.txt"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                text("Reading."),
                use("open_file", path="a.txt"),
            ],
        },
        {"role": "user", "content": [result([text("gone")], is_error=True), text("Try b.txt")]},
        {"role": "assistant", "content": [use("open_file", path="b.txt")]},
        {"role": "user", "content": [result("B"), result("C")]},
        {"role": "assistant", "content": [use("open_file"), use("open_file")]},
        {"role": "user", "content": [result([{"type": "image", "source": {}}])]},
        {"role": "assistant", "content": "Done."},
    ],
}


def test_blocks_become_messages_calls_and_results(tmp_path):
    (rollout,) = import_anthropic(write(tmp_path / "a.jsonl", ROW)).rollouts
    assert [(m["role"], m["content"]) for m in rollout.messages] == [
        ("system", "Be kind."),
        ("user", "Read a.txt"),
        ("assistant", "Reading."),
        ("tool", "gone"),
        ("user", "Try b.txt"),
        ("assistant", ""),
        ("tool", "B"),
        ("tool", "C"),
        ("assistant", ""),
        ("tool", "[image]"),
        ("assistant", "Done."),
    ]
    (tool,) = rollout.tools
    assert (tool.name, tool.description, tool.parameters) == ("open_file", "Opens.", SCHEMA)
    assert (rollout.policy, rollout.success, rollout.rollout_id) == ("claude", True, "run-1")


def test_what_is_no_text_and_no_single_action_is_counted(tmp_path):
    result = import_anthropic(write(tmp_path / "a.jsonl", ROW))
    assert result.dropped == {"thinking_block": 1, "not_text_block": 1, "parallel_calls": 1}
    assert [s.executed for s in result.rollouts[0].steps] == [
        Action(type="file_read", tool="open_file", arguments={"path": "a.txt"}),
        Action(type="file_read", tool="open_file", arguments={"path": "b.txt"}),
        Action(type="final_answer", text="Done."),
    ]


def test_a_call_right_after_a_result_that_is_marked_an_error_is_a_repair(tmp_path):
    messages = [
        {"role": "user", "content": "Read"},
        {"role": "assistant", "content": [use("open_file", path="a")]},
        {"role": "user", "content": [result("gone", is_error=True)]},
        {"role": "assistant", "content": [use("open_file", path="b")]},
    ]
    (rollout,) = import_anthropic(write(tmp_path / "a.jsonl", {"messages": messages})).rollouts
    assert [s.executed.type for s in rollout.steps] == ["file_read", "repair"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": None}, "messages must be a list"),
        ({"messages": ["x"]}, r"messages\[0\] must be an object"),
        ({"messages": [{"role": "system", "content": ""}]}, r"messages\[0\]\.role must be"),
        ({"messages": [{"role": "user", "content": 3}]}, r"messages\[0\]\.content must be"),
        ({"messages": [{"role": "user", "content": [{"x": 1}]}]}, "a block must have a type"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}]},
            r"content\[0\] must be a tool_use with a name",
        ),
        ({"messages": [], "tools": [{"input_schema": {}}]}, "every tool must have a name"),
    ],
)
def test_a_line_of_another_form_is_named_by_path_and_line(tmp_path, row, message):
    with pytest.raises(RolloutFormatError, match=rf"a\.jsonl:1.*{message}"):
        import_anthropic(write(tmp_path / "a.jsonl", row))


def test_a_repeated_id_is_refused(tmp_path):
    with pytest.raises(RolloutFormatError, match=r"a\.jsonl:2: id must be unique, 'run-1'"):
        import_anthropic(write(tmp_path / "a.jsonl", ROW, ROW))
