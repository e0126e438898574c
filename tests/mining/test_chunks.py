from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from specact_rl.errors import RolloutFormatError
from specact_rl.mining.build_rollouts import import_rollouts
from specact_rl.mining.chunks import open_tables
from specact_rl.mining.pairs import group_by_task
from specact_rl.store import open_stage, tables, write_jsonl, write_table

ALL = {"train_verifier": 1.0}


@pytest.fixture
def logged(make):
    """Two trials of each of nine tasks, the second trials after all of the first."""
    return [
        make.rollout([make.say(f"Done {i} {trial}")], task=f"t{i}", request=f"Do {i}.", trial=trial)
        for trial in range(2)
        for i in range(9)
    ]


@pytest.fixture
def small_groups(monkeypatch):
    """Row groups end as soon as a task does."""
    monkeypatch.setattr(tables, "_CHARACTERS_PER_GROUP", 1)


@pytest.fixture
def written(tmp_path):
    """Writes rollouts and proposals as they are."""

    def write(name, **files):
        with open_stage(tmp_path / name, name, inputs={}, arguments={}) as stage:
            for file, records in files.items():
                write_table(stage.path / f"{file}.parquet", records)
        return tmp_path / name

    return write


def rows(found):
    return {task.task_id: (task.rollouts, task.proposals) for task in found}


def test_an_import_puts_the_rollouts_of_a_task_into_one_row_group(tmp_path, logged, small_groups):
    write_jsonl(tmp_path / "log.jsonl", logged)
    import_rollouts(tmp_path / "log.jsonl", tmp_path / "out", importer="native", fractions=ALL)
    found = open_tables(tmp_path / "out", [], "train_verifier")
    assert len(found.chunks) == 9
    assert all(chunk.contiguous for chunk in found.chunks)
    expected = [replace(rollout, split="train_verifier") for rollout in logged]
    assert rows(found.tasks()) == rows(group_by_task(expected))


def test_tables_in_any_order_give_whole_tasks(monkeypatch, written, logged, make):
    monkeypatch.setattr(tables, "_ROWS_PER_GROUP", 5)
    logged = [replace(r, split="train_verifier" if r.task_id < "t6" else "test") for r in logged]
    proposals = [make.proposal(r.step(0), make.say("No"), False) for r in logged[::-1]]
    folders = (
        written("rollouts", rollouts=logged),
        [written("proposals", proposals=proposals)],
    )
    found = open_tables(*folders, "train_verifier")
    wanted = [r for r in logged if r.split == "train_verifier"]
    offered = [p for p in proposals if p.task_id < "t6"]
    assert rows(found.tasks()) == rows(group_by_task(wanted, offered))
    assert (found.num_rollouts, found.num_proposals, found.num_other_proposals) == (12, 12, 6)


def test_a_row_group_in_which_tasks_alternate_gives_whole_tasks(written, logged):
    logged = [replace(r, split="train_verifier") for r in logged]
    found = open_tables(written("rollouts", rollouts=logged), [], "train_verifier")
    assert [chunk.contiguous for chunk in found.chunks] == [False]
    assert rows(found.tasks()) == rows(group_by_task(logged))


def test_a_split_without_rollouts_has_no_chunks(written, logged):
    logged = [replace(r, split="test") for r in logged]
    found = open_tables(written("rollouts", rollouts=logged), [], "train_verifier")
    assert (found.chunks, found.num_rollouts) == ((), 0)


def test_a_bad_row_is_named_by_its_place_in_the_table(tmp_path, written, logged, small_groups):
    logged = [replace(r, split="train_verifier") for r in logged]
    folder = written("rollouts", rollouts=logged)
    path = folder / "rollouts.parquet"
    table = pq.read_table(path)
    steps = table["steps"].to_pylist()
    steps[7] = '[{"index": "0"}]'
    column = table.schema.get_field_index("steps")
    pq.write_table(table.set_column(column, table.schema.field(column), [steps]), path, 3)
    found = open_tables(folder, [], "train_verifier")
    with pytest.raises(RolloutFormatError, match=r"rollouts\.parquet: row 7: .*steps\.0\.index"):
        list(found.tasks())
