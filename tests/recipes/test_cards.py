"""The card of what a recipe leaves, and where its numbers go while it trains."""

import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from specact_rl.models import recipe_runs

KINDS = {
    "sft_proposer": "text-generation",
    "dpo_proposer": "text-generation",
    "train_reward_model": "text-classification",
    "train_verifier": "text-classification",
    "kto_proposer": "text-generation",
    "reward_weighted_sft": "text-generation",
}
MEASURES = {
    "sft_proposer": ["mean_token_accuracy"],
    "dpo_proposer": ["rewards/margins", "rewards/accuracies", "logps/chosen"],
    "train_reward_model": ["margin", "accuracy"],
    "train_verifier": [],
    "kto_proposer": ["rewards/chosen", "kl"],
    "reward_weighted_sft": ["mean_token_accuracy"],
}


@pytest.mark.parametrize("recipe", KINDS)
def test_a_checkpoint_has_a_card_that_the_hub_can_read(recipe, run_recipe, tmp_path):
    out = tmp_path / "out"
    log = run_recipe(recipe, out, "--learning_rate", "0.0123")
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == KINDS[recipe]
    assert recipe in card.data.tags
    assert card.data.base_model is None  # a folder, which the Hub does not know
    origin = log["origin"]
    for fact in (origin["base_model_id"], origin["rows_sha256"], log["run_hash"], "8 rows"):
        assert fact in card.text
    assert all(f"| {name} | {found} |" in card.text for name, found in log["versions"].items())
    [settings] = re.findall(r"```yaml\n(.*?)```", card.text, re.S)
    assert yaml.safe_load(settings)["training"]["learning_rate"] == 0.0123
    last = [entry["loss"] for entry in log["log"] if "loss" in entry][-1]
    assert f"| loss | {last:.4g} | 2 | none |" in card.text
    for name in MEASURES[recipe]:
        last = [entry for entry in log["log"] if name in entry][-1]
        assert f"| {name} | {last[name]:.4g} | {last['step']} | none |" in card.text
    assert not re.findall(r"\| (?:\w*runtime|learning_rate|epoch|\w+_per_second) \|", card.text)
    assert "no metric with an interval is known" in card.text
    for heading in ("Intended use", "Limits", "Command", "Use"):
        assert f"## {heading}" in card.text


def test_nothing_that_is_uploaded_names_a_folder_of_this_machine(world, run_recipe, tmp_path):
    run_recipe("train_verifier", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    places = [tmp_path, world.base.parent, world.data["train_verifier"].parent, Path.cwd()]
    for file in (tmp_path / "out").rglob("*"):
        content = file.read_bytes()
        assert not [place for place in places if str(place).encode() in content], file
    assert not re.findall(r"(?<![\w.])/[\w.-]+/[\w.-]+", text)
    assert "--model_name_or_path base --dataset_dir train_verifier" in text


def test_a_card_names_a_base_from_the_hub(world, run_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(world.base))
    options = ["--model_name_or_path", "org/model@abc", "--learning_rate", "0.01"]
    run_recipe("train_verifier", tmp_path / "out", *options)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model == "org/model"


def test_a_data_set_has_a_card_that_the_hub_can_read(world):
    card = DatasetCard.load(world.data["train_verifier"] / "README.md")
    [config] = card.data.to_dict()["configs"]
    assert config["data_files"] == [{"split": "train", "path": "train.parquet"}]


class Tracker(TrainerCallback):
    seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append(logs)


@pytest.fixture
def tracker(monkeypatch):
    """One more tracker beside those that transformers knows."""
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "stub", Tracker)
    monkeypatch.setattr(recipe_runs, "get_available_reporting_integrations", lambda: ["stub"])
    Tracker.seen = []
    return Tracker.seen


@pytest.mark.parametrize("recipe", ["dpo_proposer", "train_verifier"])
def test_losses_go_to_the_tracker_that_report_to_names(recipe, tracker, run_recipe, tmp_path):
    log = run_recipe(recipe, tmp_path / "out", "--report_to", "stub")
    reported = [entry["loss"] for entry in tracker if "loss" in entry]
    assert reported == [entry["loss"] for entry in log["log"] if "loss" in entry]
    assert len(reported) == 2


def test_nothing_is_reported_by_default_and_a_tracker_makes_no_other_run(
    tracker, run_recipe, tmp_path
):
    first = run_recipe("train_verifier", tmp_path / "out")
    assert tracker == []
    again = run_recipe("train_verifier", tmp_path / "out", "--report_to", "stub")
    assert again["seconds"] == first["seconds"]


def test_a_tracker_that_is_not_there_is_refused(refused):
    assert "report_to names nowhere" in refused("train_verifier", "--report_to", "nowhere")


def test_a_token_is_refused_and_stands_nowhere(refused, tmp_path):
    error = refused("train_verifier", "--hub_token", "hf_secret")
    assert "HF_TOKEN" in error
    assert "hf_secret" not in error
    assert not (tmp_path / "out").exists()


def test_keys_of_the_environment_are_not_stored(run_recipe, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "very-secret-key")
    run_recipe("train_verifier", tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        assert b"very-secret-key" not in path.read_bytes()
