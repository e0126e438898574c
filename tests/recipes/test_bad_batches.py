"""A loss that is no number ends the training, and says in which rows it was."""

import re

import pytest
import torch

from specact_rl.models import recipe_runs
from specact_rl.models.training import token_rows
from specact_rl.models.trajectories import side_rows
from specact_rl.store import read_training_rows, write_training_rows

COLUMNS = {
    "sft_proposer": ["completion"],
    "dpo_proposer": ["chosen", "rejected"],
    "train_reward_model": ["chosen", "rejected"],
    "train_verifier": ["completion"],
    "kto_proposer": ["completion"],
    "reward_weighted_sft": ["completion"],
}


def named_rows(error):
    """Row numbers and step ids that an error names."""
    [listed] = re.findall(r"train\.parquet: rows (.*?)\. Look at these", error)
    return {int(n): step for n, step in re.findall(r"(\d+) \(step (\S+)\)", listed)} or {
        int(n): None for n in listed.split(", ")
    }


@pytest.fixture
def rows_with_steps(world, tmp_path):
    """The data set of a recipe, with the ids of its steps."""

    def build(recipe):
        rows = read_training_rows(world.data[recipe], "train")
        rows = [row | {"step_id": f"r{i}/0"} for i, row in enumerate(rows)]
        write_training_rows(tmp_path / recipe, {"train": rows}, "Test rows.")
        return tmp_path / recipe, rows

    return build


@pytest.fixture
def spoil(monkeypatch):
    """Make the loss of every batch with this sequence undefined; collects those batches."""
    spoilt, install = [], recipe_runs.keep_batches_whole

    def spoil_row(ids, value=float("nan")):
        def patched(trainer):
            install(trainer)
            compute = trainer.compute_loss

            def compute_loss(model, inputs, *args, **kwargs):
                batch = [
                    line[mask.bool()].tolist()
                    for line, mask in zip(
                        inputs["input_ids"], inputs["attention_mask"], strict=True
                    )
                ]
                loss = compute(model, inputs, *args, **kwargs)
                if ids not in batch:
                    return loss
                spoilt.append(batch)
                return loss * value

            trainer.compute_loss = compute_loss

        monkeypatch.setattr(recipe_runs, "keep_batches_whole", patched)
        return spoilt

    return spoil_row


@pytest.mark.parametrize("recipe", COLUMNS)
def test_a_loss_that_is_no_number_stops_with_the_rows_of_its_batch(
    recipe, world, rows_with_steps, spoil, refused
):
    folder, rows = rows_with_steps(recipe)
    sides = token_rows(rows, world.renderer, COLUMNS[recipe])
    spoilt = spoil(sides[5][0].ids)
    error = refused(recipe, "--dataset_dir", folder, "--max_steps", "4")
    [batch] = spoilt  # and no step after it
    expected = {i: f"r{i}/0" for i, row in enumerate(sides) if any(s.ids in batch for s in row)}
    assert len(expected) == 2
    assert named_rows(error) == expected
    assert "is nan while all weights are finite" in error


def test_rows_of_whole_episodes_are_named_too(world, rows_with_steps, spoil, refused):
    folder, rows = rows_with_steps("dpo_proposer")
    answer = {"role": "tool", "content": "3 lines"}
    for row in rows:
        good, bad = row["chosen"], row["rejected"]
        row["chosen"], row["rejected"] = [*good, answer, *good], [*bad, answer, *good]
    write_training_rows(folder, {"train": rows}, "Test rows.")
    sides = side_rows(rows, world.renderer, "trajectory")
    spoil(sides[5][1].ids)
    options = ["--level", "trajectory", "--per_device_train_batch_size", "1", "--max_steps", "8"]
    error = refused("dpo_proposer", "--dataset_dir", folder, *options)
    assert named_rows(error) == {5: "r5/0"}
    assert "is nan while all weights are finite" in error


def test_weights_that_the_last_step_broke_are_blamed_on_its_rows(
    world, rows_with_steps, spoil, refused, tmp_path
):
    folder, rows = rows_with_steps("sft_proposer")
    sides = token_rows(rows, world.renderer, ["completion"])
    seen = spoil(sides[5][0].ids, 1.0)  # the loss is as it was
    options = ["--learning_rate", "1e39", "--max_steps", "1", "--per_device_train_batch_size", "8"]
    error = refused("sft_proposer", "--dataset_dir", folder, *options)
    assert len(seen) == 1
    assert "after step 1 " in error
    assert set(named_rows(error)) == set(range(8))
    assert not (tmp_path / "out" / "config.json").exists()


def test_an_infinite_loss_stops_as_well(world, rows_with_steps, spoil, refused, tmp_path):
    folder, rows = rows_with_steps("sft_proposer")
    [row] = token_rows(rows, world.renderer, ["completion"])[5]
    spoil(row.ids, float("inf"))
    error = refused("sft_proposer", "--dataset_dir", folder, "--max_steps", "4")
    assert "is inf while" in error
    assert not (tmp_path / "out" / "config.json").exists()


def test_rows_whose_prompt_was_cut_are_named_too(world, rows_with_steps, spoil, refused):
    folder, rows = rows_with_steps("sft_proposer")
    [row] = token_rows(rows, world.renderer, ["completion"])[5]
    spoil(row.ids[-60:])
    error = refused(
        "sft_proposer", "--dataset_dir", folder, "--max_length", "60", "--allow_truncation"
    )
    assert 5 in named_rows(error)


def test_weights_that_a_step_broke_are_blamed_on_the_rows_of_that_step(
    world, rows_with_steps, refused, monkeypatch
):
    folder, rows = rows_with_steps("sft_proposer")
    sides = token_rows(rows, world.renderer, ["completion"])
    steps, install = [], recipe_runs.keep_batches_whole

    def watch(trainer):
        install(trainer)
        compute = trainer.compute_loss

        def compute_loss(model, inputs, *args, **kwargs):
            steps.append(
                [
                    line[mask.bool()].tolist()
                    for line, mask in zip(
                        inputs["input_ids"], inputs["attention_mask"], strict=True
                    )
                ]
            )
            if len(steps) == 4:  # the second of the second step
                with torch.no_grad():
                    next(model.parameters())[0, 0] = float("nan")
            return compute(model, inputs, *args, **kwargs)

        trainer.compute_loss = compute_loss

    monkeypatch.setattr(recipe_runs, "keep_batches_whole", watch)
    cut = ["--gradient_accumulation_steps", "2", "--max_steps", "2"]
    error = refused("sft_proposer", "--dataset_dir", folder, *cut)
    first_step = steps[0] + steps[1]
    expected = {i for i, [row] in enumerate(sides) if row.ids in first_step}
    assert "after step 1 " in error
    assert len(expected) == 4
    assert set(named_rows(error)) == expected
