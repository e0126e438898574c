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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from specact_rl.eval.columns import ProposalColumns, StepTable, numbered
from specact_rl.eval.evaluate import calibrate, evaluate
from specact_rl.eval.evaluation_table import read_evaluation_table
from specact_rl.eval.joined import Outcomes
from specact_rl.eval.replay import Judged
from specact_rl.eval.table_outcomes import TableOutcomes, TablePlan
from specact_rl.metrics.cost import NO_MODEL
from specact_rl.pipeline.provenance import plain_json
from specact_rl.pipeline.table_evaluation import parse_table_sizes
from specact_rl.types import Action, Proposal, Score, Step, ToolSpec
from specact_rl.verifiers.base import Item
from specact_rl.verifiers.free import SampleAgreement

SAMPLES = 3
ROWS_OF_STEP = SAMPLES + 1
STEPS_OF_TASK = 2
"""So that a million rows have 125,000 tasks, of which 100,000 are for testing."""
CALIBRATION = 5
"""One task in so many."""
TYPES = ("tool_call", "retrieval", "file_read", "file_write", "final_answer")
COMPARED = 8_000
"""Rows of the table on which objects and columns are compared."""
TOOLS = [
    ToolSpec(name="book", effect="write"),
    ToolSpec(name="search", effect="read"),
    ToolSpec(name="cancel", effect="read"),
]
PARAMS = "cheap=1.7,strong=8,trained=4,features=0.001"
PLAN = TablePlan(
    models={"cheap": "small", "strong": "large"},
    verifier="trained",
    sizes=parse_table_sizes(PARAMS),
)


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
        num_compared = compare_with_objects(folder / "small.parquet", min(args.rows, COMPARED))
        facts = write_table(table, args.rows)
        runs = [run_command(table, folder, args.num_resamples) for _ in range(args.runs)]
    found = {
        "machine": {"processor": cpu_name(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "python": platform.python_version(),
        "table": facts,
        "num_resamples": args.num_resamples,
        "numbers_equal_to_those_of_objects": num_compared,
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
    first = np.where(scored & (sample == 0), 0.0, np.nan)
    tokens = 200 + 100 * (step % STEPS_OF_TASK) + 10 * rng.integers(20, size=of_task.size)[task]
    wrong = rng.choice(["search", "cancel"], size=step.size)
    action = pa.array(np.where(right, "book", wrong), mask=~parsed)
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
        "action_hash": action,
        "tool": action,
        "effect": pa.array(np.where(right, "write", "read"), mask=~parsed),
        "action_type": pa.array(rng.choice(TYPES, size=step.size), mask=~parsed),
        "reference_type": pa.array(np.array(TYPES)[step % len(TYPES)]),
        "match_level": pa.array(np.where(right, "arguments", "none")),
        "num_prompt_tokens": tokens,
        "num_completion_tokens": rng.integers(8, 40, size=step.size),
        "seconds": rng.exponential(np.where(strong, 1.0, 0.2)),
        "log_odds_trained": 2.5 * right - 1.0 + rng.logistic(size=step.size) + empty,
        "log_odds_features": 1.2 * right - 0.5 + rng.logistic(size=step.size) + empty,
        "log_odds_strong_judge": 1.8 * right - 0.7 + rng.logistic(size=step.size) + first,
        "seconds_trained": rng.exponential(0.1, size=step.size) + empty,
        "seconds_features": 0.001 + empty,
        "seconds_strong_judge": 0.05 + first,
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
    command += ["--params", PARAMS]
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


def compare_with_objects(path: Path, num_rows: int) -> int:
    """Evaluate a small table from objects, too; returns how many numbers were equal.

    Raises:
        SystemExit: One was not.
    """
    write_table(path, num_rows)
    table = TableOutcomes(read_evaluation_table(path), PLAN, "")
    rows = pq.read_table(path).to_pylist()
    of_columns, of_objects = (
        plain_json(
            evaluate(
                test,
                calibrate(calibration, calibration_hash="", seed=0, systems=table.systems),
                [],
                systems=table.systems,
                rivals=table.rivals,
                seed=0,
                num_resamples=200,
            )
        )
        for calibration, test in (
            (table.outcomes("calibration"), table.outcomes("test")),
            (outcomes_of(rows, "calibration"), outcomes_of(rows, "test")),
        )
    )
    for results in (of_columns, of_objects):
        del results["examples"], results["mistakes"]  # whose texts are not in the table
    a, b = dict(leaves(of_columns)), dict(leaves(of_objects))
    differing = [key for key in a.keys() | b.keys() if a.get(key) != b.get(key)]
    if differing:
        raise SystemExit(f"columns and objects differ in {differing[:5]}")
    return len(a)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each number with its path, to 12 places, as sums are not made in the same order."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, f"{path}/{key}")
    else:
        yield path, round(value, 12) if isinstance(value, float) else value


def outcomes_of(rows: list[dict[str, Any]], split: str) -> Outcomes:
    """One split of the table by way of records, row by row."""
    rows = [row for row in rows if row["split"] == split]
    steps = sorted(
        {row["step_id"]: row for row in rows}.values(),
        key=lambda row: (row["rollout_id"], row["step_index"]),
    )
    rollouts = sorted({row["rollout_id"] for row in steps})
    table = StepTable(
        steps=[as_step(row) for row in steps],
        task_ids=numbered(row["task_id"] for row in steps),
        rollouts=np.array([rollouts.index(row["rollout_id"]) for row in steps]),
        out_of_family=np.zeros(len(steps), dtype=bool),
        reference_types=np.array([row["reference_type"] for row in steps]),
        families=np.full(len(steps), ""),
        indices=np.array([row["step_index"] for row in steps]),
        num_out_of_reach=0,
    )
    columns = {
        role: ProposalColumns.of(table, [as_proposal(r) for r in rows if r["model"] == model])
        for role, model in PLAN.models.items()
    }
    cheap = columns["cheap"]
    judged = {}
    for name in ("trained", "features", "strong_judge"):
        scores = [as_score(row, name) for row in rows if row["model"] == PLAN.models["cheap"]]
        log_odds, seconds = (
            np.array([[getattr(found, kind) for found in at] for at in matrix], dtype=float)
            for kind in ("log_odds", "seconds")
            for matrix in [by_sample(cheap, scores)]
        )
        judged[name, "cheap"] = Judged(
            verifier_id=f"{name}@",
            size=PLAN.sizes.get(name, PLAN.sizes["strong"]),
            shares_strong=name == "strong_judge",
            log_odds=log_odds,
            seconds=seconds,
        )
    items = [
        Item(step=step, proposal=proposal, siblings=tuple(at))
        for step, at in zip(table.steps, cheap.proposals, strict=True)
        for proposal in at
    ]
    judged["sample_agreement", "cheap"] = Judged(
        verifier_id="sample_agreement@",
        size=NO_MODEL,
        shares_strong=False,
        log_odds=SampleAgreement().judge(items).log_odds.reshape(cheap.parsed.shape),
        seconds=np.zeros(cheap.parsed.shape),
    )
    sizes = {role: PLAN.sizes[role] for role in PLAN.models}
    return Outcomes(table=table, columns=columns, judged=judged, sizes=sizes)


def by_sample(columns: ProposalColumns, scores: list[Score]) -> list[list[Score]]:
    """A verifier's scores in the order of the proposals."""
    found = {score.proposal_id: score for score in scores}
    return [[found[p.proposal_id] for p in row] for row in columns.proposals]


def as_step(row: dict[str, Any]) -> Step:
    """The step of a row."""
    return Step(
        step_id=row["step_id"],
        rollout_id=row["rollout_id"],
        task_id=row["task_id"],
        family="",
        split=row["split"],
        index=row["step_index"],
        history=[{"role": "user", "content": ""}],
        tools=TOOLS,
        executed=None,
        reference=None,  # a table has its type only
    )


def as_proposal(row: dict[str, Any]) -> Proposal:
    """The proposal of a row; a call of one tool is always the same call."""
    return Proposal(
        proposal_id=f"{row['step_id']}/{row['model']}/{row['sample']}",
        step_id=row["step_id"],
        task_id=row["task_id"],
        model_id=row["model"],
        sample=row["sample"],
        mode="generate",
        text="",
        action=Action(type=row["action_type"], tool=row["tool"]) if row["parsed"] else None,
        parse_error=None if row["parsed"] else "made up",
        match_level=row["match_level"],
        same_state=None,
        acceptable=row["acceptable"],
        label_source="made up",
        logprob=None,
        num_candidates=None,
        num_prompt_tokens=row["num_prompt_tokens"],
        num_cached_tokens=0,
        num_completion_tokens=row["num_completion_tokens"],
        seconds=row["seconds"],
    )


def as_score(row: dict[str, Any], verifier: str) -> Score:
    """What a verifier said of a row's proposal."""
    seconds = row[f"seconds_{verifier}"]
    return Score(
        proposal_id=f"{row['step_id']}/{row['model']}/{row['sample']}",
        verifier_id=verifier,
        log_odds=row[f"log_odds_{verifier}"],
        num_tokens=0,
        num_cached_tokens=0,
        seconds=float("nan") if seconds is None else seconds,
    )


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
