"""What the recipe is asked for, what is left of its folder, and what is not made again."""

from pathlib import Path

import pytest
import yaml

from specact_rl.errors import ConfigError, SpecActError
from specact_rl.pipeline import pretraining
from specact_rl.pipeline.folders import Folders
from specact_rl.pipeline.pretraining import base_sizes, pretrain_base, with_own_bases
from specact_rl.presets import PRESETS, find_preset, model_path
from specact_rl.programs import programs_root
from specact_rl.store import read_manifest

TINY = find_preset("tiny")


@pytest.fixture
def folders(tmp_path):
    return Folders(root=tmp_path)


@pytest.fixture
def launched(monkeypatch):
    """Arguments of each launch; the recipe leaves weights and a checkpoint."""
    calls = []

    def launch(trainings, progress=None):
        [training] = trainings
        arguments = dict(training.arguments)
        calls.append((training.recipe, training.config.name, arguments, training.log.name))
        out = Path(arguments["output_dir"])
        (out / "checkpoint-2").mkdir(exist_ok=True)
        (out / "checkpoint-2" / "optimizer.pt").write_text("state")
        (out / "model.safetensors").write_text(f"weights {len(calls)}")

    monkeypatch.setattr(pretraining, "launch", launch)
    return calls


def test_base_with_the_tokenizer_comes_first():
    assert base_sizes(TINY) == ["1m", "4m"]
    assert base_sizes(find_preset("smoke")) == ["1m"]


def test_preset_of_pretrained_bases_is_refused():
    with pytest.raises(ConfigError, match="tiny bases .* 'qwen3' starts from Qwen/Qwen3-1.7B, "):
        base_sizes(find_preset("qwen3"))


@pytest.mark.parametrize("name", [n for n, p in PRESETS.items() if p.cheap_base[:7] == "builtin"])
def test_preset_of_tiny_bases_has_a_config_for_each(name):
    preset = find_preset(name)
    folder = programs_root() / "recipes" / "configs" / preset.configs
    for size in base_sizes(preset):
        config = yaml.safe_load((folder / f"pretrain_base_{size}.yaml").read_text())
        assert config["size"] == size


def test_run_starts_from_its_own_bases(folders):
    preset = with_own_bases(TINY, folders)
    paths = [preset.cheap_base, preset.strong_base, preset.verifier_base]
    assert [Path(model_path(path)) for path in paths] == [
        folders.base(size) for size in ("1m", "4m", "1m")
    ]
    assert preset.name == "tiny"


def test_larger_base_takes_the_tokenizer_of_the_first(folders, launched):
    for size in base_sizes(TINY):
        pretrain_base(size, TINY, folders, seed=3)
    (_, first_config, first, _), (_, second_config, second, log) = launched
    assert [first_config, second_config] == ["pretrain_base_1m.yaml", "pretrain_base_4m.yaml"]
    assert "tokenizer_dir" not in first
    assert second["tokenizer_dir"] == str(folders.base("1m"))
    assert first["seed"] == second["seed"] == "3"
    assert log == "base_4m.log"


def test_finished_base_holds_no_checkpoints_and_is_not_made_again(folders, launched):
    for _ in range(2):
        pretrain_base("1m", TINY, folders, seed=0)
    assert len(launched) == 1
    assert set(read_manifest(folders.base("1m")).files) == {"model.safetensors"}
    assert (folders.base("1m") / "model.safetensors").read_text() == "weights 1"


@pytest.mark.parametrize("again", ["another seed", "another tokenizer"])
def test_base_made_from_other_things_is_made_again(again, folders, launched):
    pretrain_base("1m", TINY, folders, seed=0)
    pretrain_base("4m", TINY, folders, seed=0)
    if again == "another tokenizer":
        pretrain_base("1m", TINY, folders, seed=1)
    pretrain_base("4m", TINY, folders, seed=1 if again == "another seed" else 0)
    assert launched[-1][1] == "pretrain_base_4m.yaml"
    assert len(launched) == (3 if again == "another seed" else 4)


def test_stopped_recipe_finds_its_checkpoints_again(folders, launched, monkeypatch):
    whole = pretraining.launch

    def stopped(trainings, progress=None):
        whole(trainings)
        raise SpecActError("killed")

    monkeypatch.setattr(pretraining, "launch", stopped)
    with pytest.raises(SpecActError, match="killed"):
        pretrain_base("1m", TINY, folders, seed=0)
    assert not folders.base("1m").exists()

    def resumed(trainings, progress=None):
        out = Path(trainings[0].arguments["output_dir"])
        assert (out / "checkpoint-2" / "optimizer.pt").is_file()
        whole(trainings)

    monkeypatch.setattr(pretraining, "launch", resumed)
    pretrain_base("1m", TINY, folders, seed=0)
    assert folders.base("1m").is_dir()
