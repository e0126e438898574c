"""`specact outcomes --engine vllm`: the same steps, and rows that pass for nobody else's."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from specact_rl import cli
from specact_rl.envs.collect import plan_episodes, scripted_rollouts
from specact_rl.eval.team import Team
from specact_rl.mining.build_rollouts import collect_rollouts
from specact_rl.store import read_manifest, read_table
from specact_rl.types import Proposal
from tests import fake_vllm

BASE = Path(__file__).resolve().parents[2] / "specact_rl" / "models" / "bases" / "1m"
FRACTIONS = {"train_proposer": 0.0, "train_verifier": 1.0, "calibration": 0.0, "test": 0.0}


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    out = tmp_path_factory.mktemp("inputs") / "rollouts"
    plans = plan_episodes(["expert"], range(1))[:3]
    collect_rollouts(out, plans, roll_out=scripted_rollouts, fractions=FRACTIONS, seed=0)
    return out


@pytest.fixture
def vllm(monkeypatch):
    return fake_vllm.install(monkeypatch)


def outcomes(rollouts, out, *extra, model=BASE):
    paths = ["--rollouts", rollouts, "--model", model, "--out", out]
    options = ["--splits", "train_verifier", "--max-new-tokens", "16", *extra]
    return cli.main(["outcomes", *map(str, [*paths, *options])])


def table_of(folder):
    rows = read_table(folder / "proposals.parquet", Proposal)
    apart = {"logprob": None, "seconds": 0.0, "tool_seconds": 0.0, "num_cached_tokens": 0}
    return [replace(row, **apart) for row in rows]


def test_the_greedy_table_is_that_of_the_local_engine_but_says_whose_it_is(
    rollouts, tmp_path, vllm
):
    assert outcomes(rollouts, tmp_path / "local") == 0
    assert outcomes(rollouts, tmp_path / "vllm", "--engine", "vllm") == 0
    assert table_of(tmp_path / "vllm") == table_of(tmp_path / "local")
    local, other = (read_manifest(tmp_path / name).arguments for name in ("local", "vllm"))
    assert other == local | {"engine": "vllm", "engine_version": "0.30.0", "dtype": "float32"}
    assert "engine" not in local
    assert outcomes(rollouts, tmp_path / "local", "--engine", "vllm") == 2  # of other arguments


def test_a_table_that_is_there_starts_no_engine(rollouts, tmp_path, vllm):
    options = ["--engine", "vllm", "--max-model-len", "2048", "--gpu-memory", "0.4"]
    for _ in range(2):
        assert outcomes(rollouts, tmp_path / "out", *options) == 0
    (started,) = vllm.engines
    assert (started["max_model_len"], started["gpu_memory_utilization"]) == (2048, 0.4)


def test_the_cache_keeps_engines_and_their_versions_apart(rollouts, tmp_path, monkeypatch):
    cache = ["--cache", tmp_path / "cache"]
    assert outcomes(rollouts, tmp_path / "local", *cache) == 0
    for version, is_new in (("0.30.0", True), ("0.30.1", True), ("0.30.0", False)):
        log = fake_vllm.install(monkeypatch, version)
        options = ["--engine", "vllm", "--overwrite", *cache]
        assert outcomes(rollouts, tmp_path / "out", *options) == 0
        assert bool(log.requests) is is_new
        assert read_manifest(tmp_path / "out").arguments["engine_version"] == version


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (["--gpu-memory", "0.5"], "--gpu-memory is for --engine vllm"),
        (["--engine", "vllm", "--gpu-memory", "2"], "must be in (0, 1], got 2.0"),
        (["--engine", "vllm", "--logprobs"], "--logprobs is for a server"),
        (["--engine", "vllm", "--timeout", "3"], "--timeout is for a server"),
        (["--engine", "vllm", "--distinct", "--num-samples", "2"], "cannot be made distinct"),
        (["--engine", "vllm", "--max-model-len", "40"], "at most 40 tokens together under vLLM"),
    ],
)
def test_what_does_not_fit_is_refused(rollouts, tmp_path, vllm, capsys, extra, complaint):
    assert outcomes(rollouts, tmp_path / "out", *extra) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_server_and_several_processes_are_refused(rollouts, tmp_path, vllm, capsys, monkeypatch):
    url = "http://127.0.0.1:9/v1#m"
    assert outcomes(rollouts, tmp_path / "out", "--engine", "vllm", model=url) == 2
    assert "has an engine of its own" in capsys.readouterr().err
    monkeypatch.setattr(Team, "of_environment", lambda: Team(size=2))
    assert outcomes(rollouts, tmp_path / "out", "--engine", "vllm") == 2
    assert "must be one process, got 2" in capsys.readouterr().err


def test_without_vllm_it_is_one_error_that_says_what_to_install(
    rollouts, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert outcomes(rollouts, tmp_path / "out", "--engine", "vllm") == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert 'pip install "specact_rl[vllm]"' in error
    assert not (tmp_path / "out").exists()
