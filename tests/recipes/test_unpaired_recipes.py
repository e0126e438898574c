"""What KTO and reward-weighted fine-tuning train on; what all recipes do is in test_recipes.py."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from specact_rl.models.loading import load_causal_lm
from specact_rl.models.recipe_runs import RecipeRun
from specact_rl.models.scoring import score_candidates
from specact_rl.models.training import token_rows
from specact_rl.rendering import RolloutTokens
from specact_rl.store import read_training_rows, write_training_rows

ALL_AT_ONCE = ["--max_steps", "1", "--per_device_train_batch_size", "8"]


@pytest.fixture
def rows(world):
    """The rows of both recipes as tokens; two of eight are right."""
    found = read_training_rows(world.data["kto_proposer"], "train")
    return [row for [row] in token_rows(found, world.renderer, ["completion"])]


@pytest.fixture
def surprisals(world, rows):
    """Of whole completions at inference, in nats."""
    prompts = [RolloutTokens.of_prompt(row.prompt).prompts()[0] for row in rows]
    model = load_causal_lm(world.base)
    scores = score_candidates(model, prompts, [[row.completion] for row in rows])
    return -np.array([score[0] for score in scores])


@pytest.fixture
def trainers(monkeypatch):
    """The trainers that were trained."""
    found, train = [], RecipeRun.train

    def training(run, trainer):
        found.append(trainer)
        train(run, trainer)

    monkeypatch.setattr(RecipeRun, "train", training)
    return found


def with_column(world, recipe, folder, **columns):
    """A recipe's data with other columns, values by row."""
    rows = read_training_rows(world.data[recipe], "train")
    changed = [
        row | {name: values[i] for name, values in columns.items()} for i, row in enumerate(rows)
    ]
    write_training_rows(folder, {"train": changed}, "Test rows.")
    return folder


# KTO


def test_first_kto_loss_is_half_the_mean_weight_and_its_logps_are_those_of_inference(
    run_recipe, surprisals, tmp_path
):
    log = run_recipe("kto_proposer", tmp_path / "out", *ALL_AT_ONCE)
    first = log["log"][0]
    # two rows of weight 3, six of weight 1, all of loss 1 - sigmoid(0)
    assert first["loss"] == pytest.approx((2 * 3 + 6) / 8 / 2, abs=1e-6)
    assert log["facts"]["ratio"] == pytest.approx(1.0)
    right = [0, 4]
    wrong = [1, 2, 3, 5, 6, 7]
    assert first["logps/chosen"] == pytest.approx(-surprisals[right].mean(), rel=1e-4)
    assert first["logps/rejected"] == pytest.approx(-surprisals[wrong].mean(), rel=1e-4)


def test_kl_rows_are_a_prompt_and_the_neighbours_completion_up_to_its_stop_token(
    world, run_recipe, trainers, rows, tmp_path
):
    run_recipe("kto_proposer", tmp_path / "out", *ALL_AT_ONCE)
    [trainer] = trainers
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    stop = world.renderer.tokenizer.eos_token_id
    completions = {tuple(row.completion): row for row in rows}
    own = []
    for i in range(8):
        under = batch["KL_completion_mask"][i].bool()
        completion = tuple(batch["KL_input_ids"][i][under].tolist())
        assert completion[-1] == stop
        assert completion in completions
        mask = batch["KL_attention_mask"][i].bool() & ~under
        prompt = batch["KL_input_ids"][i][mask].tolist()
        own.append(tuple(prompt) == tuple(completions[completion].prompt))
    assert not any(own)


def test_kto_truncation_keeps_the_action(run_recipe, rows, tmp_path):
    limit = min(len(row.ids) for row in rows)
    out = tmp_path / "out"
    log = run_recipe("kto_proposer", out, *ALL_AT_ONCE, "--max_length", limit, "--allow_truncation")
    assert log["num_tokens"] == 8 * limit
    assert log["log"][0]["loss"] == pytest.approx(0.75, abs=1e-6)


@pytest.mark.slow
def test_kto_without_a_kl_term_takes_batches_of_one(run_recipe, tmp_path):
    options = ["--loss_type", "apo_zero_unpaired", "--per_device_train_batch_size", "1"]
    assert run_recipe("kto_proposer", tmp_path / "out", *options)["num_steps"] == 2


@pytest.mark.slow
def test_a_row_that_kto_would_compare_with_itself_is_left_out(run_recipe, trainers, tmp_path):
    run_recipe("kto_proposer", tmp_path / "out", "--per_device_train_batch_size", "7")
    assert len(trainers[0].train_dataset) == 7


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--per_device_train_batch_size", "1"], "must be at least 2"),
        (["--train_sampling_strategy", "random"], "must be 'sequential'"),
        (["--desirable_weight", "2"], "set balance: none"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_kto_refuses_with_exit_code_2(options, complaint, refused):
    assert complaint in refused("kto_proposer", *options)


@pytest.mark.parametrize("label", [True, False])
def test_kto_of_one_class_is_refused_by_name(label, world, refused, tmp_path):
    data = with_column(world, "kto_proposer", tmp_path / "data", label=[label] * 8)
    error = refused("kto_proposer", "--dataset_dir", data)
    expected = f"{data / 'train.parquet'}: KTO needs rows of both labels, got 8 of [{label}]"
    assert expected in error


# Reward-weighted fine-tuning


def test_equal_rewards_are_fine_tuning(world, run_recipe, tmp_path, capfd):
    data = with_column(world, "sft_proposer", tmp_path / "data", reward=[0.25] * 8)
    runs = {
        "sft_proposer": [],
        "reward_weighted_sft": ["--dataset_dir", data, "--temperature", "0.1"],
    }
    options = ["--max_steps", "3", "--gradient_accumulation_steps", "2"]
    logs = {
        name: run_recipe(name, tmp_path / name, *options, *more)["log"]
        for name, more in runs.items()
    }
    plain, weighted = ([entry.get("loss") for entry in log] for log in logs.values())
    assert plain == weighted
    assert len(plain) == 4
    plain, weighted = (load_file(tmp_path / name / "model.safetensors") for name in runs)
    assert all(torch.equal(plain[name], weighted[name]) for name in plain)
    assert "all rewards are 0.25" in capfd.readouterr().err


@pytest.mark.parametrize(
    "batches",
    [["8", "--gradient_accumulation_steps", "1"], ["2", "--gradient_accumulation_steps", "4"]],
    ids=["8x1", "2x4"],
)
def test_first_weighted_loss_is_of_whole_completions_by_their_weight_over_all_tokens(
    batches, run_recipe, rows, surprisals, tmp_path
):
    options = ["--max_steps", "1", "--temperature", "0.5", "--per_device_train_batch_size"]
    log = run_recipe("reward_weighted_sft", tmp_path / "out", *options, *batches)
    right = math.exp(1 / 0.5)
    weights = np.array([right, 1, 1, 1, right, 1, 1, 1]) * 8 / (2 * right + 6)
    expected = (weights * surprisals).sum() / sum(len(row.completion) for row in rows)
    assert log["log"][0]["loss"] == pytest.approx(expected, rel=1e-4)
    effective = weights.sum() ** 2 / (weights**2).sum()
    assert log["facts"]["effective_sample_size"] == pytest.approx(effective)
    assert log["facts"]["mode"] == "rwr"


def test_raft_fine_tunes_on_the_kept_rows(run_recipe, rows, surprisals, tmp_path):
    options = ["--max_steps", "1", "--mode", "raft", "--min_reward", "0.5"]
    log = run_recipe("reward_weighted_sft", tmp_path / "out", *options)
    kept = [0, 4]
    expected = surprisals[kept].sum() / sum(len(rows[i].completion) for i in kept)
    assert log["log"][0]["loss"] == pytest.approx(expected, rel=1e-4)
    assert (log["facts"]["num_rows"], log["facts"]["num_rows_used"]) == (8, 2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--mode", "raft", "--min_reward", "2"], "lower min_reward"),
        (["--temperature", "0"], "temperature must be above 0"),
        (["--loss_type", "dft"], "loss_type must be 'nll'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_reward_weighted_refuses_with_exit_code_2(options, complaint, refused):
    assert complaint in refused("reward_weighted_sft", *options)


def test_rows_without_rewards_are_refused(world, refused):
    error = refused("reward_weighted_sft", "--dataset_dir", world.data["sft_proposer"])
    assert "reward must be a finite number, got None" in error


@pytest.mark.parametrize(
    ("recipe", "key"), [("kto_proposer", "balance"), ("reward_weighted_sft", "mode")]
)
def test_yaml_values_are_checked(recipe, key, refused, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(f"{key}: best")
    assert f"{key} must be one of" in refused(recipe, "--config", config)
