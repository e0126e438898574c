"""Benchmarks still run, on next to nothing; what they measure is in benchmarks/README.md."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALL = {
    "bench_bases": ["--tasks", "2"],
    "bench_calibrators": ["--rows", "100", "--repeats", "1"],
    "bench_evaluate": ["--rows", "2000", "--runs", "1", "--num-resamples", "50"],
    "bench_mining": ["--megabytes", "1", "--rows-rendered", "1"],
    "bench_gpu": ["--shape", "tiny"],
    "bench_live": ["runs/none"],
    "bench_log_verifiers": ["--tasks", "40", "--resamples", "20"],
    "bench_studies": ["--only", "retry"],
    "bench_generation": "--rollouts 1 --runs 1 --sizes 1m --max-new-tokens 8".split(),
    "bench_outcomes": ["--rollouts", "1", "--runs", "1"],
    "bench_promises": ["--repeats", "1"],
    "bench_scoring": ["--scale", "0.05", "--runs", "1", "--sizes", "1m"],
    "bench_statistics": ["--runs", "3", "--size", "300", "--rounds", "1"],
    "bench_training": [
        "--kinds",
        "sft",
        "--rounds",
        "1",
        "--rows",
        "8",
        "--seeds",
        "0",
        "--no-programs",
    ],
    "bench_workspace": ["--tasks", "4", "--rounds", "1"],
}


def test_every_benchmark_has_a_small_run():
    with_tests_of_their_own = {"bench_preferences"}
    found = {path.stem for path in FOLDER.glob("bench_*.py")}
    assert found == {*SMALL, *with_tests_of_their_own}


@pytest.mark.parametrize("name", SMALL)
def test_benchmark_runs(name):
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), *SMALL[name]],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


NOMINAL = (
    "difference, tasks resampled",
    "difference, 30 items, Tango",
    "share of .3, cluster_rate",
    "sign flips of tasks",
    "TOST at its margin, tasks",
    "a false one among four nulls, Holm",
    "power at the detectable difference, clustered error",
    "AUROC of .64, 80 tasks",
    "AUROC of .96, 80 tasks",
    "AUROC of .64, 80 tasks, within a task .69",
)
NOT_NOMINAL = (
    "difference, rows resampled",
    "share of .3, Wilson on rows",
    "McNemar, exact, steps as items",
    "TOST at its margin, steps as tasks",
    "a false one among four nulls, no correction",
    "power at the detectable difference, as if rows were independent",
)


@pytest.mark.slow
def test_intervals_cover_and_tests_keep_their_level_in_long_runs():
    command = [sys.executable, str(FOLDER / "bench_statistics.py"), "--only", "coverage"]
    done = subprocess.run(
        [*command, "--runs", "1000"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=True,
    )
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    away = {}
    for name, kind, nominal, found, _ in rows:
        # Three standard errors of 1,000 runs, and two points for what is only true of many tasks.
        tolerance = 3 * (float(nominal) * (1 - float(nominal)) / 1000) ** 0.5 + 0.02
        if kind != "independent" or "Tango" in name:
            away[name] = abs(float(found) - float(nominal)) / tolerance
    assert max(away[name] for name in NOMINAL) < 1, away
    assert min(away[name] for name in NOT_NOMINAL) > 1, away
