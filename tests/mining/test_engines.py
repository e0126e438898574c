import builtins
import os
import signal

import pytest

from specact_rl.envs.collect import plan_episodes
from specact_rl.errors import ConfigError
from specact_rl.mining import build_rows
from specact_rl.mining.build_rollouts import collect_rollouts
from specact_rl.mining.build_rows import PairWork, build_preferences
from specact_rl.mining.chunks import open_tables
from specact_rl.mining.data_sets import DataSource
from specact_rl.store import read_json, read_training_rows, tables

STRATEGIES = ["divergence", "hard_negative"]


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    """Rollouts of the workspace in several chunks."""
    folder = tmp_path_factory.mktemp("engines") / "rollouts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_CHARACTERS_PER_GROUP", 50_000)
        plans = plan_episodes(["expert", "noisy:0.4"], range(24))
        collect_rollouts(folder, plans, fractions={"train_verifier": 1.0})
    assert len(open_tables(folder, [], "train_verifier").chunks) > 2
    return folder


@pytest.fixture
def source(rollouts, renderer, tmp_path):
    def make_source(name):
        return DataSource(
            rollouts_dir=rollouts,
            out_dir=tmp_path / name / "rows",  # its name is in the card
            renderer=renderer,
            split="train_verifier",
            eval_fraction=0.3,
        )

    return make_source


@pytest.fixture
def ray(monkeypatch):
    """A cluster of two workers, small and silent."""
    # Set before Ray is imported, which reads them then.
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'specact_rl[ray]'")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
    )
    yield ray
    ray.shutdown()


def test_an_unknown_engine_is_refused_with_the_known_ones(source):
    with pytest.raises(ConfigError, match=r"one of \['local', 'ray'\], got 'spark'"):
        build_preferences(source("out"), strategies=STRATEGIES, engine="spark")


def test_without_ray_the_error_says_what_to_install(source, monkeypatch):
    original = builtins.__import__

    def no_ray(name, *args, **options):
        if name.split(".")[0] == "ray":
            raise ImportError("No module named 'ray'")
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", no_ray)
    with pytest.raises(ConfigError, match=r"pip install 'specact_rl\[ray\]'"):
        build_preferences(source("out"), strategies=STRATEGIES, engine="ray")


@pytest.mark.slow
def test_rows_of_ray_are_the_rows_of_one_process_though_a_worker_dies(
    source, tmp_path, monkeypatch, ray
):
    marker = tmp_path / "killed"

    class OnceKilled:
        """Kills the process that it runs in, the first time that it is half way."""

        def __init__(self, **fields):
            self.work = PairWork(**fields)
            self.num_tasks = 0

        def __call__(self, task):
            self.num_tasks += 1
            if self.num_tasks == 2 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return self.work(task)

    options = {"strategies": STRATEGIES, "in_environment": True}
    local = build_preferences(source("local"), **options)
    monkeypatch.setattr(build_rows, "PairWork", OnceKilled)
    on_ray = build_preferences(source("ray"), engine="ray", **options)
    assert marker.exists()
    assert (on_ray.counts, on_ray.dropped) == (local.counts, local.dropped)
    assert on_ray.files == local.files  # hashes: byte for byte
    assert len(read_training_rows(tmp_path / "ray" / "rows", "train")) == local.counts["train"] > 20
    precision = read_json(tmp_path / "ray" / "rows" / "report.json")["precision"]
    assert precision["hard_negative"]["better"]["value"] == 1.0


@pytest.mark.slow
def test_what_the_work_raises_on_ray_is_raised_here(source, monkeypatch, ray):
    class Failing:
        def __init__(self, **fields):
            pass

        def __call__(self, task):
            raise ConfigError(f"no work for {task.task_id}")

    monkeypatch.setattr(build_rows, "PairWork", Failing)
    with pytest.raises(ConfigError, match="^no work for ws-"):
        build_preferences(source("out"), strategies=STRATEGIES, engine="ray")
