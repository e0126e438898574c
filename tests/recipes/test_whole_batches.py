"""A step is the same step, however its rows are cut up over accumulation and processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers.trainer_pt_utils import LengthGroupedSampler

from specact_rl.models.whole_batches import keep_batches_whole
from specact_rl.store import write_training_rows
from specact_rl.types import Action
from tests.records import make_step

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ["sft_proposer", "dpo_proposer", "train_reward_model", "train_verifier"]
# DPO as its tiny and qwen3 configs have it: with a mean over tokens beside the mean over rows.
SFT_TERM = ["--loss_type", "sigmoid", "sft", "--loss_weights", "1.0", "1.0"]


def options(recipe, data, *, rows, accumulation, steps=4):
    return [
        *("--dataset_dir", data[recipe]),
        *("--per_device_train_batch_size", rows),
        *("--gradient_accumulation_steps", accumulation),
        *("--max_steps", steps, "--learning_rate", "0.01"),
        *(SFT_TERM if recipe == "dpo_proposer" else []),
    ]


def losses(log):
    return [entry["loss"] for entry in log["log"] if "loss" in entry]


@pytest.fixture(scope="module")
def data_of(world, tmp_path_factory):
    """Folders by recipe, of so many rows whose prompts and turns all differ in length."""

    def build(num_rows):
        folder = tmp_path_factory.mktemp("data")
        for recipe, rows in _rows(world.renderer, num_rows).items():
            write_training_rows(folder / recipe, {"train": rows}, "Test rows.")
        return {recipe: folder / recipe for recipe in RECIPES}

    return build


def _rows(renderer, num_rows):
    right, pairs, labelled = [], [], []
    for i in range(num_rows):
        step = make_step(
            f"Open f{i}" + " please" * (i * 3 % 17),
            name=f"r{i}/0",
            task_id=f"t{i}",
            split="train_proposer",
        )
        turns = [
            Action(type="final_answer", text="Done." + " Open f1." * (i * 7 % 11)),
            Action(type="final_answer", text="No." + " please" * (i * 5 % 13)),
        ]
        chosen, rejected = (renderer.training_row(step, turn)["completion"] for turn in turns)
        right.append(renderer.training_row(step, turns[0]))
        labelled.append(renderer.training_row(step, turns[0], label=i % 3 == 0))
        pairs.append(renderer.prompt_fields(step) | {"chosen": chosen, "rejected": rejected})
    return dict(zip(RECIPES, [right, pairs, pairs, labelled], strict=True))


@pytest.fixture(scope="module")
def data(data_of):
    # 8 + 8 + 5: the last batch of an epoch is cut into parts of 4 and 1
    return data_of(21)


@pytest.mark.parametrize("recipe", RECIPES)
def test_accumulation_gives_the_losses_of_the_whole_batch(recipe, data, run_recipe, tmp_path):
    whole = options(recipe, data, rows=8, accumulation=1)
    parts = options(recipe, data, rows=4, accumulation=2)
    one, two = (
        losses(run_recipe(recipe, tmp_path / name, *each))
        for name, each in (("whole", whole), ("parts", parts))
    )
    assert len(one) == 4
    assert two == pytest.approx(one, rel=2e-5)
    assert max(one) > 1.01 * min(one)  # it is a trajectory, and not one number


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_one_row_at_a_time_and_two_processes_give_the_losses_of_the_whole_batch(
    recipe, data_of, command, run_recipe, tmp_path
):
    # 48 rows in batches of 8 or, as one of two processes sees it, of 4: groups of another size
    data = data_of(48)
    grouped = recipe in ("sft_proposer", "train_verifier")
    sampling = "group_by_length" if grouped else "random"
    same = ["--train_sampling_strategy", sampling, "--seed", 3]
    one, eight = (
        run_recipe(
            recipe,
            tmp_path / f"{rows}",
            *options(recipe, data, rows=rows, accumulation=8 // rows, steps=8),
            *same,
        )
        for rows in (8, 1)
    )
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        + command(recipe, tmp_path / "two")
        + [str(o) for o in options(recipe, data, rows=4, accumulation=1, steps=8)]
        + [*map(str, same), "--num_processes", "2"],
        env=os.environ
        | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert launched.returncode == 0, launched.stderr
    two = json.loads((tmp_path / "two" / "train_log.json").read_text())
    assert losses(eight) == pytest.approx(losses(one), rel=1e-4)
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert len(losses(one)) == 8


def stub(num_rows, batch, world_size, sampling="random"):
    """A trainer of `world_size` processes, as far as its batches go."""
    lengths = [(i * 7) % 31 for i in range(num_rows)]
    return SimpleNamespace(
        train_dataset=lengths,
        args=SimpleNamespace(
            world_size=world_size,
            train_sampling_strategy=sampling,
            per_device_train_batch_size=batch,
            dataloader_drop_last=False,
        ),
        _get_train_sampler=lambda *_: LengthGroupedSampler(batch, lengths=lengths),
    )


def test_rows_are_grouped_by_length_for_the_batch_of_all_processes():
    two = stub(48, 4, 2, "group_by_length")
    keep_batches_whole(two)
    sampler = two._get_train_sampler()
    assert sampler.batch_size == 8
    assert sorted(sampler) == list(range(48))


def test_rows_that_fill_up_the_last_batch_of_several_processes_are_counted(caplog):
    keep_batches_whole(stub(29, 4, 2))
    assert "29 rows are no multiple of the 8 that 2 processes take at once" in caplog.text
    assert "up with 3 rows of its beginning" in caplog.text
    caplog.clear()
    keep_batches_whole(stub(32, 4, 2))
    keep_batches_whole(stub(29, 4, 1))
    assert not caplog.text
