"""Seconds and memory of `specact evaluate` on a table of a million proposals, part by part.

    python benchmarks/bench_evaluate.py
    python benchmarks/bench_evaluate.py --rows 20000 --out evaluate.json

The table is made up: at each step three proposals of a cheap model and one of a strong one, two
verifiers (one that knows something, one that knows less), tokens and seconds. A fifth of the tasks
is for calibration. The command runs in a process of its own on at most two cores, as a user runs
it, Parquet in and report out. Then the same numbers are computed from `Proposal`, `Score` and
`Step` objects on a table of a few thousand rows, and must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SAMPLES = 3
ROWS_OF_STEP = SAMPLES + 1
STEPS_OF_TASK = 2
"""So that a million rows have 125,000 tasks, of which 100,000 are for testing."""
CALIBRATION = 5
"""One task in so many."""
TYPES = ("tool_call", "retrieval", "file_read", "file_write", "final_answer")
COMPARED = 8_000
"""Rows of the table on which objects and columns are compared."""


def main() -> None:
    """Make the table, run the command, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--num-resamples", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=3, help="of the command (default: 3)")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--folder", type=Path, help="where the table goes for the time being")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        table = folder / "table.parquet"
        facts = write_table(table, args.rows)
        runs = [run_command(table, folder, args.num_resamples) for _ in range(args.runs)]
    found = {
        "machine": {"processor": cpu_name(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "python": platform.python_version(),
        "table": facts,
        "num_resamples": args.num_resamples,
        "runs": runs,
    }
    show(found)
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def write_table(path: Path, num_rows: int, seed: int = 0) -> dict[str, Any]:
    """A table of about so many rows, shuffled; returns what it holds."""
    rng = np.random.default_rng(seed)
    num_steps = num_rows // ROWS_OF_STEP
    step = np.repeat(np.arange(num_steps), ROWS_OF_STEP)
    sample = np.tile([*range(SAMPLES), 0], num_steps)
    strong = np.tile([False] * SAMPLES + [True], num_steps)
    task = step // STEPS_OF_TASK
    of_task = rng.normal(size=int(task[-1]) + 1)
    hardness = of_task[task] + rng.normal(size=num_steps)[step]
    right = rng.logistic(size=step.size) < hardness + np.where(strong, 1.0, 0.0)
    parsed = strong | (rng.random(step.size) < 0.95)
    right &= parsed
    scored = parsed & ~strong
    empty = np.where(scored, 0.0, np.nan)
    tokens = 200 + 100 * (step % STEPS_OF_TASK) + 10 * rng.integers(20, size=num_steps)[step]
    columns = {
        "step_id": ids("s", step),
        "task_id": ids("t", task),
        "rollout_id": ids("t", task),
        "step_index": step % STEPS_OF_TASK,
        "split": pa.array(np.where(task % CALIBRATION == 0, "calibration", "test")),
        "model": pa.array(np.where(strong, "large", "small")),
        "sample": sample,
        "acceptable": right,
        "parsed": parsed,
        "action_hash": pa.array(
            np.where(right, "right", rng.choice(["wrong 1", "wrong 2"], size=step.size)),
            mask=~parsed,
        ),
        "action_type": pa.array(rng.choice(TYPES, size=step.size), mask=~parsed),
        "reference_type": pa.array(np.array(TYPES)[step % len(TYPES)]),
        "match_level": pa.array(np.where(right, "arguments", "none")),
        "num_prompt_tokens": tokens,
        "num_completion_tokens": rng.integers(8, 40, size=step.size),
        "seconds": rng.exponential(np.where(strong, 1.0, 0.2)),
        "log_odds_trained": 2.5 * right - 1.0 + rng.logistic(size=step.size) + empty,
        "log_odds_features": 1.2 * right - 0.5 + rng.logistic(size=step.size) + empty,
        "seconds_trained": rng.exponential(0.1, size=step.size) + empty,
        "seconds_features": 0.001 + empty,
    }
    pq.write_table(pa.table(columns).take(rng.permutation(step.size)), path)
    return {
        "rows": int(step.size),
        "steps": num_steps,
        "tasks": int(of_task.size),
        "test_tasks": int(of_task.size - -(-of_task.size // CALIBRATION)),
        "megabytes": round(path.stat().st_size / 1e6, 1),
    }


def ids(letter: str, numbers: np.ndarray) -> pa.Array:
    """Ids as a log has them."""
    names = pa.array([f"{letter}-{number:08d}" for number in range(int(numbers.max()) + 1)])
    return names.take(pa.array(numbers))


def run_command(table: Path, folder: Path, num_resamples: int) -> dict[str, Any]:
    """The command in a process of its own: seconds, memory, and its parts."""
    out = folder / "out"
    command = [sys.executable, "-m", "specact_rl.cli", "evaluate", str(table)]
    command += ["--cheap", "small", "--strong", "large", "--verifier", "trained"]
    command += ["--params", "cheap=1.7,strong=8,trained=4,features=0.001"]
    command += ["--num-resamples", str(num_resamples), "--out", str(out), "--overwrite"]
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    printed, errors = done.communicate()
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(errors)
    results = json.loads((out / "evaluation" / "results.json").read_text(encoding="utf-8"))
    for path in sorted(out.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1
        ),
        "peak_gb": round(after.ru_maxrss / 2**20, 2),
        "parts": {row["name"]: row["seconds"] for row in results["meta"]["stages"]},
        "parts_of_evaluate": results["meta"]["table"]["seconds_of_evaluate"],
        "systems": [row["name"] for row in results["replay"]["systems"]],
        "lines_printed": printed.count("\n"),
    }


def show(found: dict[str, Any]) -> None:
    """A Markdown table of the parts."""
    runs, facts = found["runs"], found["table"]
    print(
        f"{found['machine']['processor']}, {found['machine']['cores']} CPUs, Python "
        f"{found['python']}; {facts['rows']:,} rows, {facts['steps']:,} steps, "
        f"{facts['tasks']:,} tasks ({facts['test_tasks']:,} test), {facts['megabytes']} MB, "
        f"{found['num_resamples']} resamples; systems {', '.join(runs[0]['systems'])}\n"
    )
    print("| part | seconds, each run |\n|---|---|")
    for name in runs[0]["parts"]:
        print(f"| {name} | {listed(run['parts'][name] for run in runs)} |")
    for name in runs[0]["parts_of_evaluate"]:
        print(f"| evaluate: {name} | {listed(run['parts_of_evaluate'][name] for run in runs)} |")
    for name in ("seconds", "cpu_seconds", "peak_gb"):
        print(f"| whole command, {name.replace('_', ' ')} | {listed(run[name] for run in runs)} |")


def listed(values: Any) -> str:
    """Numbers beside each other."""
    return ", ".join(f"{value:.1f}" for value in values)


def cpu_name() -> str:
    """As the kernel has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(": ", 1)[1] for x in lines if x.startswith("model name")), "unknown CPU")


if __name__ == "__main__":
    main()
