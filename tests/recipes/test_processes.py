"""Several processes: they share the rows out, agree on the weights, and save once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from specact_rl.models.training import token_rows
from specact_rl.store import read_training_rows

ROOT = Path(__file__).resolve().parents[2]
STEP = ["--max_steps", "1", "--optim", "sgd", "--learning_rate", "0.5"]


def test_two_processes_see_different_rows_and_save_what_one_would(
    world, command, run_recipe, tmp_path
):
    argv = command("sft_proposer", tmp_path / "two", *STEP, "--num_processes", 2)
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        + [*argv, "--per_device_train_batch_size", "4"],
        env=os.environ
        | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert launched.returncode == 0, launched.stderr
    log = json.loads((tmp_path / "two" / "train_log.json").read_text())
    data = read_training_rows(world.data["sft_proposer"], "train")
    lengths = [len(row.ids) for [row] in token_rows(data, world.renderer, ["completion"])]
    assert log["num_tokens"] == sum(lengths)

    run_recipe("sft_proposer", tmp_path / "one", *STEP, "--per_device_train_batch_size", "8")
    two, one, base = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "two", tmp_path / "one", world.base)
    )
    moved = 0.0
    for name in base:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)
        moved = max(moved, float((one[name] - base[name]).abs().max()))
    assert moved > 1e-3
    assert launched.stderr.count("wrote ") == 1


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["sft_proposer", "train_verifier"])
def test_recipe_starts_under_accelerate_launch(recipe, command, tmp_path):
    config = ROOT / "recipes" / "accelerate" / "cpu.yaml"
    launched = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        + command(recipe, tmp_path / "out"),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert launched.returncode == 0, launched.stderr
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.slow
def test_misuse_under_accelerate_launch_is_not_success(command, tmp_path):
    launched = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
        + command("sft_proposer", tmp_path / "out", "--num_processes", 2),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert launched.returncode != 0
    assert "promises 2 processes, but there are 1" in launched.stderr
    assert not (tmp_path / "out").exists()
