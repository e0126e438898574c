"""Which method, and which pairs, teach a proposer most: one start, one price, held-out tasks.

    python benchmarks/bench_preferences.py [RUN ...] [--out DIR] [--write docs/results]

RUN is the folder of `specact run --preset tiny --seed N`, read only, and may be unfinished after
its stage "cheap proposes"; runs that are not there are skipped. What is there in DIR is not made
again, so a killed comparison goes on. `--methods` takes variants as NAME+KEY=VALUE, and `--split
calibration` is for choosing settings.
"""

from __future__ import annotations

import argparse
import logging
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from specact_rl import __version__
from specact_rl.errors import SpecActError
from specact_rl.eval.method_report import against, comparison_page, over_seeds, seed_results
from specact_rl.pipeline.artifacts import begun_run
from specact_rl.pipeline.folders import Folders
from specact_rl.pipeline.methods.catalogue import METHODS, START, find_method
from specact_rl.pipeline.methods.comparison import Comparison
from specact_rl.store import write_json

logger = logging.getLogger("specact_rl.bench_preferences")
NAME = "preference-methods"
REFERENCE = "dpo-same-prefix"
"""What other pairs and methods are compared with, beside the start."""
SEEDS = (1, 2, 3)
"""Claims are read from these; settings were chosen on seed 0."""


def main() -> None:
    """Run what is missing, and write the tables of what is there."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n", maxsplit=1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    runs = [Path("runs", f"seed{seed}") for seed in SEEDS]
    parser.add_argument("runs", nargs="*", type=Path, default=runs, metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"), help="may be unfinished")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="NAME")
    parser.add_argument("--budget", type=float, default=1.0, help="TFLOP of a method")
    parser.add_argument("--step-tasks", type=int, default=200, help="tasks with logged steps")
    parser.add_argument("--live-tasks", type=int, default=100, help="tasks that are played")
    parser.add_argument("--split", choices=["calibration", "test"], default="test")
    parser.add_argument("--only-report", action="store_true", help="train and evaluate nothing")
    parser.add_argument("--write", type=Path, help=f"folder for {NAME}-BUDGETtflop.md and .json")
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    for noisy in ("httpx", "datasets", "transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    found = [run for run in args.runs if Folders(root=run).identity.is_file()]
    for run in args.runs:
        if run not in found:
            print(f"skipped {run}: no run there; `specact run --preset tiny --seed N` makes one")
    if not found:
        return
    try:
        preset = begun_run(found[0]).preset.name
        write_results(args, preset, [compared(args, run) for run in found])
    except SpecActError as error:
        sys.stderr.write(f"bench_preferences: error: {error}\n")
        raise SystemExit(2) from error


def compared(args: argparse.Namespace, run: Path) -> dict[str, Any]:
    """The results of one seed, after what is missing has been run."""
    for name in args.methods:
        find_method(name)
    artifacts = begun_run(run)
    comparison = Comparison(
        run=artifacts,
        out=args.out / f"seed{artifacts.seed}",
        budget=args.budget * 1e12,
        num_step_tasks=args.step_tasks,
        num_live_tasks=args.live_tasks,
        evaluated=args.split,
    )
    names = [START, *args.methods]
    for name in [] if args.only_report else names:
        started = time.perf_counter()
        if name != START:
            comparison.train(name)
        trained = time.perf_counter()
        comparison.evaluate(name)
        now = time.perf_counter()
        logger.info(
            "seed %d, %s: %.0f s trained, %.0f s evaluated",
            *(artifacts.seed, name, trained - started, now - trained),
        )
    done = [name for name in names if comparison.is_measured(name)]
    measured = [comparison.measured(name) for name in done]
    return seed_results(artifacts.seed, measured, comparison.budget)


def write_results(args: argparse.Namespace, preset: str, seeds: list[dict[str, Any]]) -> None:
    """The page to stdout or, with its JSON, to a folder."""
    results = {
        "meta": {
            "preset": preset,
            "budget_tflop": args.budget,
            "split": args.split,
            "code_version": __version__,
            "machine": platform.machine(),
            "command": shlex.join(
                [
                    "python",
                    "benchmarks/bench_preferences.py",
                    *(f"runs/seed{seed['seed']}" for seed in seeds),
                    "--out",
                    "runs/methods",
                    "--budget",
                    f"{args.budget:g}",
                    "--step-tasks",
                    str(args.step_tasks),
                    "--live-tasks",
                    str(args.live_tasks),
                    *(["--methods", *args.methods] if args.methods != list(METHODS) else []),
                    *(["--split", args.split] if args.split != "test" else []),
                ]
            ),
        },
        "seeds": seeds,
        "means": over_seeds(seeds),
        "against": against(seeds, REFERENCE),
    }
    page = comparison_page(results)
    if args.write is None:
        sys.stdout.write(page)
        return
    args.write.mkdir(parents=True, exist_ok=True)
    name = f"{NAME}-{args.budget:g}tflop"
    write_json(args.write / f"{name}.json", results)
    (args.write / f"{name}.md").write_text(page, encoding="utf-8")
    sys.stdout.write(f"{args.write / name}.md\n")


if __name__ == "__main__":
    main()
