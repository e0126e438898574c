"""Names of models: folders, hub ids and revisions mean the same wherever a model is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from specact_rl.cli import main
from specact_rl.cluster import unpack
from specact_rl.errors import ModelError
from specact_rl.eval.ray_crew import _Worker, named_for_all
from specact_rl.models.architectures import config_of, tokenizer_at_hand
from specact_rl.models.language_model import LanguageModel
from specact_rl.models.loading import (
    actor_parts,
    load_causal_lm,
    load_classifier,
    load_tokenizer,
    local_model,
    weights_digest,
)
from specact_rl.models.names import ModelName
from specact_rl.models.vllm_engine import VllmModel
from specact_rl.presets import model_path
from tests import fake_vllm

BASE = model_path("builtin:1m")
COMMITS = {"main": "1" * 40, "old": "2" * 40}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's cache, with a model of two revisions that differ in weights and in a token."""
    root = tmp_path / "cache" / "models--org--model"
    for revision, commit in COMMITS.items():
        snapshot = root / "snapshots" / commit
        shutil.copytree(BASE, snapshot)
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / revision).write_text(commit)
    old = root / "snapshots" / COMMITS["old"]
    weights = load_file(old / "model.safetensors")
    weights["model.norm.weight"] *= 2
    save_file(weights, old / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "tokenizer_config.json"):
        values = json.loads((old / name).read_text())
        values["model_max_length"] = 77
        (old / name).write_text(json.dumps(values))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return root / "snapshots"


@pytest.mark.parametrize(
    ("name", "given", "place", "revision"),
    [
        ("org/model", None, "org/model", None),
        ("org/model@v1", None, "org/model", "v1"),
        ("org/model", "v2", "org/model", "v2"),
        ("org/model@v1", "v2", "org/model", "v1"),
    ],
)
def test_revision_is_behind_the_id_or_given_beside_it(name, given, place, revision):
    found = ModelName.parse(name, given)
    assert (found.place, found.revision, found.is_folder) == (place, revision, False)
    assert found.short == "model"


def test_a_folder_is_meant_before_the_hub(tmp_path, monkeypatch):
    (tmp_path / "org" / "model@v1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = ModelName.parse("org/model@v1", "v2")
    assert (found.place, found.revision, found.is_folder) == ("org/model@v1", None, True)
    monkeypatch.chdir("org/model@v1")
    assert ModelName.parse(".").short == "model@v1"


@pytest.mark.parametrize(("name", "revision"), [("org/model", "main"), ("org/model@old", "old")])
def test_each_loader_takes_the_revision_that_is_named(hub, name, revision):
    folder = hub / COMMITS[revision]
    norm = load_file(folder / "model.safetensors")["model.norm.weight"].float()
    assert local_model(name) == folder
    assert weights_digest(name) == weights_digest(folder)
    assert load_causal_lm(name, "float32").model.norm.weight.equal(norm)
    assert load_classifier(name, "float32").model.norm.weight.equal(norm)
    is_old = revision == "old"
    assert (load_tokenizer(name).model_max_length == 77) == is_old
    assert (tokenizer_at_hand(name).model_max_length == 77) == is_old
    config, source = config_of(name)
    assert source == "cache"
    assert (getattr(config, "model_max_length", None) == 77) == is_old


def test_an_adapter_goes_onto_the_revision_that_its_config_names(hub, tmp_path):
    base = load_causal_lm("org/model@old", "float32")
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", revision="old"))
    adapted.peft_config["default"].base_model_name_or_path = "org/model"
    adapted.save_pretrained(tmp_path / "adapter")
    old = load_file(hub / COMMITS["old"] / "model.safetensors")["model.norm.weight"].float()
    assert load_causal_lm(tmp_path / "adapter", "float32").model.norm.weight.equal(old)
    assert actor_parts(tmp_path / "adapter")[0] == hub / COMMITS["old"]
    digests = {weights_digest(tmp_path / "adapter")}
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"revision": None}))
    digests.add(weights_digest(tmp_path / "adapter"))
    assert len(digests) == 2


def test_a_proposer_from_the_hub_is_called_by_its_id(hub):
    found = LanguageModel.load("org/model@old")
    folder = LanguageModel.load(hub / COMMITS["old"])
    assert found.model_id.rpartition("-")[0] == "model"
    assert found.model_id.rpartition("-")[2] == folder.model_id.rpartition("-")[2]
    assert found.renderer.catalogue == "compact"


def test_the_other_engines_take_a_hub_id_as_well(hub, monkeypatch):
    fake_vllm.install(monkeypatch)
    own, under_vllm = LanguageModel.load("org/model@old"), VllmModel.load("org/model@old")
    assert under_vllm.model_id == own.model_id
    assert under_vllm.weights == hub / COMMITS["old"]
    worker = _Worker({"proposer": named_for_all(Path("org/model@old"))}, torch.get_num_threads())
    assert unpack(worker.identities())["proposer"].model_id == own.model_id


def test_a_proposer_from_the_hub_that_does_not_say_how_is_rendered_by_its_own_template(hub, caplog):
    (hub / COMMITS["old"] / "specact.json").unlink()
    assert LanguageModel.load("org/model@old").renderer.catalogue == "template"
    assert "org/model@old has no specact.json" in caplog.text
    with pytest.raises(ModelError, match=r"specact\.json"):
        LanguageModel.load(hub / COMMITS["old"])


@pytest.mark.parametrize("name", ["org/model@older", "org/modle", "no/such/folder"])
def test_a_name_that_is_no_model_is_refused_as_it_was_written(hub, name):
    for load in (local_model, load_tokenizer, load_causal_lm, LanguageModel.load):
        with pytest.raises(ModelError, match=name):
            load(name)


def test_outcomes_takes_a_hub_id_and_shows_no_path_of_the_machine(
    hub, tmp_path, capsys, monkeypatch
):
    from specact_rl.envs.collect import plan_episodes
    from specact_rl.mining.build_rollouts import collect_rollouts

    collect_rollouts(
        tmp_path / "rollouts", plan_episodes(["expert"], range(3)), fractions={"test": 1.0}, seed=0
    )
    command = ["outcomes", "--rollouts", str(tmp_path / "rollouts"), "--splits", "test"]
    command += ["--max-new-tokens", "2", "--out", str(tmp_path / "out"), "--model"]
    assert main([*command, "org/model@old"]) == 0
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main([*command, "empty"]) == 2
    error = capsys.readouterr().err
    assert "empty must" in error
    assert str(tmp_path) not in error
