import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specact_rl.errors import RolloutFormatError
from specact_rl.logs import IMPORTERS
from specact_rl.types import Action

import_hf = IMPORTERS["hf_chat"]


def call(name, **arguments):
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


ASK = {"role": "user", "content": "Read a"}
TOOLS = [{"type": "function", "function": {"name": "read_file", "parameters": {"type": "object"}}}]
ROW = {"messages": [ASK, call("read_file", path="a")], "tools": TOOLS}
READ = Action(type="file_read", tool="read_file", arguments={"path": "a"})


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_nulls_that_arrow_pads_with_are_taken_out_again(tmp_path):
    other = {"messages": [ASK, call("grep", pattern="x")], "tools": TOOLS}
    table = pa.Table.from_pylist([ROW, other])
    padded = table.to_pylist()[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert padded == {"path": "a", "pattern": None}
    pq.write_table(table, tmp_path / "train.parquet")
    first, second = import_hf(tmp_path).rollouts
    assert first.steps[0].executed == READ
    assert second.steps[0].executed.arguments == {"pattern": "x"}
    assert first.messages[1]["content"] == ""


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_json_lines_are_read_under_either_name(tmp_path, name):
    rollouts = import_hf(lines(tmp_path / name, ROW, ROW)).rollouts
    assert [r.trial for r in rollouts] == [0, 1]


def test_a_list_of_rows_is_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([ROW]))
    assert import_hf(tmp_path).rollouts[0].steps[0].executed == READ


def test_columns_may_hold_json_text_and_tools_may_be_missing(tmp_path):
    text = {"messages": json.dumps(ROW["messages"]), "tools": json.dumps(TOOLS)}
    bare = {"messages": ROW["messages"], "tools": None}
    first, second = import_hf(lines(tmp_path / "a.jsonl", text, bare)).rollouts
    assert [t.name for t in first.tools] == ["read_file"]
    assert second.tools == []
    assert first.steps[0].executed == second.steps[0].executed == READ


def test_prompt_and_completion_are_one_conversation(tmp_path):
    row = {"prompt": [ASK], "completion": [call("read_file", path="a")], "source": "x"}
    (rollout,) = import_hf(lines(tmp_path / "a.jsonl", row)).rollouts
    assert rollout.steps[0].message_index == 1
    assert rollout.info == {"source": "x"}


def test_rows_that_are_no_conversation_are_counted_unless_none_is(tmp_path):
    path = lines(tmp_path / "a.jsonl", ROW, {"messages": "Hi"}, {"text": "x"})
    result = import_hf(path)
    assert result.dropped == {"malformed_row": 2}
    assert [f.kind for f in result.flags] == ["malformed_rows"]
    with pytest.raises(RolloutFormatError, match=r"b\.jsonl:1: must have messages.*'text'"):
        import_hf(lines(tmp_path / "b.jsonl", {"text": "x"}))


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(RolloutFormatError, match=r"a\.parquet: must be a whole Parquet file"):
        import_hf(tmp_path)
