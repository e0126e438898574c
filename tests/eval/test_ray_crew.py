"""`specact outcomes --engine ray`: the rows of one process, made by workers of a cluster."""

import builtins
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from specact_rl import cli
from specact_rl.cluster import unpack
from specact_rl.envs.collect import plan_episodes, scripted_rollouts
from specact_rl.errors import ConfigError, ModelError
from specact_rl.eval import collect, ray_crew
from specact_rl.eval import outcomes as outcomes_module
from specact_rl.eval.ray_crew import _Worker, places_on
from specact_rl.eval.team import Team
from specact_rl.mining.build_rollouts import collect_rollouts
from specact_rl.store import done_shards, read_manifest, read_table
from specact_rl.types import Proposal, Score

BASE = Path(__file__).resolve().parents[2] / "specact_rl" / "models" / "bases" / "1m"
FRACTIONS = {"train_proposer": 0.0, "train_verifier": 1.0, "calibration": 0.0, "test": 0.0}


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    out = tmp_path_factory.mktemp("inputs") / "rollouts"
    plans = plan_episodes(["expert"], range(5))
    collect_rollouts(out, plans, roll_out=scripted_rollouts, fractions=FRACTIONS, seed=0)
    return out


@pytest.fixture
def one_rollout_a_chunk(monkeypatch):
    monkeypatch.setattr(outcomes_module, "CHUNK_ROLLOUTS", 1)


@pytest.fixture(scope="module")
def ray():
    """A cluster of two workers, small and silent."""
    with pytest.MonkeyPatch.context() as patch:
        # Set before Ray is imported, which reads them then.
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")
        ray = pytest.importorskip("ray", reason="needs Ray: pip install 'specact_rl[ray]'")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # so that there are two workers
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 * 2**20,
        )
        yield ray
        ray.shutdown()
        torch.set_num_threads(threads)


def outcomes(rollouts, out, *extra, engine="ray", model=BASE):
    paths = ["--rollouts", rollouts, "--model", model, "--out", out, "--engine", engine]
    return cli.main(["outcomes", *map(str, paths), *map(str, extra)])


def test_without_ray_the_error_says_what_to_install(rollouts, tmp_path, monkeypatch, capsys):
    original = builtins.__import__

    def no_ray(name, *args, **options):
        if name.split(".")[0] == "ray":
            raise ImportError("No module named 'ray'")
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", no_ray)
    assert outcomes(rollouts, tmp_path / "out") == 2
    assert "pip install 'specact_rl[ray]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_servers_need_no_ray(rollouts, tmp_path, capsys):
    assert outcomes(rollouts, tmp_path / "out", model="http://localhost:1/v1#m") == 2
    assert "share their work among nodes themselves" in capsys.readouterr().err


def test_processes_of_a_launcher_do_not_start_workers_each(rollouts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Team, "of_environment", lambda: Team(rank=0, size=2))
    assert outcomes(rollouts, tmp_path / "out") == 2
    assert "start the command once, without torchrun" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ([{"CPU": 2.0}], (2, {"num_cpus": 1})),
        ([{"CPU": 4.0}, {}, {"CPU": 3.0}], (7, {"num_cpus": 1})),
        ([{"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}], (2, {"num_cpus": 1, "num_gpus": 1})),
    ],
    ids=["this machine", "a head without CPUs", "GPUs"],
)
def test_a_gpu_or_a_cpu_has_a_worker(monkeypatch, nodes, found):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert places_on(nodes) == found


def test_a_worker_takes_as_many_cpus_as_this_process_has_threads_if_a_node_has_them(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert places_on([{"CPU": 8.0}, {"CPU": 6.0}]) == (3, {"num_cpus": 4})
    assert places_on([{"CPU": 8.0}, {"CPU": 2.0}]) == (5, {"num_cpus": 2})


def test_a_cluster_without_a_place_is_refused():
    with pytest.raises(ConfigError, match="must have nodes with GPUs or CPUs"):
        places_on([{"memory": 1.0}])


def test_a_worker_whose_weights_are_others_is_refused():
    worker = _Worker({"proposer": str(BASE)}, torch.get_num_threads())
    own = unpack(worker.identities())["proposer"]
    assert unpack(worker.work("proposer", own, lambda model, chunk: [], [])) == []
    other = replace(own, model_id="1m-0123")
    with pytest.raises(ConfigError, match="copy the same weights to all nodes"):
        unpack(worker.work("proposer", other, lambda model, chunk: [], []))


def test_weights_that_a_node_does_not_see_are_said_to_be_so(tmp_path):
    worker = _Worker({"proposer": str(tmp_path / "elsewhere")}, torch.get_num_threads())
    with pytest.raises(ModelError, match="that every node of the cluster sees, but node"):
        unpack(worker.identities())


@pytest.mark.slow
def test_rows_of_ray_are_the_rows_of_one_process_though_a_worker_dies(
    rollouts, save_verifier, tmp_path, monkeypatch, one_rollout_a_chunk, ray
):
    verifier = save_verifier(tmp_path / "verifier", 2)

    def run(name, engine, *more):
        out, scores = tmp_path / name, tmp_path / f"{name}-scores"
        extra = ["--num-samples", 2, "--verifier", verifier, "--scores", scores, *more]
        assert outcomes(rollouts, out, *extra, engine=engine) == 0
        proposals = read_table(out / "proposals.parquet", Proposal)
        judged = read_table(scores / "scores.parquet", Score)
        seconds = {"seconds": 0.0, "tool_seconds": 0.0}  # of which no two runs take the same
        return (
            [replace(p, **seconds) for p in proposals],
            [replace(s, seconds=0.0) for s in judged],
            [read_manifest(folder).arguments for folder in (out, scores)],
        )

    of_one_process = run("one", "local")
    third = of_one_process[0][0].step_id.rpartition("/")[0]
    marker, original = tmp_path / "killed", collect.generated_over

    def once_killed(proposer, works, *, sampling):
        if works[0].rollout.rollout_id == third and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(proposer, works, sampling=sampling)

    cache = ["--cache", tmp_path / "cache"]
    monkeypatch.setattr(collect, "generated_over", once_killed)
    assert run("ray", "ray", *cache) == of_one_process
    assert marker.exists()
    # What workers made is found by whoever names the cache.
    monkeypatch.setattr(collect, "generated_over", lambda *_, **__: pytest.fail("was run"))
    assert run("again", "local", *cache) == of_one_process


@pytest.mark.slow
def test_a_chunk_that_kills_its_workers_comes_to_an_end_and_keeps_what_was_finished(
    rollouts, tmp_path, monkeypatch, capsys, one_rollout_a_chunk, ray
):
    monkeypatch.setattr(ray_crew, "_NUM_RETRIES", 1)  # each costs the start of a worker
    original, log = collect.generated_over, tmp_path / "log"

    def deadly(proposer, works, *, sampling):
        if len(done_shards(tmp_path / "out.partial" / "shards")) >= 2:
            with log.open("a") as stream:
                stream.write(f"{works[0].rollout.rollout_id}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return original(proposer, works, sampling=sampling)

    monkeypatch.setattr(collect, "generated_over", deadly)
    assert outcomes(rollouts, tmp_path / "out") == 2
    assert "the worker died 2 times" in capsys.readouterr().err
    assert max(Counter(log.read_text().split()).values()) == 2
    monkeypatch.setattr(collect, "generated_over", original)
    assert outcomes(rollouts, tmp_path / "out", engine="local") == 0


@pytest.mark.slow
def test_the_error_of_a_worker_is_raised_here(rollouts, tmp_path, monkeypatch, capsys, ray):
    def failing(proposer, works, *, sampling):
        raise ConfigError(f"no {sampling.num_samples} proposals of {proposer.model_id}")

    monkeypatch.setattr(collect, "generated_over", failing)
    assert outcomes(rollouts, tmp_path / "out") == 2
    assert "error: no 1 proposals of 1m-" in capsys.readouterr().err
