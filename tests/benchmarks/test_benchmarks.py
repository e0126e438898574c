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
    "bench_log_verifiers": ["--tasks", "40", "--resamples", "20"],
    "bench_studies": ["--only", "retry"],
    "bench_scoring": ["--rollouts", "1", "--runs", "1", "--sizes", "1m"],
    "bench_statistics": ["--runs", "3", "--size", "300", "--rounds", "1"],
    "bench_workspace": ["--tasks", "4", "--rounds", "1"],
}


def test_every_benchmark_has_a_small_run():
    assert {path.stem for path in FOLDER.glob("bench_*.py")} == set(SMALL)


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
