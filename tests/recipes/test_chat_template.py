"""From a base with the hub's template to what needs another one, by the configs of qwen3."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from transformers import Qwen3Config

from specact_rl.envs.episodes import expert_policy, run_episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.models.chat_templates import QWEN3_TRAINING, chat_template
from specact_rl.models.loading import checkpoint_renderer, load_tokenizer, save_checkpoint_info
from specact_rl.models.tiny import new_model
from specact_rl.presets import model_path
from specact_rl.rendering import Renderer
from specact_rl.store import write_training_rows

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
CUT = ["--max_steps", "1", "--gradient_accumulation_steps", "1", "--use_cpu", "true"]
CUT += ["--lora_r", "2", "--per_device_train_batch_size", "2"]


def run_config(config, out, *options, recipe=None):
    """A recipe with a config of qwen3, as a user's command line would."""
    script = RECIPES / f"{recipe or config}.py"
    path = RECIPES / "configs" / "qwen3" / f"{config}.yaml"
    with pytest.MonkeyPatch.context() as patch:
        argv = [str(script), "--config", path, "--output_dir", out, *CUT, *options]
        patch.setattr(sys, "argv", list(map(str, argv)))
        runpy.run_path(str(script), run_name="__main__")
    return json.loads((out / "train_log.json").read_text())


@pytest.fixture
def refused(tmp_path, capfd):
    """The error line of a run that must end with exit code 2."""

    def run(*arguments, **named):
        with pytest.raises(SystemExit) as end:
            run_config(arguments[0], tmp_path / "refused", *arguments[1:], **named)
        assert end.value.code == 2
        return capfd.readouterr().err

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("templates")


@pytest.fixture(scope="module")
def base(folder):
    """A Qwen3 of one layer whose tokenizer has the template that the hub's have."""
    tokenizer = load_tokenizer(model_path("builtin:1m"), "qwen3")
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=8192,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    new_model(config, seed=0).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return folder / "base"


@pytest.fixture(scope="module")
def episodes():
    envs = [Workspace.from_task_id(f"ws-{seed:06d}") for seed in range(3)]
    return [run_episode(env, expert_policy, "expert") for env in envs]


def sft_rows(base, template, episodes, folder):
    renderer = Renderer(tokenizer=load_tokenizer(base, template), catalogue="template")
    rows = [
        renderer.training_row(
            step, step.executed, task_id=step.task_id, step_id=step.step_id, split="train_proposer"
        )
        for episode in episodes
        for step in episode.each_step()
    ]
    write_training_rows(folder, {"train": rows}, "Test rows.")
    return folder


def pair_rows(base, template, episodes, folder):
    """Whole episodes: the expert's, and the same without its first step and result."""
    renderer = Renderer(tokenizer=load_tokenizer(base, template), catalogue="template")
    rows = []
    for episode in episodes:
        start = episode.steps[0].message_index
        chosen = episode.messages[start:]
        chosen = chosen[: max(i for i, m in enumerate(chosen) if m["role"] == "assistant") + 1]
        sides = {"chosen": chosen, "rejected": chosen[-1:]}
        rows.append(renderer.prompt_fields(episode.step(0)) | sides)
    write_training_rows(folder, {"train": rows}, "Test rows.")
    return folder


@pytest.fixture(scope="module")
def rows(base, episodes, folder):
    return sft_rows(base, QWEN3_TRAINING, episodes, folder / "rows")


@pytest.fixture(scope="module")
def trained(base, rows, folder):
    """What sft_proposer.py leaves of the base."""
    out = folder / "trained"
    run_config("sft_proposer", out, "--model_name_or_path", base, "--dataset_dir", rows)
    return out


def test_first_training_saves_its_template_with_the_checkpoint(trained, episodes):
    assert (trained / "chat_template.jinja").read_text() == chat_template(QWEN3_TRAINING)
    renderer = checkpoint_renderer(trained)
    for episode in episodes:
        assert None not in renderer.rollout_ids(episode).prompt_lengths
    assert f"chat_template: {QWEN3_TRAINING}" in (trained / "README.md").read_text()


GRPO = ["--num_generations", "2", "--max_completion_length", "900"]
GRPO += ["--generation_kwargs", '{"max_new_tokens": 64}']


def test_grpo_plays_with_the_trained_model(trained, rows, tmp_path):
    options = ["--model_name_or_path", trained, "--dataset_dir", rows]
    log = run_config("grpo_proposer", tmp_path / "grpo", *options, *GRPO)
    assert log["num_steps"] == 1
    assert "rewards/task_success/mean" in log["log"][0]
    again = checkpoint_renderer(tmp_path / "grpo")
    assert again.template_hash == checkpoint_renderer(trained).template_hash


def test_dpo_of_episodes_starts_from_the_trained_model(trained, base, episodes, tmp_path):
    pairs = pair_rows(base, QWEN3_TRAINING, episodes, tmp_path / "pairs")
    options = ["--model_name_or_path", trained, "--dataset_dir", pairs]
    named = {"recipe": "dpo_proposer"}
    log = run_config("dpo_proposer_trajectory", tmp_path / "dpo", *options, **named)
    assert log["num_steps"] == 1
    again = checkpoint_renderer(tmp_path / "dpo")
    assert again.template_hash == checkpoint_renderer(trained).template_hash


def test_grpo_refuses_the_base_itself_and_says_what_to_set(base, episodes, refused, tmp_path):
    rows = sft_rows(base, "own", episodes, tmp_path / "rows")
    error = refused("grpo_proposer", "--model_name_or_path", base, "--dataset_dir", rows, *GRPO)
    assert "must keep earlier turns as they were sampled" in error
    assert f"chat_template: {QWEN3_TRAINING}" in error


def test_dpo_of_episodes_refuses_the_base_itself(base, episodes, refused, tmp_path):
    pairs = pair_rows(base, "own", episodes, tmp_path / "pairs")
    options = ["--model_name_or_path", base, "--dataset_dir", pairs]
    error = refused("dpo_proposer_trajectory", *options, recipe="dpo_proposer")
    assert "the chat template changes earlier turns" in error
    assert f"chat_template: {QWEN3_TRAINING}" in error


def test_rows_that_another_template_made_are_refused(base, episodes, refused, tmp_path):
    rows = sft_rows(base, "qwen3_training", episodes, tmp_path / "rows")  # with every thought
    error = refused("sft_proposer", "--model_name_or_path", base, "--dataset_dir", rows)
    assert "The row was built with another template" in error


def test_checkpoint_of_another_template_does_not_change_it(base, rows, refused, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in base.iterdir():
        (other / path.name).symlink_to(path)
    renderer = Renderer(tokenizer=load_tokenizer(other), catalogue="template")
    save_checkpoint_info(other, renderer)
    error = refused("sft_proposer", "--model_name_or_path", other, "--dataset_dir", rows)
    assert f"{other}/specact.json" in error
    assert "these differ: chat_template (trained with " in error
