"""`specact evaluate`: gates, systems A to E and their report from one table."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from specact_rl.cli.shared import EXIT_OK, logger, refuse_existing
from specact_rl.errors import ConfigError

if TYPE_CHECKING:
    from specact_rl.cli.shared import Subparsers
    from specact_rl.types import SplitName

_MODEL_OPTIONS = {"cheap": "cheap", "strong": "strong", "cheap_dpo": "dpo"}
"""Option that names a model, by its role."""


def add_evaluate(subparsers: Subparsers) -> None:
    """Declare `specact evaluate`."""
    parser = subparsers.add_parser(
        "evaluate",
        help="systems A-E, gates and report from one table of proposals, labels and scores",
        description="Fit gates on the calibration rows of a table, freeze them, and evaluate every "
        "system that the table allows on its test rows. A row is a proposal of one model at one "
        "step; a column log_odds_NAME (or p_NAME) holds what a verifier said of it. No model "
        "runs. The columns are listed in docs/data-formats.md.",
        epilog="example:\n"
        "  specact evaluate table.parquet --cheap small --strong large --out runs/mine\n\n"
        "columns: step_id, task_id, model, acceptable; optional are split, sample, parsed,\n"
        "action_hash, rollout_id, step_index, token counts, seconds, price and more",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "table",
        type=Path,
        metavar="FILE",
        help="Parquet, or CSV with a header; or the folder of a finished `specact run`, which has "
        "its models and seed",
    )
    parser.add_argument("--cheap", metavar="MODEL", help="who proposes")
    parser.add_argument("--strong", metavar="MODEL", help="who is fallen back on")
    parser.add_argument(
        "--dpo", metavar="MODEL", help="another proposer, of the systems B-dpo and D-dpo"
    )
    parser.add_argument(
        "--verifier",
        metavar="NAME",
        help="of D and E (default: the first column that is no judge and not free); each further "
        "one has a D and an E of its own",
    )
    parser.add_argument(
        "--judge",
        metavar="NAME",
        help="verifier that is the strong model itself, of C (default: strong_judge, if there)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE.parquet",
        help="write the outcomes of a run as such a table, to a new file, and nothing else",
    )
    parser.add_argument(
        "--systems", nargs="+", default=[], metavar="NAME", help="only these, and A (default: all)"
    )
    parser.add_argument(
        "--cost-weight",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="accuracy that one strong call is worth when thresholds are chosen (default: 0.02)",
    )
    parser.add_argument(
        "--params",
        metavar="NAME=BILLIONS,...",
        help="parameters, as in cheap=1.7,strong=8,NAME=4 with names of verifiers; with token "
        "counts in the table they give FLOPs",
    )
    parser.add_argument(
        "--num-resamples",
        type=int,
        metavar="N",
        help="draws of each interval (default: 10000; 1000 from 20,000 test steps on)",
    )
    parser.add_argument(
        "--calibration-share",
        type=float,
        default=0.4,
        help="share of the tasks that gates are fitted on, if there is no column split "
        "(default: 0.4)",
    )
    parser.add_argument(
        "--seed", type=int, help="of split, fits and intervals (default: 0, or the run's)"
    )
    parser.add_argument(
        "--no-report", action="store_true", help="write gates and results.json only"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an evaluation of something else"
    )
    parser.set_defaults(run=run_evaluate)


def run_evaluate(args: argparse.Namespace) -> int:
    """Write the folder and end with its table, its verdicts and the report's path."""
    if args.export is not None:
        return _export(args)
    if args.out is not None and args.table.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "outcomes.parquet"
            models, seed = _write_table(args.table, path)
            for role, name in models.items():
                option = _MODEL_OPTIONS[role]
                setattr(args, option, getattr(args, option) or name)
            args.seed = seed if args.seed is None else args.seed
            return _evaluate(args, path)
    return _evaluate(args, args.table)


def _evaluate(args: argparse.Namespace, path: Path) -> int:
    missing = [f"--{name}" for name in ("cheap", "strong", "out") if getattr(args, name) is None]
    if missing:
        raise ConfigError(f"specact evaluate needs {', '.join(missing)}")
    from rich.console import Console

    from specact_rl.eval.report import terminal_summary
    from specact_rl.eval.table_outcomes import JUDGE, TablePlan
    from specact_rl.pipeline.table_evaluation import (
        EVALUATION,
        TableEvaluation,
        evaluate_table,
        parse_table_sizes,
    )

    models = {role: getattr(args, option) for role, option in _MODEL_OPTIONS.items()}
    asked = TableEvaluation(
        table=path,
        given_as=str(args.table),
        plan=TablePlan(
            models={role: name for role, name in models.items() if name is not None},
            verifier=args.verifier,
            judge=args.judge or JUDGE,
            sizes={} if args.params is None else parse_table_sizes(args.params),
            calibration_share=args.calibration_share,
            seed=args.seed or 0,
        ),
        systems=args.systems,
        cost_weight=args.cost_weight,
        num_resamples=args.num_resamples,
    )
    results = evaluate_table(
        asked,
        args.out,
        command=["specact", *args.argv],
        overwrite=args.overwrite,
        report=not args.no_report,
    )
    console = Console()
    terminal_summary(results, console)
    end = args.out / (EVALUATION if args.no_report else Path("report") / "report.html")
    console.print(f"{'results' if args.no_report else 'report'}: {end}", soft_wrap=True)
    return EXIT_OK


def _export(args: argparse.Namespace) -> int:
    refuse_existing(args.export, "--export")
    if args.export.suffix != ".parquet":
        raise ConfigError(f"--export must name a .parquet file, got {args.export}")
    models, seed = _write_table(args.table, args.export)
    options = " ".join(f"--{_MODEL_OPTIONS[role]} {name}" for role, name in models.items())
    print(f"specact evaluate {args.export} {options} --seed {seed} --out DIR")
    return EXIT_OK


def _write_table(run: Path, path: Path) -> tuple[dict[str, str], int]:
    """Write the outcomes of a run as a table; returns its models by role, and its seed."""
    from specact_rl.eval.table_export import export_outcomes
    from specact_rl.pipeline.artifacts import finished_run

    artifacts = finished_run(run)
    splits: tuple[SplitName, ...] = ("calibration", "test")
    outcomes = {split: artifacts.outcomes(split) for split in splits}
    if artifacts.servers.judge is not None:
        # A table's strong_judge is the strong model itself, which acts at every step anyway.
        logger.warning("left out C: a table cannot say what a server was paid for judging")
        outcomes = {
            split: replace(
                each, judged={k: v for k, v in each.judged.items() if k[0] != "strong_judge"}
            )
            for split, each in outcomes.items()
        }
    test = outcomes["test"]
    count = export_outcomes(outcomes, path)
    logger.info("wrote %d rows to %s", count, path)
    models = {role: columns.model_id for role, columns in test.columns.items()}
    return models, artifacts.seed
