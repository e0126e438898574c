"""TRL's own command line trains on what the builders write, as it is: two steps of each method."""

import json
import math
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from specact_rl.envs.collect import plan_episodes
from specact_rl.mining.build_rollouts import collect_rollouts, read_rollouts
from specact_rl.mining.build_rows import (
    build_preferences,
    build_reward,
    build_sft,
    build_verifier,
)
from specact_rl.mining.data_sets import DataSource
from specact_rl.models.loading import load_tokenizer
from specact_rl.models.tiny import new_model
from specact_rl.rendering import Renderer
from specact_rl.store import open_stage, write_table
from specact_rl.types import Action
from tests.tiny_models import tiny_config

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "specact_rl" / "models" / "bases" / "1m"
TRL = Path(sysconfig.get_path("scripts")) / "trl"
SETTINGS = (
    "--max_steps 2 --per_device_train_batch_size 2 --logging_steps 1 --report_to none --use_cpu "
    "--bf16 false --gradient_checkpointing false"
).split()


@pytest.fixture(scope="module")
def world(tmp_path_factory, make):
    """A model of a few thousand random weights, and a folder of each builder."""
    root = tmp_path_factory.mktemp("world")
    tokenizer = load_tokenizer(TOKENIZER)
    config = tiny_config(tokenizer, num_hidden_layers=1, initializer_range=0.02)
    new_model(config, seed=0).save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    shares = {"train_proposer": 0.5, "train_verifier": 0.5}
    plans = plan_episodes(["expert", "noisy:0.4"], range(12))
    collect_rollouts(root / "rollouts", plans, fractions=shares)
    lie = Action(type="final_answer", text="Answer: nothing")
    proposals = [
        make.proposal(step, action, label, sample=int(label))
        for rollout in read_rollouts(root / "rollouts")
        for step in rollout.each_step()
        for action, label in ((step.reference, True), (lie, False))
    ]
    with open_stage(root / "proposals", "outcomes", inputs={}, arguments={}) as stage:
        write_table(stage.path / "proposals.parquet", proposals)

    def source(name):
        return DataSource(
            rollouts_dir=root / "rollouts",
            proposals_dirs=[root / "proposals"],
            out_dir=root / name,
            # The template's own catalogue: rows have a column of tools.
            renderer=Renderer(tokenizer=tokenizer, catalogue="template"),
            split="train_verifier",
            eval_fraction=0.2,
        )

    build_sft(source("sft"))
    build_preferences(source("dpo"), strategies=["divergence", "same_prefix"])
    build_preferences(source("dpo_trajectories"), strategies=["outcome"])
    build_reward(source("reward"), strategies=["same_prefix", "hard_negative"])
    build_verifier(source("kto"))
    return root


def train(world, method, data, out):
    """Losses and token counts as TRL logs them."""
    # What the README asks for: TRL leaves out longer rows, and without rows trains on none.
    readme = (world / data / "README.md").read_text()
    longest = re.search(r"longest row has ([\d,]+) tokens", readme)[1].replace(",", "")
    command = [sys.executable, TRL, method, "--model_name_or_path", world / "model"]
    command += ["--dataset_name", world / data, "--output_dir", out, "--max_length", longest]
    ended = subprocess.run(
        [*map(str, command), *SETTINGS], capture_output=True, text=True, cwd=out.parent
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    state = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())
    steps = [entry for entry in state["log_history"] if "loss" in entry]
    return SimpleNamespace(
        losses=[entry["loss"] for entry in steps], num_tokens=steps[-1]["num_tokens"]
    )


@pytest.mark.parametrize(
    ("method", "data", "first_loss"),
    [
        # weights near zero give every token the same chance
        ("sft", "sft", math.log(len(load_tokenizer(TOKENIZER)))),
        # -log sigmoid(0): the model is its own reference yet
        ("dpo", "dpo", math.log(2)),
        pytest.param("dpo", "dpo_trajectories", math.log(2), marks=pytest.mark.slow),
        ("reward", "reward", math.log(2)),
        # 1 - sigmoid(0)
        ("kto", "kto", 0.5),
    ],
    ids=["sft", "dpo", "dpo of trajectories", "reward", "kto"],
)
def test_trl_trains_on_a_built_folder_as_it_is(world, tmp_path, method, data, first_loss):
    trained = train(world, method, data, tmp_path / "out")
    assert len(trained.losses) == 2
    assert trained.losses[0] == pytest.approx(first_loss, abs=0.15)
    assert trained.num_tokens > 2 * 2 * 100  # two steps of two rows with prompts
