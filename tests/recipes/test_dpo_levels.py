"""dpo_proposer on pairs of whole episodes, and with means per token in place of sums."""

import math

import numpy as np
import pytest
import torch

from specact_rl.models.loading import load_causal_lm
from specact_rl.models.trajectories import side_rows
from specact_rl.store import read_training_rows, write_training_rows

ALL_AT_ONCE = ["--max_steps", "1", "--per_device_train_batch_size", "8"]


@pytest.fixture
def episodes(world, tmp_path):
    """Folder of pairs of episodes, of two and three actions."""
    rows = read_training_rows(world.data["dpo_proposer"], "train")
    for i, row in enumerate(rows):
        answers = [{"role": "tool", "content": f"file f{n} has {n} lines"} for n in (i, i + 1)]
        good, bad = row["chosen"], row["rejected"]
        row["chosen"] = [*good, answers[0], *good]
        row["rejected"] = [*bad, answers[0], *good, answers[1], *bad]
    write_training_rows(tmp_path / "episodes", {"train": rows}, "Test rows.")
    return tmp_path / "episodes"


def surprisals(model, row):
    """Of the tokens under the loss, each after all that precedes it in the episode."""
    labels = torch.tensor(row.labels)[1:]
    with torch.inference_mode():
        logits = model(torch.tensor([row.ids])).logits[0, :-1]
    own = labels != -100
    return -logits.log_softmax(-1)[own].gather(1, labels[own, None])[:, 0].double().numpy()


def test_episodes_count_the_policys_own_tokens_and_no_tool_result(
    world, episodes, run_recipe, tmp_path
):
    options = ["--dataset_dir", episodes, "--level", "trajectory"]
    first = run_recipe("dpo_proposer", tmp_path / "out", *ALL_AT_ONCE, *options)["log"][0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    pairs = side_rows(read_training_rows(episodes, "train"), world.renderer, "trajectory")
    model = load_causal_lm(world.base)
    for side, name in enumerate(["logps/chosen", "logps/rejected"]):
        expected = -np.mean([surprisals(model, pair[side]).sum() for pair in pairs])
        assert first[name] == pytest.approx(expected, rel=1e-4)


def test_a_cut_episode_loses_the_beginning_of_its_prompt_and_no_action(
    world, episodes, run_recipe, tmp_path
):
    pairs = side_rows(read_training_rows(episodes, "train"), world.renderer, "trajectory")
    lengths = [len(row.ids) for pair in pairs for row in pair]
    limit = max(lengths) - 5
    options = ["--dataset_dir", episodes, "--level", "trajectory"]
    options += ["--max_length", limit, "--allow_truncation"]
    log = run_recipe("dpo_proposer", tmp_path / "out", *ALL_AT_ONCE, *options)
    assert log["num_tokens"] == sum(min(length, limit) for length in lengths)
    model = load_causal_lm(world.base)
    # What is left of a long prompt is read from its middle on.
    expected = -np.mean([surprisals(model, cut(pair[1], limit)).sum() for pair in pairs])
    assert log["log"][0]["logps/rejected"] == pytest.approx(expected, rel=1e-4)


def cut(row, limit):
    return type(row)(
        prompt=row.prompt[max(0, len(row.ids) - limit) :],
        completion=row.completion,
        under_loss=row.under_loss,
    )


def test_length_normalised_loss_is_of_means_per_token(world, episodes, run_recipe, tmp_path):
    """After one step the loss is no longer ln 2, and a mean tells itself from a sum."""
    options = ["--dataset_dir", episodes, "--level", "trajectory", "--loss_type", "sigmoid_norm"]
    options += ["--beta", "5", "--max_steps", "2", "--learning_rate", "0.01"]
    options += ["--per_device_train_batch_size", "8", "--lr_scheduler_type", "constant"]
    options += ["--save_strategy", "steps", "--save_steps", "1"]
    log = run_recipe("dpo_proposer", tmp_path / "two", *options)["log"]
    one = [*options, "--max_steps", "1"]
    run_recipe("dpo_proposer", tmp_path / "one", *one)
    pairs = side_rows(read_training_rows(episodes, "train"), world.renderer, "trajectory")
    before, after = load_causal_lm(world.base), load_causal_lm(tmp_path / "one")
    losses = []
    for chosen, rejected in pairs:
        gained = [
            (surprisals(before, row) - surprisals(after, row)).mean() for row in (chosen, rejected)
        ]
        losses.append(np.log1p(np.exp(-5 * (gained[0] - gained[1]))))
    assert log[1]["loss"] == pytest.approx(np.mean(losses), rel=1e-3)


def test_an_unknown_level_in_a_config_is_refused(refused, tmp_path):
    (tmp_path / "mine.yaml").write_text("level: token\n")
    error = refused("dpo_proposer", "--config", tmp_path / "mine.yaml")
    assert "level must be one of ('step', 'trajectory'), got 'token'" in error


def test_episodes_without_their_level_are_refused_with_what_to_set(episodes, refused):
    error = refused("dpo_proposer", "--dataset_dir", episodes)
    assert "row 0 (" in error or "row 0:" in error
    assert "level: trajectory" in error
