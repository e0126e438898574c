"""`specact check`, `import` and `study`: logs of one's own, before and without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from specact_rl.cli.shared import (
    EXIT_OK,
    add_judge_arguments,
    add_log_arguments,
    add_pair_arguments,
    add_server_arguments,
    judge_of,
    logger,
    longest_proposal,
    proposer_of,
    refuse_existing,
)
from specact_rl.errors import ConfigError

if TYPE_CHECKING:
    from specact_rl.cli.shared import Subparsers


def add_check(subparsers: Subparsers) -> None:
    """Declare `specact check`."""
    parser = subparsers.add_parser(
        "check",
        help="say what a log supports before anyone trains on it",
        description="Count what can be learnt from a log and what can be shown with it: outcomes, "
        "pairs, labels, headroom, smallest visible difference. Takes a log of any known format or "
        "a rollouts folder, and writes nothing but --out.",
    )
    add_log_arguments(parser)
    parser.add_argument(
        "--tool-types",
        metavar="TABLE",
        help="table of the tools' action types, built in or a FILE.toml (default: the format's)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", help="write the numbers as JSON too, to a new file"
    )
    parser.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> int:
    """Print the page."""
    from specact_rl.eval.log_check import check_log, load_log
    from specact_rl.eval.log_check_page import check_page
    from specact_rl.store import write_json

    refuse_existing(args.out)
    log = load_log(args.log, args.importer, tool_types=args.tool_types)
    if not log.result.rollouts:
        raise ConfigError(f"{args.log} holds no rollout; dropped {log.result.dropped!r}")
    check = check_log(log, args.log)
    print(check_page(check), end="")
    if args.out is not None:
        write_json(args.out, check.to_json())
        logger.info("wrote %s", args.out)
    return EXIT_OK


def add_import(subparsers: Subparsers) -> None:
    """Declare `specact import`."""
    parser = subparsers.add_parser(
        "import",
        help="read a log of any known format into a rollouts folder, split by task",
        description="Say which format a log has and why, and write its rollouts, split by task and "
        "checked for leaks. Ends with the counts, what was dropped, and doubts about the labels.",
    )
    add_log_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--fractions",
        metavar="SPLIT=SHARE,...",
        help="shares of the tasks (default: train_proposer=0.4,train_verifier=0.25,"
        "calibration=0.15,test=0.2)",
    )
    parser.add_argument(
        "--held-out-family",
        nargs="*",
        default=[],
        metavar="NAME",
        help="families whose tasks all go to test",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a folder made from other things"
    )
    parser.set_defaults(run=run_import)


def run_import(args: argparse.Namespace) -> int:
    """Write the folder, and print what it was made from."""
    from specact_rl.eval.log_check import read_flags
    from specact_rl.eval.log_check_page import import_page
    from specact_rl.logs.sniff import sniff
    from specact_rl.mining.build_rollouts import import_rollouts, parse_fractions
    from specact_rl.mining.splits import DEFAULT_FRACTIONS

    importer, reason = args.importer, "as asked for"
    if importer is None:
        found = sniff(args.log)
        importer, reason = found.importer, found.reason
    manifest = import_rollouts(
        args.log,
        args.out,
        importer=importer,
        fractions=DEFAULT_FRACTIONS if args.fractions is None else parse_fractions(args.fractions),
        held_out_families=args.held_out_family,
        seed=args.seed,
        overwrite=args.overwrite,
    )
    page = import_page(
        importer=importer,
        reason=reason,
        counts=manifest.counts,
        dropped=manifest.dropped,
        flags=read_flags(args.out),
    )
    print(f"{page}\n{args.out}")
    return EXIT_OK


def add_study(subparsers: Subparsers) -> None:
    """Declare `specact study`."""
    parser = subparsers.add_parser(
        "study",
        help="from logs to a report: verifier, calibration, gates between two models, statistics",
        description="Study gates on logs of any known format, without running a model: a verifier "
        "is fitted on training tasks, calibrated and gated on others, and every system that the "
        "log allows is measured on the test tasks. Of a log with one model, its second trials "
        "stand in for a strong one, or --propose-with adds a model.",
        epilog="examples:\n"
        "  specact study bfcl/ --cheap Meta-Llama-3-8B --strong Meta-Llama-3-70B --out runs/llama\n"
        "  specact study airline.json --out runs/retry\n"
        "  specact study airline.json --propose-with my_proposer --out runs/mine",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_log_arguments(parser)
    add_pair_arguments(parser)
    parser.add_argument(
        "--propose-with",
        metavar="FOLDER|URL#NAME",
        help="checkpoint of a proposer, or base URL of an OpenAI-compatible server, that is asked "
        "at every step of the strong model's successful episodes; right is what the log did there",
    )
    parser.add_argument(
        "--num-samples",
        type=int,
        default=3,
        help="proposals of --propose-with at a step (default: 3)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--verifier",
        default="trees",
        metavar="NAME",
        help="D's verifier: trees, linear or encoder:FOLDER_OR_HUB_ID, fitted on this log's "
        "training tasks; FILE.py:CLASS, likewise; URL#NAME, a server's model that is asked "
        "yes or no; or the folder of one that another study has fitted "
        "(DIR/outcomes/cheap--trained/verifier), which then stays as it is (default: trees)",
    )
    parser.add_argument(
        "--params",
        metavar="ROLE=BILLIONS,...",
        help="parameters, as in cheap=8,strong=70; with token counts in the log they give FLOPs",
    )
    parser.add_argument(
        "--fractions",
        metavar="SPLIT=SHARE,...",
        help="shares of the tasks (default: train_verifier=0.35,calibration=0.3,test=0.35)",
    )
    parser.add_argument(
        "--call-worth",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="accuracy that one strong call is worth when D's threshold is chosen (default: 0.02)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of split, fits and intervals")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a study of another log, split or seed"
    )
    add_server_arguments(parser)
    add_judge_arguments(parser)
    parser.set_defaults(run=run_study_command)


def run_study_command(args: argparse.Namespace) -> int:
    """Write the study and end with its table, its verdicts and the report's path."""
    from rich.console import Console

    from specact_rl.eval.report import terminal_summary
    from specact_rl.mining.build_rollouts import parse_fractions
    from specact_rl.pipeline.study import StudyPlan, run_study
    from specact_rl.pipeline.study.base import FRACTIONS, parse_sizes
    from specact_rl.progress import progress_bars

    if (args.cheap is None) != (args.strong is None) and args.propose_with is None:
        raise ConfigError("--cheap and --strong must be given together, got one of them")
    if args.cheap is not None and args.propose_with is not None:
        raise ConfigError("--propose-with is the cheap model, so --cheap must not be given, too")
    plan = StudyPlan(
        log=args.log,
        cheap=args.cheap,
        strong=args.strong,
        proposer=None
        if args.propose_with is None
        else proposer_of(args.propose_with, args, args.verifier),
        max_new_tokens=longest_proposal(args.propose_with),
        importer=args.importer,
        sizes={} if args.params is None else parse_sizes(args.params),
        verifier=judge_of(args.verifier, args) or args.verifier,
        fractions=FRACTIONS if args.fractions is None else parse_fractions(args.fractions),
        cost_weight=args.call_worth,
        num_samples=args.num_samples,
        seed=args.seed,
        overwrite=args.overwrite,
    )
    with progress_bars() as bar:
        results = run_study(plan, args.out, progress=bar, command=["specact", *args.argv])
    console = Console()
    terminal_summary(results, console)
    console.print(f"report: {args.out / 'report' / 'report.html'}", soft_wrap=True)
    return EXIT_OK
