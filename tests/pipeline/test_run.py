"""What a run writes down about itself: what it is, and how long its stages took."""

import json
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest

from specact_rl.errors import ConfigError
from specact_rl.models.chat_templates import QWEN3_TRAINING, chat_template
from specact_rl.models.loading import load_tokenizer
from specact_rl.pipeline import run as run_module
from specact_rl.pipeline.artifacts import Artifacts
from specact_rl.pipeline.folders import Folders
from specact_rl.pipeline.run import Run, _claim
from specact_rl.presets import find_preset, model_path

IDENTITY = {"preset": "smoke", "seed": 0}


@pytest.fixture
def folders(tmp_path):
    return Folders(root=tmp_path)


@pytest.fixture
def attempt(folders, monkeypatch):
    """One run's attempt at a stage, which takes some seconds; returns what results say of it.

    A killed one leaves times.json as it was in the middle of the stage.
    """
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(run_module.time, "perf_counter", lambda: clock.now)

    def attempt(seconds, end=None):
        artifacts = SimpleNamespace(folders=folders)
        run = Run(artifacts=artifacts, progress=None, command=[], own_bases=[])
        with suppress(KeyboardInterrupt), run.stage("train"):
            clock.now += seconds
            left = folders.times.read_text()
            if end is not None:
                raise KeyboardInterrupt
        if end == "killed":
            folders.times.write_text(left)
        return run.stage_times

    return attempt


def test_recipes_are_told_the_template_that_their_rows_were_made_with(folders, monkeypatch):
    asked = []
    monkeypatch.setattr(run_module, "launch", lambda trainings, **_: asked.extend(trainings))
    artifacts = Artifacts(preset=find_preset("qwen3"), seed=0, folders=folders)
    run = Run(artifacts=artifacts, progress=silent, command=[], own_bases=[])
    base = folders.root / "base"
    load_tokenizer(model_path("builtin:1m"), "qwen3").save_pretrained(base)
    (base / "config.json").write_text("{}")
    run.build(asked.append, "sft", "train_proposer", base=str(base))
    run.train("train", ("sft_proposer", "cheap", folders.root, "sft"))
    source, training = asked
    assert training.arguments["chat_template"] == QWEN3_TRAINING
    assert source.renderer.tokenizer.chat_template == chat_template(QWEN3_TRAINING)


@contextmanager
def silent(*_):
    yield lambda done: None


def stage(seconds, complete):
    return [{"name": "train", "seconds": seconds, "complete": complete}]


def test_time_of_a_stage_is_that_of_all_its_attempts(attempt):
    for _ in range(2):
        attempt(3.0, "interrupted")
    assert attempt(4.0) == stage(10.0, True)


def test_time_of_a_skipped_stage_stays(attempt):
    assert attempt(4.0) == stage(4.0, True)
    assert attempt(0.1) == stage(4.0, True)


def test_time_that_a_kill_took_with_it_is_said_to_be_missing(attempt):
    attempt(3.0, "interrupted")
    attempt(5.0, "killed")
    assert attempt(4.0) == stage(7.0, False)
    assert attempt(0.1) == stage(7.0, False)


def test_kill_while_a_finished_stage_is_skipped_loses_nothing(attempt):
    attempt(4.0)
    attempt(0.1, "killed")
    assert attempt(0.1) == stage(4.0, True)


def test_run_killed_while_it_wrote_what_it_is_goes_on(folders, tmp_path):
    (tmp_path / ".run.json.12.tmp").write_text('{"pre')
    _claim(folders, IDENTITY)
    assert json.loads(folders.identity.read_text()) == IDENTITY
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_folder_with_other_files_is_refused(folders, tmp_path):
    (tmp_path / ".notes.tmp").touch()
    with pytest.raises(ConfigError, match="must be new, empty"):
        _claim(folders, IDENTITY)
    assert (tmp_path / ".notes.tmp").exists()
