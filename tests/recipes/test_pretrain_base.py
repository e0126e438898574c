"""pretrain_base.py, run as a user runs it, on a corpus of a few episodes."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import Trainer
from transformers.trainer_callback import DefaultFlowCallback

from specact_rl.models.loading import checkpoint_renderer
from specact_rl.models.pretraining import CorpusDataset
from specact_rl.store import file_hash

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "pretrain_base.py"
CONFIG = RECIPE.parent / "configs" / "smoke" / "pretrain_base_1m.yaml"


@pytest.fixture
def pretrain(tmp_path, monkeypatch):
    def run(*options):
        argv = [RECIPE, "--config", CONFIG, "--output_dir", tmp_path / "base"]
        argv += ["--num_episodes", 8, "--vocab_size", 320, "--per_device_train_batch_size", 2]
        argv += ["--max_steps", 2, "--save_strategy", "no", "--logging_steps", 1, *options]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        runpy.run_path(str(RECIPE), run_name="__main__")
        return tmp_path / "base"

    return run


def test_base_has_a_card_that_the_hub_can_read(pretrain, tmp_path):
    out = pretrain("--learning_rate", "0.0123")
    log = json.loads((out / "pretraining.json").read_text())
    card = ModelCard.load(out / "README.md")
    assert card.data.pipeline_tag == "text-generation"
    assert "pretrain_base" in card.data.tags
    assert card.data.base_model is None
    corpus, fewer = (CorpusDataset(checkpoint_renderer(out), count) for count in (8, 7))
    assert log["corpus_sha256"] == corpus.digest != fewer.digest
    assert log["weights_sha256"] == file_hash(out / "model.safetensors")
    for fact in (corpus.digest, log["weights_sha256"], "random weights of seed 0", "8 scripted"):
        assert fact in card.text
    assert all(f"| {name} | {found} |" in card.text for name, found in log["versions"].items())
    [settings] = re.findall(r"```yaml\n(.*?)```", card.text, re.S)
    settings = yaml.safe_load(settings)
    assert settings["training"]["learning_rate"] == 0.0123
    assert settings["arguments"]["vocab_size"] == 320
    last = [entry["loss"] for entry in log["log"] if "loss" in entry][-1]
    assert f"| loss | {last:.4g} | 2 | none |" in card.text
    assert "recipes/pretrain_base.py --config pretrain_base_1m.yaml --output_dir base" in card.text
    assert str(tmp_path) not in card.text + (out / "pretraining.json").read_text()


@pytest.fixture
def spoil(monkeypatch):
    """Make the loss of the second batch undefined; collects the batches."""
    batches, compute = [], Trainer.compute_loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        batches.append(inputs["input_ids"].tolist())
        loss = compute(self, model, inputs, *args, **kwargs)
        return loss * float("nan") if len(batches) == 2 else loss

    monkeypatch.setattr(Trainer, "compute_loss", compute_loss)
    return batches


def test_a_loss_that_is_no_number_stops_with_the_episodes_of_its_batch(
    pretrain, spoil, tmp_path, monkeypatch, capfd
):
    corpora, make = [], CorpusDataset.__init__
    monkeypatch.setattr(
        CorpusDataset, "__init__", lambda self, *args: corpora.append(self) or make(self, *args)
    )
    with pytest.raises(SystemExit) as end:
        pretrain()
    assert end.value.code == 2
    error = capfd.readouterr().err
    assert "pretrain_base: error: training diverged: the loss of step 2 is nan" in error
    [corpus] = corpora
    expected = {
        i for i in range(8) if any(corpus[i]["input_ids"] == line[: len(corpus[i]["input_ids"])]
                                   for line in spoil[1])
    }  # fmt: skip
    named = re.findall(r"(\d+) \(task ws-1000(\d{4})\)", error)
    assert len(spoil) == len(expected) == 2
    assert {int(number) for number, _ in named} == {int(task) for _, task in named} == expected
    assert not (tmp_path / "base" / "config.json").exists()


def test_weights_that_the_last_step_broke_are_blamed_on_its_episodes(
    pretrain, tmp_path, monkeypatch, capfd
):
    on_step_end = DefaultFlowCallback.on_step_end

    def and_break(self, args, state, control, model, **kwargs):
        if state.global_step == 2:
            with torch.no_grad():
                next(model.parameters())[0, 0] = float("inf")
        return on_step_end(self, args, state, control, model=model, **kwargs)

    monkeypatch.setattr(DefaultFlowCallback, "on_step_end", and_break)
    with pytest.raises(SystemExit):
        pretrain()
    error = capfd.readouterr().err
    assert "after step 2 1 tensors have infinite or undefined weights" in error
    assert len(re.findall(r"\d+ \(task ws-1000\d{4}\)", error)) == 2
    assert not (tmp_path / "base" / "config.json").exists()
