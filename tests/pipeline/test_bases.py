"""What a run starts from: bases in the place of the preset's, and fewer tasks."""

import pytest

from specact_rl.cli import main
from specact_rl.errors import ConfigError, ModelError
from specact_rl.pipeline.bases import adapted_preset, base_folder
from specact_rl.presets import find_preset, model_path


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """What was asked of the hub; each answer is a folder with a config."""
    asked = []

    def download(repo_id, *, revision, **options):
        asked.append((repo_id, revision))
        (tmp_path / "config.json").write_text("{}")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    base_folder.cache_clear()
    yield asked
    base_folder.cache_clear()


def test_what_is_not_given_stays_the_presets():
    preset = find_preset("qwen3")
    assert adapted_preset(preset) == preset
    changed = adapted_preset(preset, strong_base="org/big@main")
    assert (changed.strong_base, changed.cheap_base) == ("org/big@main", preset.cheap_base)


def test_other_numbers_of_tasks_go_with_that_of_all():
    preset = adapted_preset(find_preset("qwen3"), num_tasks=30)
    assert (preset.num_tasks, preset.num_held_out_tasks, preset.num_tasks_twice) == (30, 2, 30)
    assert (preset.num_ranked_tasks, preset.num_live_tasks) == (1, 1)
    more = adapted_preset(find_preset("qwen3"), num_tasks=6000)
    assert (more.num_held_out_tasks, more.num_live_tasks) == (400, 100)


def test_no_tasks_are_refused():
    with pytest.raises(ConfigError, match="--num-tasks must be at least 1, got 0"):
        adapted_preset(find_preset("qwen3"), num_tasks=0)


def test_id_is_fetched_once_at_its_revision_and_folders_are_not(downloads, tmp_path):
    assert base_folder("org/model@abc123") == base_folder("org/model@abc123") == tmp_path
    assert base_folder("org/other") == tmp_path
    assert str(base_folder("builtin:1m")) == model_path("builtin:1m")
    assert base_folder(str(tmp_path)) == tmp_path
    assert downloads == [("org/model", "abc123"), ("org/other", None)]


def test_folder_without_a_checkpoint_is_refused(downloads, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"empty must be a whole checkpoint, but has no config"):
        base_folder(str(tmp_path / "empty"))
    assert downloads == []


def test_command_line_puts_bases_and_tasks_in_the_presets_place(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        "specact_rl.pipeline.run.run_preset",
        lambda preset, out, **named: asked.append((preset, named)),
    )
    monkeypatch.setattr("specact_rl.eval.report.terminal_summary", lambda *_: None)
    options = ["--cheap-base", "org/a@1", "--verifier-base", "org/c"]
    options += ["--chat-template", "own", "--num-tasks", "5"]
    assert main(["run", "--preset", "qwen3", "--out", str(tmp_path), *options]) == 0
    [(preset, named)] = asked
    bases = (preset.cheap_base, preset.strong_base, preset.verifier_base)
    assert bases == ("org/a@1", "Qwen/Qwen3-8B", "org/c")
    assert (preset.num_tasks, preset.chat_template) == (5, "own")
    assert named["command"][-8:] == options
