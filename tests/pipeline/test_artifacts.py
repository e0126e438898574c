"""What a run reads back of what it has made, and what it refuses to."""

import shutil
from dataclasses import asdict

import pytest

from specact_rl.cli import main
from specact_rl.errors import ConfigError, ModelError
from specact_rl.models.chat_templates import QWEN3_TRAINING, chat_template
from specact_rl.models.loading import load_tokenizer, save_checkpoint_info
from specact_rl.pipeline.artifacts import Artifacts, finished_run
from specact_rl.pipeline.bases import adapted_preset
from specact_rl.pipeline.folders import RESULTS_FILE, Folders
from specact_rl.pipeline.pretraining import with_own_bases
from specact_rl.pipeline.provenance import plain_json
from specact_rl.pipeline.run import Run
from specact_rl.presets import find_preset, model_path
from specact_rl.store import write_json


@pytest.fixture
def artifacts(tmp_path):
    """Of a run whose cheap model, and nothing else, is there."""
    preset, folders = find_preset("smoke"), Folders(root=tmp_path)
    shutil.copytree(model_path(preset.cheap_base), folders.model("cheap"))
    return Artifacts(preset=preset, seed=0, folders=folders)


def finished(folder, given, **changes):
    """A folder that says it is of a finished run."""
    folders = Folders(root=folder)
    identity = {"preset": asdict(given), "seed": 7, "from_scratch": False, "code_version": "0"}
    write_json(folders.identity, plain_json(identity | changes))
    write_json(folders.evaluation / RESULTS_FILE, {})
    return folder


def test_finished_run_is_read_with_the_bases_and_tasks_that_it_was_given(tmp_path):
    preset = adapted_preset(find_preset("smoke"), cheap_base="builtin:4m", num_tasks=20)
    found = finished_run(finished(tmp_path, preset))
    assert found.preset == preset
    assert found.preset != find_preset("smoke")
    assert found.seed == 7


def test_finished_run_from_scratch_is_read_with_its_own_bases(tmp_path):
    preset = find_preset("smoke")
    found = finished_run(finished(tmp_path, preset, from_scratch=True))
    assert found.preset == with_own_bases(preset, Folders(root=tmp_path))


def test_folder_without_a_finished_run_and_one_of_another_version_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="folder of a finished `specact run`"):
        finished_run(tmp_path)
    preset = asdict(find_preset("smoke"))
    del preset["num_samples"]
    finished(tmp_path, find_preset("smoke"), preset=preset, code_version="0.0.9")
    with pytest.raises(ConfigError, match=r"run\.json.*num_samples.*version 0\.0\.9"):
        finished_run(tmp_path)


def change_template(folder):
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + "Be brief.")


def test_model_with_the_template_of_its_training_is_loaded(artifacts):
    assert artifacts.model("cheap").size.num_params > 0


@pytest.fixture
def hub_base(tmp_path):
    """A base that has the hub's template, and has not been trained here."""
    folder = tmp_path / "hub"
    load_tokenizer(model_path("builtin:1m"), "qwen3").save_pretrained(folder)
    return folder


def test_base_is_rendered_with_the_presets_template_and_a_trained_model_with_its_own(hub_base):
    artifacts = Artifacts(preset=find_preset("qwen3"), seed=0, folders=Folders(root=hub_base))
    as_base, as_trained = artifacts.base_renderer(hub_base), artifacts.renderer(hub_base)
    assert as_base.tokenizer.chat_template == chat_template(QWEN3_TRAINING)
    assert as_trained.tokenizer.chat_template == chat_template("qwen3")


def test_base_that_was_trained_with_another_template_is_refused(hub_base):
    artifacts = Artifacts(preset=find_preset("qwen3"), seed=0, folders=Folders(root=hub_base))
    save_checkpoint_info(hub_base, artifacts.renderer(hub_base))
    with pytest.raises(ModelError, match=r"hub/specact\.json: .* differ: chat_template \(trained"):
        artifacts.base_renderer(hub_base)


def test_model_that_was_let_go_is_loaded_again(artifacts):
    first = artifacts.model("cheap")
    assert artifacts.model("cheap") is first
    artifacts.release()
    again = artifacts.model("cheap")
    assert again is not first
    assert again.model_id == first.model_id


def test_model_with_another_template_than_in_training_is_refused(artifacts):
    folder = artifacts.folders.model("cheap")
    change_template(folder)
    with pytest.raises(ModelError, match=r"cheap/specact\.json: .* these differ: "):
        artifacts.model("cheap")


def test_run_with_a_model_of_another_template_ends_in_one_error(
    artifacts, tmp_path, monkeypatch, capsys
):
    def load_cheap(run):
        shutil.move(artifacts.folders.model("cheap"), run.folders.model("cheap"))
        change_template(run.folders.model("cheap"))
        run.artifacts.model("cheap")

    monkeypatch.setattr(Run, "execute", load_cheap)
    assert main(["run", "--preset", "smoke", "--out", str(tmp_path / "run")]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert "cheap/specact.json: prompts must be rendered as in training" in errors[0]


@pytest.mark.parametrize("role", ["verifier", "reward_model"])
def test_classifier_with_another_template_than_in_training_is_refused(artifacts, role):
    key = "classifier" if role == "verifier" else role
    shutil.move(artifacts.folders.model("cheap"), artifacts.folders.model(role))
    change_template(artifacts.folders.model(role))
    with pytest.raises(ModelError, match=rf"{role}/specact\.json: .* these differ: "):
        artifacts.verifier(key)
