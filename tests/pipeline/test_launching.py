"""Trainings side by side, with processes that end after a set number of looks at them.

Where it matters what is killed, small scripts stand in for launcher and recipes.
"""

import time
from types import SimpleNamespace

import pytest

from specact_rl.errors import SpecActError
from specact_rl.models import tied
from specact_rl.models.training_percents import training_percents
from specact_rl.models.training_progress import ProgressFile
from specact_rl.pipeline import launching
from specact_rl.pipeline.launching import Training, launch


class ScriptedProcess:
    """Runs until it was looked at `looks` times."""

    def __init__(self, looks, code):
        self.looks, self.code, self.killed = looks, code, False

    @property
    def alive(self):
        return self.looks > 0 and not self.killed

    @property
    def returncode(self):
        return None if self.alive else self.code

    def poll(self):
        self.looks -= 1
        return self.returncode

    def kill(self):
        self.killed = True


@pytest.fixture
def started(monkeypatch):
    """Processes by recipe, as they are started; recipes are called "LOOKS/CODE"."""
    processes = {}

    def start(training, threads):
        looks, code = map(int, training.recipe.split("/"))
        processes[training.log.name] = ScriptedProcess(looks, code)
        return processes[training.log.name]

    monkeypatch.setattr(launching, "_start", start)
    monkeypatch.setattr(launching, "_stop", ScriptedProcess.kill)
    monkeypatch.setattr(launching, "_POLL_S", 0.0)
    return processes


def trainings(folder, *recipes):
    return [
        Training(
            recipe=recipe,
            config=folder / "config.yaml",
            arguments={"output_dir": str(folder / f"model{i}")},
            log=folder / f"{i}.log",
        )
        for i, recipe in enumerate(recipes)
    ]


@pytest.mark.parametrize("side_by_side", [1, 2, 3])
def test_no_more_trainings_run_than_may(side_by_side, started, tmp_path, monkeypatch):
    together = []
    start = launching._start

    def counting(training, threads):
        process = start(training, threads)
        together.append(sum(p.alive for p in started.values()))
        return process

    monkeypatch.setattr(launching, "_start", counting)
    launch(trainings(tmp_path, "3/0", "1/0", "2/0", "1/0"), side_by_side=side_by_side)
    assert max(together) == side_by_side
    assert list(started) == ["0.log", "1.log", "2.log", "3.log"]


def test_cores_are_shared(monkeypatch, tmp_path):
    given = []

    def start(training, threads):
        given.append(threads)
        return ScriptedProcess(1, 0)

    monkeypatch.setattr(launching, "_start", start)
    monkeypatch.setattr(launching, "_POLL_S", 0.0)
    monkeypatch.setattr(launching.torch, "get_num_threads", lambda: 4)
    launch(trainings(tmp_path, "a", "b"), side_by_side=2)
    launch(trainings(tmp_path, "c"))
    launch(trainings(tmp_path, "d"), side_by_side=8)
    assert given == [2, 2, 4, 1]


def test_failed_training_stops_the_others_and_says_why(started, tmp_path):
    (tmp_path / "1.log").write_text("loading\n1/2: error: no row may be longer\n")
    with pytest.raises(SpecActError, match=r"exit code 2: 1/2: error: no row may be longer; .*1\."):
        launch(trainings(tmp_path, "9/0", "1/2", "1/0"), side_by_side=2)
    assert started["0.log"].killed
    assert "2.log" not in started


def test_progress_comes_to_100_for_each_training(started, tmp_path):
    seen = []
    launch(trainings(tmp_path, "3/0", "1/0"), side_by_side=2, progress=seen.append)
    assert seen[0] == 100
    assert sum(seen) == 200


def test_progress_of_a_running_training_is_what_it_wrote(started, tmp_path):
    running, ended = trainings(tmp_path, "3/0", "1/0")
    folder = tmp_path / "model0"
    ProgressFile(folder).on_step_end(None, at_step(3, 12), None)
    seen = []
    launch([running, ended], side_by_side=2, progress=seen.append)
    assert seen == [125, 75]


def test_progress_does_not_go_back_while_a_training_saves(started, tmp_path, monkeypatch):
    told = {"model0": [50, 0, 0, 0], "model1": [0, 30, 60, 0]}
    monkeypatch.setattr(launching, "training_percents", lambda path: told[path.name].pop(0))
    seen = []
    launch(trainings(tmp_path, "5/0", "5/0"), side_by_side=2, progress=seen.append)
    assert seen == [50, 30, 30, 90]


# Processes that are real

LAUNCHER = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"
WITH_WORKER = """
import os, pathlib, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path("pids.tmp").write_text(f"{os.getpid()} {worker.pid}")
os.rename("pids.tmp", "pids")
worker.wait()
"""
FAILS_BESIDE_IT = """
import os, time
while not os.path.exists("pids"):
    time.sleep(0.02)
raise SystemExit(2)
"""


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """Recipes by name, run in the test's folder by a launcher that is as quick as they are."""
    recipes = {}
    (tmp_path / "launcher.py").write_text(LAUNCHER)

    def find(kind, name):
        path = tmp_path / f"{name}.py"
        path.write_text(recipes[name])
        return path

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launching, "_launcher", lambda threads: [str(tmp_path / "launcher.py")])
    monkeypatch.setattr(launching, "find_program", find)
    return recipes


def all_gone(pids):
    end = time.monotonic() + 10
    while any(tied.identity(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(tied.identity(pid) for pid in pids)


def test_failed_training_leaves_no_process_of_the_others(scripts, tmp_path):
    scripts.update(runs=WITH_WORKER, fails=FAILS_BESIDE_IT)
    with pytest.raises(SpecActError, match="fails ended with exit code 2"):
        launch(trainings(tmp_path, "runs", "fails"), side_by_side=2)
    assert all_gone(map(int, (tmp_path / "pids").read_text().split()))


def test_interrupted_run_leaves_no_process_of_its_trainings(scripts, tmp_path, monkeypatch):
    scripts.update(runs=WITH_WORKER)

    def interrupt(folder):
        if (tmp_path / "pids").exists():
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(launching, "training_percents", interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch(trainings(tmp_path, "runs"))
    assert all_gone(map(int, (tmp_path / "pids").read_text().split()))


def test_recipe_gets_its_arguments(scripts, tmp_path):
    scripts.update(tells="import sys; print(*sys.argv[1:])")
    [training] = trainings(tmp_path, "tells")
    launch([training])
    assert training.log.read_text().split() == [
        *("--config", str(training.config)),
        *("--output_dir", training.arguments["output_dir"]),
    ]


def test_progress_of_a_killed_training_is_not_that_of_the_next(scripts, tmp_path):
    scripts.update(idles="import time; time.sleep(0.5)")
    ProgressFile(tmp_path / "model0").on_step_end(None, at_step(3, 5), None)
    seen = []
    launch(trainings(tmp_path, "idles"), progress=seen.append)
    assert seen == [100]


def at_step(step, last, main=True):
    return SimpleNamespace(global_step=step, max_steps=last, is_world_process_zero=main)


def test_progress_file_is_gone_when_the_training_is(tmp_path):
    callback = ProgressFile(tmp_path)
    assert training_percents(tmp_path) == 0
    callback.on_step_end(None, at_step(1, 3), None)
    assert training_percents(tmp_path) == 33
    callback.on_step_end(None, at_step(3, 3), None)
    assert training_percents(tmp_path) == 99
    callback.on_train_end(None, at_step(3, 3), None)
    assert list(tmp_path.iterdir()) == []


def test_only_the_main_process_tells_how_far_it_is(tmp_path):
    ProgressFile(tmp_path).on_step_end(None, at_step(1, 3, main=False), None)
    assert list(tmp_path.iterdir()) == []
