"""What a run reads back of what it has made, and what it refuses to."""

import shutil

import pytest

from specact_rl.cli import main
from specact_rl.errors import ModelError
from specact_rl.pipeline.artifacts import Artifacts
from specact_rl.pipeline.folders import Folders
from specact_rl.pipeline.run import Run
from specact_rl.presets import find_preset, model_path


@pytest.fixture
def artifacts(tmp_path):
    """Of a run whose cheap model, and nothing else, is there."""
    preset, folders = find_preset("smoke"), Folders(root=tmp_path)
    shutil.copytree(model_path(preset.cheap_base), folders.model("cheap"))
    return Artifacts(preset=preset, seed=0, folders=folders)


def change_template(folder):
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + "Be brief.")


def test_model_with_the_template_of_its_training_is_loaded(artifacts):
    assert artifacts.model("cheap").size.num_params > 0


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
