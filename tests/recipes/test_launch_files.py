"""Launch files: accelerate takes them as they are, and what needs hardware says so."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
WANTED = {
    "cpu": (DistributedType.NO, 1, 1),
    "single_gpu": (DistributedType.NO, 1, 1),
    "ddp": (DistributedType.MULTI_GPU, 8, 1),
    "fsdp2": (DistributedType.FSDP, 8, 1),
    "deepspeed_zero3": (DistributedType.DEEPSPEED, 8, 1),
    "two_nodes": (DistributedType.MULTI_GPU, 16, 2),
}


def launch_arguments(name):
    """As `accelerate launch --config_file` has them after reading the file."""
    path = str(ROOT / "recipes" / "accelerate" / f"{name}.yaml")
    args = launch_command_parser().parse_args(["--config_file", path, "recipe.py"])
    return _validate_launch_command(args)[0]


def test_launch_files_are_all_known():
    assert {path.stem for path in FILES} == set(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_accelerate_reads_each_launch_file(name):
    config = load_config_from_file(str(ROOT / "recipes" / "accelerate" / f"{name}.yaml"))
    kind, num_processes, num_machines = WANTED[name]
    assert (config.distributed_type, config.num_processes) == (kind, num_processes)
    args = launch_arguments(name)
    assert args.multi_gpu == (kind == DistributedType.MULTI_GPU)
    assert args.use_fsdp == (kind == DistributedType.FSDP)
    assert args.use_deepspeed == (kind == DistributedType.DEEPSPEED)
    assert args.use_cpu == (name == "cpu")
    assert args.num_machines == num_machines
    # Precision is the recipe's.
    assert args.mixed_precision == "no"


def test_sharded_launches_gather_whole_weights_for_a_plain_checkpoint():
    fsdp, deepspeed = launch_arguments("fsdp2"), launch_arguments("deepspeed_zero3")
    assert int(fsdp.fsdp_version) == 2
    assert fsdp.fsdp_state_dict_type == "FULL_STATE_DICT"
    assert int(deepspeed.zero_stage) == 3
    assert str(deepspeed.zero3_save_16bit_model).lower() == "true"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_launch_file_opens_with_its_command_and_its_hardware(path):
    head = " ".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert f"accelerate launch --config_file recipes/accelerate/{path.name}" in head
    assert "GPU" in head or "CPU" in head
    assert ("Not run" in head) == (path.stem not in ("cpu", "single_gpu"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["sft_proposer", "dpo_proposer"])
def test_two_processes_with_weights_in_shards_save_what_one_would(
    recipe, world, command, run_recipe, tmp_path
):
    steps = ["--max_steps", "3", "--optim", "sgd", "--learning_rate", "0.5"]
    shards = {
        key: value
        for key, value in prepare_multi_gpu_env(launch_arguments("fsdp2")).items()
        if key == "ACCELERATE_USE_FSDP" or key.startswith("FSDP_")
    }
    assert shards["FSDP_VERSION"] == "2"
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        + [str(Path(__file__).with_name("fsdp_on_cpu.py"))]
        + command(recipe, tmp_path / "two", *steps, "--num_processes", 2)
        + ["--per_device_train_batch_size", "4"],
        env=os.environ
        | shards
        | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert launched.returncode == 0, launched.stderr
    assert "2 processes, DistributedType.FSDP" in launched.stderr
    one = run_recipe(recipe, tmp_path / "one", *steps, "--per_device_train_batch_size", "8")
    two = json.loads((tmp_path / "two" / "train_log.json").read_text())
    losses = [[e["loss"] for e in log["log"] if "loss" in e] for log in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    weights, base = (load_file(f / "model.safetensors") for f in (tmp_path / "one", world.base))
    sharded = load_file(tmp_path / "two" / "model.safetensors")
    # Shards do not share storage, so the tied output layer is written out beside the embedding.
    tied = sharded.pop("lm_head.weight")
    assert torch.equal(tied, sharded["model.embed_tokens.weight"])
    assert sharded.keys() == weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(sharded[name], tensor, rtol=1e-4, atol=1e-5)
    assert max(float((weights[name] - base[name]).abs().max()) for name in base) > 1e-3


def test_sharding_that_does_not_happen_is_refused(refused, monkeypatch):
    # As on a CPU, where accelerate trains whole copies without a word.
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "was told to shard with FSDP, but accelerate trains as NO" in refused("train_verifier")
