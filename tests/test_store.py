import json
import math
import os
import resource
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specact_rl.errors import ConfigError, RolloutFormatError
from specact_rl.store import (
    JsonlRecords,
    RowSpool,
    append_jsonl,
    append_shard,
    atomic_write,
    content_hash,
    done_shards,
    file_hash,
    folder_hash,
    input_hash,
    iter_columns,
    iter_table,
    open_stage,
    read_json,
    read_jsonl,
    read_manifest,
    read_shards,
    read_table,
    read_training_rows,
    recovered_jsonl,
    tables,
    write_json,
    write_jsonl,
    write_table,
    write_training_rows,
)
from specact_rl.types import Action, Proposal, Rollout, Score, StepRecord, ToolSpec

# The folder is the same for all examples, whose files replace one another.
FILES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(), JSON, max_size=4)


def rollout(rollout_id="r1", arguments=None, **fields):
    message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "x", "arguments": arguments or {}}}
        ],
    }
    return Rollout(
        rollout_id=rollout_id,
        task_id="t1",
        family="f",
        policy="p",
        trial=0,
        messages=[{"role": "user", "content": "Grüße \u2028 \U0001f600"}, message],
        tools=[ToolSpec(name="x", parameters={"type": "object", "properties": {}})],
        steps=[
            StepRecord(
                index=0,
                message_index=1,
                executed=Action(type="tool_call", tool="x", arguments=arguments or {}),
            )
        ],
        **fields,
    )


def score(number=0, log_odds=0.5):
    return Score(
        proposal_id=f"p{number}",
        verifier_id="v",
        log_odds=log_odds,
        num_tokens=3,
        num_cached_tokens=0,
        seconds=0.25,
    )


def same_json(left, right):
    """Equal with types: 1 is not 1.0, and -0.0 is not 0.0."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


# ---- records


@FILES
@given(arguments=ARGUMENTS)
def test_jsonl_and_tables_read_back_what_was_written(tmp_path, arguments):
    records = [rollout(arguments=arguments), rollout("r2", info={"a": arguments}, success=False)]
    for write, read, name in [
        (write_jsonl, read_jsonl, "rows.jsonl"),
        (write_table, read_table, "rows.parquet"),
    ]:
        assert write(tmp_path / name, records) == 2
        loaded = read(tmp_path / name, Rollout)
        assert loaded == records
        assert same_json(loaded[0].steps[0].executed.arguments, arguments)


def test_none_zero_and_empty_stay_apart_in_a_table(tmp_path):
    records = [rollout("r1", success=None, info={}), rollout("r2", success=False, info={"a": None})]
    write_table(tmp_path / "t.parquet", records)
    first, second = read_table(tmp_path / "t.parquet", Rollout)
    assert (first.success, second.success) == (None, False)
    assert (first.info, second.info) == ({}, {"a": None})


def test_a_table_keeps_infinite_scores_and_missing_ones(tmp_path):
    records = [score(0, -math.inf), score(1, None), score(2, 0.1)]
    write_table(tmp_path / "s.parquet", records)
    assert read_table(tmp_path / "s.parquet", Score) == records


def test_a_table_of_many_row_groups_keeps_order(tmp_path):
    records = [score(i) for i in range(9000)]
    assert write_table(tmp_path / "s.parquet", iter(records)) == 9000
    assert pq.ParquetFile(tmp_path / "s.parquet").num_row_groups == 3
    assert read_table(tmp_path / "s.parquet", Score) == records


def test_a_table_of_no_records_reads_as_none(tmp_path):
    assert write_table(tmp_path / "t.parquet", []) == 0
    assert read_table(tmp_path / "t.parquet", Score) == []


def test_scalars_are_typed_columns_that_other_tools_can_filter(tmp_path):
    write_table(tmp_path / "s.parquet", [score(0, None), score(1)])
    columns = pq.read_table(tmp_path / "s.parquet").to_pydict()
    assert columns["log_odds"] == [None, 0.5]
    assert columns["num_tokens"] == [3, 3]


@pytest.mark.parametrize(
    "value",
    [(1, 2), {1: "a"}, math.nan, {"a"}, "\ud800"],
    ids=["tuple", "key", "nan", "set", "half"],
)
@pytest.mark.parametrize(("write", "name"), [(write_jsonl, "t.jsonl"), (write_table, "t.parquet")])
def test_what_would_not_read_back_equal_is_refused_and_leaves_no_file(tmp_path, value, write, name):
    with pytest.raises(ValueError, match=name):
        write(tmp_path / name, [rollout("good"), rollout(info={"a": value})])
    assert list(tmp_path.iterdir()) == []


def test_a_nan_score_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no NaN"):
        write_table(tmp_path / "s.parquet", [score(0, math.nan)])


def test_a_table_holds_records_of_one_type(tmp_path):
    with pytest.raises(ValueError, match=r"records\[1\] must be of the type"):
        write_table(tmp_path / "t.parquet", [score(), rollout()])


def test_dict_rows_are_jsonl_too(tmp_path):
    write_jsonl(tmp_path / "d.jsonl", [{"a": 1.0, "b": []}])
    assert same_json(read_jsonl(tmp_path / "d.jsonl", dict), [{"a": 1.0, "b": []}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trial": "0"}, "trial: Input should be a valid integer"),
        ({"trial": 0.0}, "trial: Input should be a valid integer"),
        ({"extra": 1}, "extra: Unexpected keyword argument"),
        ({"split": "train"}, "split: Input should be 'train_proposer'"),
        ({"steps": [{"index": 0, "message_index": 0, "executed": {"type": "repair"}}]}, "either"),
    ],
)
def test_a_bad_line_is_named_by_path_and_line(tmp_path, change, message):
    path = tmp_path / "bad.jsonl"
    write_jsonl(path, [rollout()])
    good = path.read_text()
    path.write_text(good + "\n" + json.dumps(json.loads(good) | change) + "\n")
    with pytest.raises(RolloutFormatError, match=r"bad\.jsonl:3: ") as caught:
        read_jsonl(path, Rollout)
    assert message in str(caught.value)


def test_a_cut_off_line_is_an_error_and_not_the_end(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": ')
    with pytest.raises(RolloutFormatError, match=r"a\.jsonl:2"):
        read_jsonl(tmp_path / "a.jsonl", dict)


def test_records_that_were_added_are_recovered_without_the_line_that_was_cut_off(tmp_path):
    path = tmp_path / "new" / "scores.jsonl"
    assert recovered_jsonl(path, Score) == []
    scores = [score(log_odds=value) for value in (1.0, None, 2.0)]
    for each in scores[:2]:
        append_jsonl(path, each)
    whole = path.read_bytes()
    for cut in (b"", b"{", whole.splitlines()[0]):
        path.write_bytes(whole + cut)
        assert recovered_jsonl(path, Score) == scores[:2]
        append_jsonl(path, scores[2])
        assert recovered_jsonl(path, Score) == scores
    with pytest.raises(ValueError, match="not a JSON value"):
        append_jsonl(path, score(log_odds=math.nan))


def test_line_that_finds_no_room_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "scores.jsonl"
    append_jsonl(path, score())
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            append_jsonl(path, score())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    append_jsonl(path, score())
    assert recovered_jsonl(path, Score) == [score(), score()]


def test_a_table_of_another_record_or_version_is_refused(tmp_path):
    path = tmp_path / "s.parquet"
    write_table(path, [score()])
    with pytest.raises(RolloutFormatError, match="columns must be the record's fields"):
        read_table(path, Rollout)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"schema_version": "0"}), path)
    with pytest.raises(RolloutFormatError, match="schema_version must be 1, got '0'"):
        read_table(path, Score)


def test_a_table_from_before_a_field_with_a_default_reads_as_the_default(tmp_path, make):
    proposal = make.proposal(make.rollout([make.say("Hi")]).step(0), make.say("Hi"), True)
    path = tmp_path / "p.parquet"
    write_table(path, [proposal])
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["finished"]), path)
    assert read_table(path, Proposal) == [proposal]
    pq.write_table(table.drop_columns(["text"]), path)
    with pytest.raises(RolloutFormatError, match=r"missing \['text'\]"):
        read_table(path, Proposal)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "s.parquet").write_text("not a table")
    with pytest.raises(RolloutFormatError, match="must be a Parquet file"):
        read_table(tmp_path / "s.parquet", Score)


def test_shards_are_read_in_the_order_of_their_numbers(tmp_path):
    assert done_shards(tmp_path / "none") == []
    for index in (10, 2, 0):
        append_shard(tmp_path, index, [score(index)])
    (tmp_path / ".part-00001.parquet.7.tmp").write_text("half")
    assert done_shards(tmp_path) == [0, 2, 10]
    assert [row.proposal_id for row in read_shards(tmp_path, Score)] == ["p0", "p2", "p10"]


# ---- files and hashes


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})

    def fail():
        with atomic_write(tmp_path / "a.json") as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_read_json_names_the_file_that_is_missing_or_broken(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.json must exist"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ConfigError, match=r"a\.json must be one JSON value"):
        read_json(tmp_path / "a.json")


def test_content_hash_sees_values_and_types_but_not_key_order():
    assert content_hash({"a": 1, "b": "é"}) == content_hash({"b": "é", "a": 1})
    assert len({content_hash(v) for v in (1, 1.0, "1", True, None, [1], {})}) == 7
    # sha256 of the two bytes {}
    assert content_hash({}) == "44136fa355b3678a"


# ---- training rows


def call(**arguments):
    function = {"name": "x", "arguments": arguments}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": function}],
    }


ROWS = {
    "train": [
        {
            "prompt": [{"role": "user", "content": 'q "x" \u2028 </x> é \U0001f600'}],
            "completion": [call(a=1, b=1.0, c=None, d={}, e=[], f="", price=1.95, p=-0.3)],
            "tools": [{"type": "function", "function": {"name": "x", "parameters": {}}}],
            "label": True,
            "step_id": "r/0",
            "num_tokens": 3,
            "weight": 0.1,
            "note": None,
        },
        {
            "prompt": [{"role": "user", "content": "3"}],
            "completion": [{"role": "assistant", "content": "done", "z": {"k": [1, "a", None]}}],
            "tools": [],
            "label": False,
            "step_id": "r/1",
            "num_tokens": 4,
            "weight": 2.0,
            "note": None,
        },
    ],
    "calibration": [],
}
ROWS["calibration"] = [ROWS["train"][1]]


def test_a_data_set_folder_loads_as_the_rows_that_were_written(tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "set"
    write_training_rows(folder, ROWS, "Rows for a test.")
    write_json(folder / "manifest.json", {"not": "data"})
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: len(loaded[split]) for split in loaded} == {"train": 2, "calibration": 1}
    for split, rows in ROWS.items():
        assert json.dumps(list(loaded[split])) == json.dumps(rows)
        assert json.dumps(read_training_rows(folder, split)) == json.dumps(rows)


@FILES
@given(
    # Below 1e-280 the loader loses digits whatever the spelling, and such a value is refused.
    arguments=st.dictionaries(
        st.text(),
        st.floats(-1e300, 1e300).filter(lambda x: x == 0 or abs(x) > 1e-280)
        | st.integers(-(2**63), 2**63)
        | st.text(),
    )
)
def test_numbers_survive_the_loader_to_the_last_bit(tmp_path, arguments):
    row = {"completion": [call(**{"a": arguments})]}
    write_training_rows(tmp_path, {"train": [row]}, "")
    assert json.dumps(read_training_rows(tmp_path, "train")) == json.dumps([row])


@pytest.mark.parametrize("value", [2**70, (1,)], ids=["big", "tuple"])
def test_a_value_that_the_loader_would_change_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="column 'completion'"):
        write_training_rows(tmp_path, {"train": [{"completion": [call(a=value)]}]}, "")


def test_rows_with_different_keys_are_refused_and_not_padded(tmp_path):
    with pytest.raises(ValueError, match="row 1 has"):
        write_training_rows(tmp_path, {"train": [{"prompt": [], "tools": []}, {"prompt": []}]}, "")


def test_a_column_of_mixed_types_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"column 'n' must hold values of one type.*float.*int"):
        write_training_rows(tmp_path, {"train": [{"n": 1}, {"n": 1.5}]}, "")


def test_a_split_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="split 'test'"):
        read_training_rows(tmp_path, "test")


# ---- stages


def run_stage(folder, source, arguments=None, text="result", **options):
    with open_stage(
        folder, "demo", inputs={"source": source}, arguments=arguments or {}, **options
    ) as stage:
        if not stage.done:
            (stage.path / "sub").mkdir(exist_ok=True)
            (stage.path / "sub" / "out.txt").write_text(text)
            stage.counts["rows"] = 1
            stage.dropped["bad"] = 2
        return stage.done


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.txt"
    path.write_text("one")
    return path


def test_a_finished_stage_has_a_manifest_of_all_it_holds(tmp_path, source):
    folder = tmp_path / "out"
    assert run_stage(folder, source, {"path": "é", "pair": (1, 2)}, seed=7) is False
    manifest = read_manifest(folder)
    assert manifest.stage == "demo"
    assert manifest.inputs == {"source": file_hash(source)}
    assert manifest.arguments == {"path": "é", "pair": [1, 2]}
    assert (manifest.seed, manifest.counts, manifest.dropped) == (7, {"rows": 1}, {"bad": 2})
    assert manifest.files == {"sub/out.txt": file_hash(folder / "sub" / "out.txt")}
    assert {p.name for p in tmp_path.iterdir()} == {"out", "source.txt"}


def test_the_same_stage_is_skipped_and_another_replaces_it_only_when_told(tmp_path, source):
    folder = tmp_path / "out"
    run_stage(folder, source)
    assert run_stage(folder, source) is True
    for change in ({"arguments": {"a": 1}}, {"seed": 1}):
        with pytest.raises(ConfigError, match="overwrite"):
            run_stage(folder, source, **change)
    source.write_text("two")
    with pytest.raises(ConfigError, match="overwrite"):
        run_stage(folder, source)
    assert run_stage(folder, source, text="new", overwrite=True) is False
    assert (folder / "sub" / "out.txt").read_text() == "new"
    assert run_stage(folder, source) is True


def test_a_skipped_stage_tells_the_counts_of_the_first_run(tmp_path, source):
    run_stage(tmp_path / "out", source)
    with open_stage(tmp_path / "out", "demo", inputs={"source": source}, arguments={}) as stage:
        assert (stage.done, stage.path) == (True, tmp_path / "out")
        assert (stage.counts, stage.dropped) == ({"rows": 1}, {"bad": 2})


def test_a_folder_that_lost_a_file_is_not_up_to_date(tmp_path, source):
    run_stage(tmp_path / "out", source)
    (tmp_path / "out" / "sub" / "out.txt").unlink()
    assert run_stage(tmp_path / "out", source, overwrite=True) is False


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path, source):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="nothing was deleted"):
        run_stage(tmp_path / "out", source, overwrite=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"


def test_a_failed_stage_leaves_no_folder_and_keeps_its_shards(tmp_path, source):
    folder = tmp_path / "out"

    def fail():
        with open_stage(folder, "demo", inputs={"source": source}, arguments={}) as stage:
            append_shard(stage.path / "scores", 0, [score(0)])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not folder.exists()
    with open_stage(folder, "demo", inputs={"source": source}, arguments={}) as stage:
        assert done_shards(stage.path / "scores") == [0]
    assert read_shards(folder / "scores", Score) == [score(0)]


def test_the_unfinished_work_of_other_arguments_is_not_taken_up(tmp_path, source):
    folder = tmp_path / "out"

    def fail():
        with open_stage(folder, "demo", inputs={"source": source}, arguments={"n": 1}) as stage:
            append_shard(stage.path, 0, [score(0)])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    with open_stage(folder, "demo", inputs={"source": source}, arguments={"n": 2}) as stage:
        assert done_shards(stage.path) == []


def test_the_hash_of_a_folder_follows_its_content(tmp_path, source):
    run_stage(tmp_path / "a", source)
    run_stage(tmp_path / "b", source, seed=3)
    run_stage(tmp_path / "c", source, text="other")
    assert folder_hash(tmp_path / "a") == folder_hash(tmp_path / "b") == input_hash(tmp_path / "a")
    assert folder_hash(tmp_path / "a") != folder_hash(tmp_path / "c")


def test_an_input_without_a_manifest_or_without_existence_is_refused(tmp_path, source):
    (tmp_path / "raw").mkdir()
    with pytest.raises(ConfigError, match=r"has no manifest\.json"):
        run_stage(tmp_path / "out", tmp_path / "raw")
    with pytest.raises(ConfigError, match="must exist"):
        run_stage(tmp_path / "out", tmp_path / "nothing")


KILLED = """
    import os, pathlib, signal, sys
    from specact_rl.store import append_shard, atomic_write, done_shards, open_stage
    from specact_rl.types import Score

    folder, source, fatal = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    with open_stage(folder, "demo", inputs={"source": source}, arguments={}) as stage:
        for index in range(3):
            if index in done_shards(stage.path):
                continue
            stage.counts["new"] = stage.counts.get("new", 0) + 1
            if fatal == "shard" and index == 2:
                with atomic_write(stage.path / "part-00002.parquet") as temporary:
                    temporary.write_text("half")
                    os.kill(os.getpid(), signal.SIGKILL)
            append_shard(stage.path, index, [Score(
                proposal_id=f"p{index}", verifier_id="v", log_odds=0.0, num_tokens=1,
                num_cached_tokens=0, seconds=0.0)])
        if fatal == "rename":
            os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("fatal", "recomputed"), [("shard", 1), ("rename", 3)])
def test_a_killed_stage_looks_unfinished_and_is_resumed(tmp_path, source, fatal, recomputed):
    folder = tmp_path / "out"

    def run(how):
        script = [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), str(source), how]
        return subprocess.run(script, env=os.environ, check=False).returncode

    assert run(fatal) == -signal.SIGKILL
    assert not folder.exists()
    assert run("nothing") == 0
    assert [row.proposal_id for row in read_shards(folder, Score)] == ["p0", "p1", "p2"]
    # killed at the rename, all was done: the counts are those of the killed run
    assert read_manifest(folder).counts == {"new": recomputed}
    assert set(read_manifest(folder).files) == {f"part-0000{i}.parquet" for i in range(3)}
    assert {p.name for p in tmp_path.iterdir()} == {"out", "source.txt"}


def test_spooled_rows_come_in_the_order_of_their_keys_as_often_as_asked(tmp_path):
    with RowSpool(tmp_path, "rows") as spool:
        spool.add("b", [{"n": 1, "x": 0.1}, {"n": 2, "x": None}])
        spool.add("a", [{"n": 3, "x": 1e-7}])
        spool.add("a", [])
        spool.add("b", [{"n": 4, "x": 2.0}])
        expected = [(3, 1e-7), (1, 0.1), (2, None), (4, 2.0)]
        for _ in range(2):
            assert [(row["n"], row["x"]) for row in spool] == expected
        assert len(spool) == 4
        spool.retain(lambda row: row["n"] != 1)
        spool.retain(lambda row: row["n"] != 4)
        assert ([row["n"] for row in spool], len(spool)) == ([3, 2], 2)
    assert list(tmp_path.iterdir()) == []


def test_training_rows_are_typed_by_all_of_them_and_not_by_the_first_batch(tmp_path):
    rows = [{"x": None, "names": []} for _ in range(600)] + [{"x": 1.5, "names": ["a"]}]
    write_training_rows(tmp_path, {"train": rows}, "")
    assert read_training_rows(tmp_path, "train") == rows


def test_records_of_a_log_are_read_from_their_places(tmp_path):
    logged = [rollout(f"r{i}") for i in range(4)]
    write_jsonl(tmp_path / "a.jsonl", logged[:2])
    write_jsonl(tmp_path / "b.jsonl", logged[2:])
    text = (tmp_path / "b.jsonl").read_text()
    (tmp_path / "b.jsonl").write_text("\n" + text)
    records = JsonlRecords(Rollout)
    assert [found for name in "ab" for found in records.add(tmp_path / f"{name}.jsonl")] == [
        (1, logged[0]),
        (2, logged[1]),
        (2, logged[2]),
        (3, logged[3]),
    ]
    assert list(records) == list(records) == logged
    assert [records[3], records[-4], records[1:3]] == [logged[3], logged[0], logged[1:3]]
    assert records.where(2) == f"{tmp_path / 'b.jsonl'}:2"
    with pytest.raises(IndexError):
        records[4]
    (tmp_path / "b.jsonl").write_text("\n" + text.replace("{", "[", 1))
    with pytest.raises(RolloutFormatError, match=r"b\.jsonl:2"):
        records[2]


def test_row_groups_end_between_groups_and_can_be_read_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_ROWS_PER_GROUP", 3)
    path = tmp_path / "t.parquet"
    records = [replace(rollout(f"r{i}"), task_id=task) for i, task in enumerate("aabbbbcd")]
    write_table(path, records, together=lambda r: r.task_id)
    sizes = [len(columns["task_id"]) for columns in iter_columns(path, Rollout, ["task_id"])]
    assert sizes == [6, 2]
    assert list(iter_table(path, Rollout, row_groups=[1])) == records[6:]
    some = list(iter_table(path, Rollout, where={"task_id": ["a", "d", "no"]}))
    assert some == [*records[:2], records[7]]


def test_a_bad_row_behind_a_filter_is_named_by_its_number_in_the_table(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(path, [replace(rollout(f"r{i}"), task_id=task) for i, task in enumerate("abab")])
    table = pq.read_table(path)
    texts = table["messages"].to_pylist()
    texts[3] = "[1]"
    at = table.schema.get_field_index("messages")
    pq.write_table(table.set_column(at, table.schema.field(at), [texts]), path)
    with pytest.raises(RolloutFormatError, match=r"t\.parquet: row 3: .*messages\.0"):
        list(iter_table(path, Rollout, where={"task_id": ["b"]}))
    assert len(list(iter_table(path, Rollout, where={"task_id": ["a"]}))) == 2


def test_columns_of_a_table_from_before_a_field_have_its_default(tmp_path):
    scores = [
        Score(
            proposal_id=f"p{i}",
            verifier_id="v",
            log_odds=0.0,
            num_tokens=1,
            num_cached_tokens=0,
            seconds=0.0,
        )
        for i in range(3)
    ]
    path = tmp_path / "scores.parquet"
    write_table(path, scores)
    pq.write_table(pq.read_table(path).drop_columns(["price"]), path)
    for names in (["price"], ["proposal_id", "price"]):
        [columns] = iter_columns(path, Score, names)
        assert list(columns) == names
        assert columns["price"] == [None] * 3
