import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specact_rl.errors import ConfigError
from specact_rl.logs import IMPORTERS
from specact_rl.logs.sniff import sniff

USER = {"role": "user", "content": "Hi"}
USE = {"role": "assistant", "content": [{"type": "tool_use", "name": "x", "input": {}}]}
FIRST_ROWS = {
    "native.jsonl": (
        "native",
        {"rollout_id": "r", "task_id": "t", "steps": [], "messages": [], "tools": []},
    ),
    "chat.jsonl": ("openai_chat", {"messages": [USER], "tools": []}),
    "claude.jsonl": ("anthropic", {"messages": [USER, USE], "tools": []}),
    "schema.jsonl": ("anthropic", {"messages": [USER], "tools": [{"input_schema": {}}]}),
    "rows.jsonl": ("hf_chat", {"messages": [USER]}),
    "pairs.jsonl": ("hf_chat", {"prompt": [USER], "completion": []}),
    "rows.json": ("hf_chat", [{"messages": [USER], "tools": []}]),
    "tau.json": ("tau_bench", [{"task_id": 0, "reward": 1.0, "info": {}, "traj": []}]),
    "tau2.json": ("tau_bench", {"info": {}, "tasks": [], "simulations": []}),
    "board.json": ("swe_bench", {"leaderboards": []}),
    "gpt.run.json": ("swe_bench", {"resolved_ids": []}),
    "eval_state.json": ("swe_bench", {"task_eval_progress": {}}),
    "report.json": ("swe_bench", {"a-1": {"resolved": True}}),
    "plans.json": ("tinyagent", [{"question": "Q", "tools": [], "full_example": ""}]),
    "runs.jsonl": ("tinyagent", {"query": "Q", "raw_output": ""}),
}


@pytest.mark.parametrize("name", FIRST_ROWS)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_format_is_told_by_its_first_row(tmp_path, name, indent):
    importer, value = FIRST_ROWS[name]
    if name.endswith(".jsonl"):
        text = json.dumps(value) + "\n" + json.dumps(value) + "\n"
    else:
        text = json.dumps(value, indent=indent)
    (tmp_path / name).write_text(text)
    for path in (tmp_path / name, tmp_path):
        found = sniff(path)
        assert found.importer == importer
        assert found.reason.startswith(f"{tmp_path / name}: ")


def test_a_format_is_told_by_its_container(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.eval", "w") as archive:
        archive.writestr("header.json", "{}")
    assert sniff(tmp_path).importer == "inspect"
    pq.write_table(pa.table({"messages": [[USER]]}), tmp_path / "a.parquet")
    assert sniff(tmp_path / "a.parquet").importer == "hf_chat"
    results = tmp_path / "run" / "result" / "m"
    results.mkdir(parents=True)
    (results / "BFCL_v4_simple_python_result.json").write_text("")
    assert sniff(tmp_path).importer == "bfcl"


def test_every_importer_can_be_found_by_looking(tmp_path):
    assert {importer for importer, _ in FIRST_ROWS.values()} | {"bfcl", "inspect"} == set(IMPORTERS)


def test_schemas_beside_a_log_are_not_the_log(tmp_path):
    (tmp_path / "tools_airline.json").write_text("[]")
    (tmp_path / "z.json").write_text(json.dumps(FIRST_ROWS["tau.json"][1]))
    assert sniff(tmp_path).importer == "tau_bench"


def test_a_first_row_of_more_than_a_megabyte_is_seen(tmp_path):
    value = [{"traj": ["x" * (2 << 20)], "task_id": 0, "reward": 0.0}]
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert sniff(tmp_path).importer == "tau_bench"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ('{"a": 1, "b": 2}', r"the keys \['a', 'b'\]"),
        ("not json", "no JSON"),
        ("", "no JSON"),
        ("[1, 2]", "a int"),
        ('{"messages": "Hi"}', r"the keys \['messages'\]"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_an_unknown_format_is_refused_with_what_was_seen(tmp_path, text, seen):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match=f"first row has {seen}.*mapping.yaml"):
        sniff(tmp_path)


def test_a_place_without_files_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match="must be a"):
            sniff(path)
