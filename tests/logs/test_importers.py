import json

import pytest

from specact_rl.errors import ConfigError, RolloutFormatError
from specact_rl.logs.importers import find_importer, find_tool_table, read_log
from specact_rl.types import Action

EPISODE = {
    "case": {"name": "t1", "number": 7},
    "agent": "m",
    "score": 0.75,
    "gold": "SECRET",
    "turns": [
        {"from": "human", "value": "Look it up."},
        {
            "from": "gpt",
            "value": None,
            "tool_calls": [{"function": {"name": "lookup", "arguments": '{"key": "a"}'}}],
        },
    ],
}
MAPPING = """\
format: openai_chat
rows: data.episodes
fields:
  messages: turns
  task_id: case.name
  id: case.number
  model: agent
  success: {path: score, at_least: 0.5}
message: {role: from, content: value}
roles: {human: user, gpt: assistant}
tools: tools.json
tool_types: types.toml
"""


@pytest.fixture
def mapped(tmp_path):
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    (tmp_path / "tools.json").write_text(json.dumps([{"name": "lookup"}]))
    (tmp_path / "types.toml").write_text('[tools]\nlookup = "retrieval"\n')
    (tmp_path / "log.json").write_text(json.dumps({"data": {"episodes": [EPISODE]}}))
    return tmp_path


def read(folder):
    return read_log(folder / "log.json", str(folder / "mapping.yaml")).result


def test_a_mapping_brings_a_log_into_a_known_form(mapped):
    (rollout,) = read(mapped).rollouts
    assert (rollout.rollout_id, rollout.task_id, rollout.policy, rollout.success) == (
        "7",
        "t1",
        "m",
        True,
    )
    assert [m["role"] for m in rollout.messages] == ["user", "assistant"]
    assert rollout.steps[0].executed == Action(
        type="retrieval", tool="lookup", arguments={"key": "a"}
    )


def test_what_is_not_mapped_is_left_out(mapped):
    (rollout,) = read(mapped).rollouts
    assert "SECRET" not in json.dumps([rollout.messages, rollout.info])


def test_rows_that_do_not_fit_are_counted_unless_none_does(mapped):
    rows = {"data": {"episodes": [EPISODE, EPISODE, {"turns": 3}, "x"]}}
    (mapped / "log.json").write_text(json.dumps(rows))
    assert read(mapped).dropped == {"duplicate_id": 1, "malformed_row": 2}
    (mapped / "log.json").write_text(json.dumps({"data": {"episodes": [{"turns": 3}]}}))
    with pytest.raises(RolloutFormatError, match="row 0: messages must be a list"):
        read(mapped)
    (mapped / "log.json").write_text(json.dumps({"data": {}}))
    with pytest.raises(RolloutFormatError, match=r"rows must be a list at 'data\.episodes'"):
        read(mapped)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("roles:", "rolls:"), r"unknown \['rolls'\]"),
        (("task_id:", "task:"), r"unknown \['task'\]"),
        (("messages:", "tools:"), "where the messages are"),
        (("openai_chat", "csv"), "format must be one of"),
        (("fields:", "fields: ["), "must be a YAML file"),
    ],
)
def test_a_mapping_that_says_something_else_is_refused(mapped, change, message):
    (mapped / "mapping.yaml").write_text(MAPPING.replace(*change))
    with pytest.raises(ConfigError, match=message):
        read(mapped)


def test_a_function_of_a_users_file_is_an_importer(tmp_path):
    (tmp_path / "mine.py").write_text("def read(path):\n    return path.name\n")
    importer, file = find_importer(f"{tmp_path / 'mine.py'}:read")
    assert importer(tmp_path / "log") == "log"
    assert file == tmp_path / "mine.py"


@pytest.mark.parametrize("name", ["csv", "none.yaml", "none.py:read", "native:read", ":read", ":"])
def test_an_importer_that_is_not_there_is_refused_with_those_that_are(name):
    with pytest.raises(ConfigError, match="importer must be one of.*'bfcl'"):
        find_importer(name)


def test_a_function_that_the_file_does_not_have_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(ConfigError, match="must define 'read'"):
        find_importer(f"{tmp_path / 'mine.py'}:read")


def test_without_an_importer_the_log_is_looked_at(tmp_path):
    line = {"messages": [{"role": "user", "content": "Hi"}], "tools": []}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n")
    loaded = read_log(tmp_path)
    assert loaded.importer == "openai_chat"
    assert "lines have messages" in loaded.reason
    assert len(loaded.result.rollouts) == 1


def test_a_table_of_the_users_decides_in_place_of_the_importers(mapped):
    table = mapped / "mine.toml"
    table.write_text('[tools]\nlookup = "file_read"\n')
    loaded = read_log(mapped / "log.json", str(mapped / "mapping.yaml"), tool_types=str(table))
    assert loaded.result.rollouts[0].steps[0].executed.type == "file_read"


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="tool table must be one of.*tau_bench"):
        find_tool_table("tau")
    with pytest.raises(ConfigError, match="no such file"):
        find_tool_table(str(tmp_path / "none.toml"))
