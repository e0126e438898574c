"""grpo_proposer.py, run as a user runs it: what it logs and leaves, how it goes on."""

import json
import re
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers.trainer_callback import DefaultFlowCallback
from trl import GRPOTrainer

from specact_rl.actions.serialise import action_text
from specact_rl.envs.episodes import expert_policy, run_episode
from specact_rl.envs.trl import REWARDS
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.models import fitting
from specact_rl.models.loading import check_checkpoint_info, load_tokenizer, save_checkpoint_info
from specact_rl.models.tiny import new_model, train_tokenizer
from specact_rl.rendering import Renderer, compact_catalogue
from specact_rl.store import read_training_rows, write_training_rows
from tests.tiny_models import tiny_config

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
TASKS = [f"ws-{seed:06d}" for seed in range(3)]


@dataclass(frozen=True)
class World:
    base: Path
    data: Path
    renderer: Renderer


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model that has begun to learn three episodes by heart, and their rows."""
    folder = tmp_path_factory.mktemp("grpo")
    rollouts = [run_episode(Workspace.from_task_id(t), expert_policy, "expert") for t in TASKS]
    texts = [compact_catalogue(rollout.tools) for rollout in rollouts]
    texts += [str(message["content"]) for rollout in rollouts for message in rollout.messages]
    texts += [action_text(step.executed) for rollout in rollouts for step in rollout.steps]
    tokenizer = train_tokenizer(texts, 400)
    config = tiny_config(tokenizer, hidden_size=32, intermediate_size=48, initializer_range=0.02)
    model = new_model(config, seed=0)
    renderer = Renderer(tokenizer=tokenizer, catalogue="compact")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for i in range(150):
        row = torch.tensor([renderer.conversation_ids(rollouts[i % len(rollouts)])])
        model(input_ids=row, labels=row).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    renderer = Renderer(tokenizer=load_tokenizer(folder / "base"), catalogue="compact")
    save_checkpoint_info(folder / "base", renderer)
    rows = [
        renderer.training_row(
            step, step.executed, task_id=step.task_id, step_id=step.step_id, split="train_proposer"
        )
        for rollout in rollouts
        for step in rollout.each_step()
    ]
    write_training_rows(folder / "data", {"train": rows}, "Test rows.")
    return World(base=folder / "base", data=folder / "data", renderer=renderer)


@pytest.fixture
def run_recipe(world, monkeypatch):
    """Run the smoke config in this process, as a user's command line would."""

    def run(out, *extra):
        argv = [
            str(RECIPES / "grpo_proposer.py"),
            *("--config", str(RECIPES / "configs" / "smoke" / "grpo_proposer.yaml")),
            *("--model_name_or_path", str(world.base)),
            *("--dataset_dir", str(world.data)),
            *("--output_dir", str(out)),
            *map(str, extra),
        ]
        monkeypatch.setattr(sys, "argv", argv)
        runpy.run_path(argv[0], run_name="__main__")
        return json.loads((out / "train_log.json").read_text())

    return run


@pytest.fixture
def refused(run_recipe, tmp_path, capfd):
    """The error line of a run that must end with exit code 2."""

    def run(*extra):
        with pytest.raises(SystemExit) as end:
            run_recipe(tmp_path / "refused", *extra)
        assert end.value.code == 2
        return capfd.readouterr().err

    return run


def visible(folder):
    return {path.name for path in folder.iterdir()}


def test_two_steps_leave_a_plain_checkpoint_and_a_log_of_every_reward(world, run_recipe, tmp_path):
    weights = {name: i + 1 for i, name in enumerate(REWARDS)}
    options = [part for name, weight in weights.items() for part in (f"--{name}", weight)]
    out = tmp_path / "models" / "out"
    log = run_recipe(out, *options, "--learning_rate", "0.01", "--num_generations", "4")
    assert visible(out) == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "specact.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "train_log.json",
    }
    check_checkpoint_info(out, world.renderer)
    assert "response_template" not in json.loads((out / "tokenizer_config.json").read_text())
    assert log["num_steps"] == 2
    steps = log["log"][:2]
    for step in steps:
        total = sum(weight * step[f"rewards/{name}/mean"] for name, weight in weights.items())
        assert step["reward"] == pytest.approx(total, abs=1e-4)
        assert 0 <= step["frac_reward_zero_std"] <= 1
    card = (out / "README.md").read_text()
    for name in ("reward", *(f"rewards/{name}/mean" for name in REWARDS)):
        assert f"| {name} | {steps[-1][name]:.4g} | 2 | none |" in card
    assert max(step["reward_std"] for step in steps) > 0
    assert max(step["tools/call_frequency"] for step in steps) > 0
    before, after = (load_file(f / "model.safetensors") for f in (world.base, out))
    assert any(not torch.equal(before[name], after[name]) for name in before)


class Killed(Exception):
    pass


def test_a_run_killed_in_its_second_round_ends_with_the_same_weights(
    run_recipe, tmp_path, monkeypatch, capfd
):
    # Two tasks a step of three: the second step begins the second round.
    options = ["--max_steps", "3", "--save_strategy", "steps", "--save_steps", "2"]
    options += ["--learning_rate", "0.01", "--max_completion_length", "256"]
    run_recipe(tmp_path / "straight", *options)

    def kill(self, args, state, control, **kwargs):
        assert state.global_step == 2
        raise Killed

    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(DefaultFlowCallback, "on_save", kill, raising=False)
        with pytest.raises(Killed):
            run_recipe(out, *options)
    assert not (out / "config.json").exists()
    capfd.readouterr()
    log = run_recipe(out, *options)
    assert re.search("going on from .*checkpoint-2\n", capfd.readouterr().err)
    assert log["num_steps"] == 3
    straight, resumed = (load_file(f / "model.safetensors") for f in (tmp_path / "straight", out))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert visible(out) == visible(tmp_path / "straight")


def test_a_finished_run_is_not_repeated_and_another_does_not_overwrite_it(
    run_recipe, tmp_path, capfd
):
    first = run_recipe(tmp_path / "out", "--max_steps", "1")
    assert run_recipe(tmp_path / "out", "--max_steps", "1")["seconds"] == first["seconds"]
    with pytest.raises(SystemExit):
        run_recipe(tmp_path / "out", "--max_steps", "1", "--task_success", "2")
    assert "not overwritten" in capfd.readouterr().err


def test_a_loss_that_is_no_number_stops_with_the_tasks_of_its_batch(world, refused, monkeypatch):
    played = []
    compute, prepare = GRPOTrainer.compute_loss, GRPOTrainer._prepare_inputs

    def note(self, batch):
        played.append([row["task_id"] for row in batch])
        return prepare(self, batch)

    monkeypatch.setattr(GRPOTrainer, "_prepare_inputs", note)
    monkeypatch.setattr(
        GRPOTrainer,
        "compute_loss",
        lambda self, *args, **kwargs: compute(self, *args, **kwargs) * float("nan"),
    )
    options = ["--max_steps", "1", "--per_device_train_batch_size", "2", "--num_generations", "2"]
    error = refused(*options, "--gradient_accumulation_steps", "1")
    [tasks] = played
    rows = read_training_rows(world.data, "train")
    [expected] = [
        f"{i} (step {row['step_id']})"
        for i, row in enumerate(rows)
        if row["task_id"] in tasks and row["step_id"].endswith("/0")
    ]
    assert "the loss of step 1 is nan while all weights are finite" in error
    assert f"train.parquet: rows {expected}. Look at these" in error


@pytest.mark.slow
def test_adapter_is_merged_into_a_plain_checkpoint(world, run_recipe, tmp_path):
    lora = ["--use_peft", "--lora_r", "2", "--lora_target_modules", "all-linear"]
    lora += ["--lora_dropout", "0", "--beta", "0.1", "--learning_rate", "0.05"]
    log = run_recipe(tmp_path / "out", *lora, "--num_generations", "4")
    assert "adapter_config.json" not in visible(tmp_path / "out")
    assert log["log"][1]["kl"] >= 0
    name = "model.layers.0.mlp.down_proj.weight"
    before, after = (
        load_file(f / "model.safetensors")[name] for f in (world.base, tmp_path / "out")
    )
    assert 0 < torch.linalg.matrix_rank(after - before, rtol=1e-3) <= 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--max_completion_length", "20"], "max_completion_length must leave room"),
        (["--reward_weights", "1", "1", "1", "1", "1"], "reward_weights must not be set"),
        (["--step_cost", "-1"], "must be numbers from 0 on"),
        (["--num_generations", "3"], "divisible by num_generations"),
        (["--num_generations", "1"], "at least 2 generations"),
        (["--catalogue", "template"], "these differ: catalogue"),
        (["--num_processes", "2"], "num_processes promises 2 processes"),
        (["--tool_macth", "1"], "--tool_macth"),
        (["--split", "test"], "there is no .*test.parquet"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_refused_with_exit_code_2(options, complaint, refused):
    error = refused(*options)
    assert re.search(f"grpo_proposer: error: .*{complaint}", error), error


def test_training_that_cannot_fit_the_device_is_refused(refused, monkeypatch):
    monkeypatch.setattr(fitting, "device_memory", lambda training: 1000)
    assert "the device has 0.00 MB free" in refused()
