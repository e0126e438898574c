"""The `specact` command: arguments in, one library call, results to stdout or to files.

Each subcommand is an `add_<name>` that declares its arguments and a `run_<name>` that imports
what it needs, so that `--help` stays quick. Logging is configured here and nowhere else.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from specact_rl import __version__
from specact_rl.errors import ConfigError, SpecActError
from specact_rl.types import SPLITS

if TYPE_CHECKING:
    from specact_rl.metrics.cost import TokenPrice
    from specact_rl.models.language_model import Proposer

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

# Not __name__, which is "__main__" under python -m.
logger = logging.getLogger("specact_rl.cli")

EXIT_OK = 0
EXIT_MISUSE = 2
EXIT_INTERRUPTED = 130

EPILOG = """\
example:
  specact run --preset tiny --out runs/demo
  specact repeats runs/seed0 runs/seed1 runs/seed2
  specact check my_logs/
  specact import my_logs/ --out runs/rollouts
  specact study my_logs/ --cheap small --strong large --out runs/study
  specact outcomes --rollouts runs/rollouts --model my_proposer --out runs/proposals
  specact recipes --list
  specact calibrate --table scores.csv --score log_odds --label acceptable --cluster task_id

exit codes: 0 done, 1 findings, 2 misuse or an input that does not fit, 130 interrupted
"""


def add_calibrate(subparsers: Subparsers) -> None:
    """Declare `specact calibrate`."""
    parser = subparsers.add_parser(
        "calibrate", help="turn a table of scores and labels into a gate with error bars"
    )
    parser.add_argument(
        "--table", type=Path, required=True, metavar="FILE", help="CSV with a header, or Parquet"
    )
    parser.add_argument(
        "--score", required=True, metavar="COL", help="score of a proposal, higher is better"
    )
    parser.add_argument(
        "--label",
        required=True,
        metavar="COL",
        help="whether it was acceptable: 0/1, true/false, empty where unknown",
    )
    parser.add_argument(
        "--cluster",
        metavar="COL",
        help="task of the row; a task is never split or resampled in part (default: each row "
        "is a task of its own, which makes intervals too narrow where that is not so)",
    )
    parser.add_argument(
        "--scale",
        choices=["log_odds", "probability"],
        default="log_odds",
        help="log_odds for any real score, probability for scores in [0, 1] (default: log_odds)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of split and bootstrap (default: 0)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", help="write the report as JSON too, to a new file"
    )
    parser.add_argument(
        "--gate",
        type=Path,
        metavar="FILE.json",
        help="write calibrator and threshold as a gate, to a new file; it decides on log-odds, "
        "with --scale probability on log(p / (1 - p))",
    )
    parser.set_defaults(run=run_calibrate)


def run_calibrate(args: argparse.Namespace) -> int:
    """Print the report as Markdown, and write what was asked for."""
    from specact_rl.eval.score_table import calibrate_scores, read_score_table, table_gate
    from specact_rl.store import write_json

    _refuse_existing(args.out)
    _refuse_existing(args.gate, "--gate")
    if args.gate is not None and args.gate == args.out:
        raise ConfigError(f"--gate and --out must be two files, got {args.gate} for both")
    table = read_score_table(args.table, args.score, args.label, args.cluster)
    try:
        report = calibrate_scores(
            table.scores, table.labels, table.clusters, seed=args.seed, scale=args.scale
        )
    except ValueError as error:  # the scores do not lie on the scale that was asked for
        raise ConfigError(f"{args.table}, column {args.score!r}: {error}") from error
    print(report.to_markdown(), end="")
    if args.out is not None:
        write_json(args.out, report.to_json())
        logger.info("wrote %s", args.out)
    if args.gate is not None:
        gate = table_gate(
            report, args.table, score=args.score, label=args.label, cluster=args.cluster
        )
        write_json(args.gate, gate.to_json())
        logger.info("wrote %s", args.gate)
    return EXIT_OK


def add_recipes(subparsers: Subparsers) -> None:
    """Declare `specact recipes`."""
    parser = subparsers.add_parser(
        "recipes", help="list the training recipes and data builders, or copy them out"
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--list", action="store_true", help="one line on each, with its path")
    action.add_argument(
        "--copy", type=Path, metavar="DIR", help="copy them with their configs to DIR"
    )
    parser.set_defaults(run=run_recipes)


def run_recipes(args: argparse.Namespace) -> int:
    """List the programs, or copy them."""
    from specact_rl.programs import copy_programs, list_programs

    if args.copy is not None:
        for folder in copy_programs(args.copy):
            print(folder)
        return EXIT_OK
    for program in list_programs():
        print(f"{program.kind}/{program.name}\t{program.summary}\t{program.path}")
    return EXIT_OK


def add_import(subparsers: Subparsers) -> None:
    """Declare `specact import`."""
    parser = subparsers.add_parser(
        "import",
        help="read a log of any known format into a rollouts folder, split by task",
        description="Say which format a log has and why, and write its rollouts, split by task and "
        "checked for leaks. Ends with the counts, what was dropped, and doubts about the labels.",
    )
    _add_log_arguments(parser)
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


def _add_log_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", type=Path, metavar="PATH", help="file or folder of one format")
    parser.add_argument(
        "--importer",
        metavar="NAME",
        help="name of a format, a mapping.yaml, or FILE.py:FUNCTION (default: look at the log)",
    )


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


def add_outcomes(subparsers: Subparsers) -> None:
    """Declare `specact outcomes`."""
    parser = subparsers.add_parser(
        "outcomes",
        help="let a model propose at every step of a rollouts folder, and a verifier judge",
        description="Run a proposer once over the steps of tasks that it was not trained on, and "
        "write what it proposed with labels; --verifier and --scores also write what a verifier "
        "says of that. Rollouts of the workspace are labelled by it, foreign ones by the step's "
        "reference action; without one the label is unknown. A killed run goes on where it was. "
        "With --from-logs no model runs: what two models of the log answered is the table.",
    )
    parser.add_argument(
        "--rollouts",
        type=Path,
        required=True,
        metavar="DIR",
        help="rollouts folder, which `specact import` writes",
    )
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--from-logs",
        action="store_true",
        help="take the answers of --cheap and --strong from the log, as its verdicts judge them",
    )
    who.add_argument(
        "--model",
        metavar="FOLDER|URL",
        help="checkpoint of a proposer, or base URL of an OpenAI-compatible server (vLLM, SGLang, "
        "llama.cpp, transformers serve, a hosted API), such as http://localhost:8000/v1",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the proposals table"
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=SPLITS,
        default=["train_verifier", "calibration", "test"],
        metavar="SPLIT",
        help="whose tasks (default: train_verifier calibration test)",
    )
    parser.add_argument(
        "--num-samples",
        type=int,
        default=1,
        help="proposals at a step, the first one greedy (default: 1)",
    )
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="of the further ones (default: 1)"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        help="longest proposal; text beyond is cut off and no action (default: 48, of a server "
        "1024)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument(
        "--verifier",
        type=Path,
        metavar="FOLDER",
        help="checkpoint of a verifier or reward model that judges the proposals; needs --scores",
    )
    parser.add_argument("--scores", type=Path, metavar="DIR", help="folder of the scores table")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace folders made from other things"
    )
    _add_pair_arguments(parser.add_argument_group("if --from-logs"))
    _add_server_arguments(parser)
    parser.set_defaults(run=run_outcomes)


def _add_pair_arguments(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--cheap",
        metavar="MODEL",
        help="name of the cheap model in the log, or a part of it that no other has; M#2 is the "
        "second trial of M",
    )
    parser.add_argument("--strong", metavar="MODEL", help="likewise, the model to fall back on")


def _add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """None where they are not given: `ChatModel` has the defaults, and a folder takes none."""
    server = parser.add_argument_group(
        "if the model is a URL",
        "The key, where the server wants one, comes from an environment variable and is written "
        "nowhere. Each sample is one request. What was answered before a server failed is kept: "
        "the same command goes on from there. The server renders the prompts itself, so the "
        "manifest says parity: unverified; switch thinking off when you start the server.",
    )
    server.add_argument(
        "--model-name",
        metavar="NAME",
        help="model as the server calls it, needed; what it was started with, or listed at "
        "URL/models",
    )
    server.add_argument(
        "--api-key-env",
        metavar="VARIABLE",
        help="environment variable whose value, if it has one, is sent to the server as the key "
        "(default: OPENAI_API_KEY)",
    )
    server.add_argument(
        "--concurrency", type=int, metavar="N", help="requests at a time (default: 8)"
    )
    server.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="longest wait for an answer (default: 120)"
    )
    server.add_argument(
        "--max-retries",
        type=int,
        metavar="N",
        help="further tries after 429, 5xx, a timeout, a cut connection or an unreadable answer "
        "(default: 6, which waits about half a minute in all)",
    )
    server.add_argument(
        "--logprobs",
        action="store_true",
        default=None,
        help="ask for log-probabilities, which the verifier proposer_logprob needs; a server that "
        "gives none is refused",
    )
    server.add_argument(
        "--unanswered",
        choices=["stop", "unparsable"],
        help="what becomes of a step at which the server always answers 400, 413, 422 or 500, say "
        "because its history is too long: the run ends, or the proposal is unparsable, with that "
        "as the reason (default: stop)",
    )
    server.add_argument(
        "--price-per-million",
        metavar="IN,OUT[,CACHED]",
        help="US dollars per million prompt, completion and cached prompt tokens; fills in the "
        "column price (cached: default as IN)",
    )


_SERVER_OPTIONS = (
    "model_name",
    "api_key_env",
    "concurrency",
    "timeout",
    "max_retries",
    "logprobs",
    "unanswered",
    "price_per_million",
)


def run_outcomes(args: argparse.Namespace) -> int:
    """Write the tables and print their folders."""
    if args.from_logs:
        return _outcomes_from_logs(args)
    from transformers.utils import logging as transformers_logging

    from specact_rl.eval.collect import collect_proposals, collect_scores
    from specact_rl.mining.build_rollouts import read_rollouts
    from specact_rl.models.language_model import Sampling
    from specact_rl.progress import progress_bars
    from specact_rl.verifiers import ClassifierVerifier

    if (args.verifier is None) != (args.scores is None):
        raise ConfigError("--verifier and --scores must be given together, got one of them")
    folders = [path for path in (args.rollouts, args.out, args.scores) if path is not None]
    if len({path.resolve() for path in folders}) < len(folders):
        raise ConfigError(
            f"rollouts, proposals and scores must have folders of their own, got {folders!r}"
        )
    longest = args.max_new_tokens
    if longest is None:
        longest = _longest(args.model)
    sampling = Sampling(
        num_samples=args.num_samples,
        temperature=args.temperature,
        max_new_tokens=longest,
        seed=args.seed,
    )
    total = len(read_rollouts(args.rollouts, args.splits))
    if not total:
        raise ConfigError(f"{args.rollouts} has no rollout in {args.splits!r}; name other --splits")
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = _proposer(args.model, args)
    verifier = None if args.verifier is None else ClassifierVerifier.load(args.verifier)
    with progress_bars() as bar:
        name = args.model_name or Path(args.model).name
        with bar(f"{name} proposes", total) as advance:
            proposals = collect_proposals(
                args.rollouts,
                args.out,
                model,
                args.splits,
                sampling=sampling,
                overwrite=args.overwrite,
                progress=advance,
            )
        if verifier is not None:
            with bar(f"{args.verifier.name} judges", total) as advance:
                collect_scores(
                    args.rollouts,
                    args.out,
                    args.scores,
                    verifier,
                    verifier.renderer,
                    args.splits,
                    overwrite=args.overwrite,
                    progress=advance,
                )
    prices = [p.price for p in proposals if p.price is not None]
    if prices:
        logger.info("%d of %d proposals cost $%.4f", len(prices), len(proposals), sum(prices))
    print(*folders[1:], sep="\n")
    return EXIT_OK


def _longest(model: str | None) -> int:
    """Tokens that a proposal may have by default: a server's model may think first."""
    return 1024 if model is not None and _is_url(model) else 48


def _outcomes_from_logs(args: argparse.Namespace) -> int:
    from specact_rl.eval.log_outcomes import AGREEMENT, outcomes_from_logs

    if args.cheap is None or args.strong is None:
        raise ConfigError("--from-logs needs two models of the log, --cheap and --strong")
    counts = outcomes_from_logs(
        args.rollouts,
        args.out,
        cheap=args.cheap,
        strong=args.strong,
        splits=args.splits,
        overwrite=args.overwrite,
    )
    print(*(f"{key.replace('_', ' ')}\t{counts[key]}" for key in ("tasks", *AGREEMENT)), sep="\n")
    print(args.out)
    return EXIT_OK


def _is_url(model: str) -> bool:
    return model.lower().startswith(("http://", "https://"))


def _proposer(model: str, args: argparse.Namespace) -> Proposer:
    """The checkpoint or the server, refusing options of the one for the other."""
    from specact_rl.models.chat_client import ChatModel
    from specact_rl.models.language_model import LanguageModel

    given = {name: getattr(args, name) for name in _SERVER_OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    if not _is_url(model):
        if given:
            option = "--" + next(iter(given)).replace("_", "-")
            raise ConfigError(
                f"{option} is for a server, but the model is the folder {model!r}; give the "
                "server's URL, such as http://localhost:8000/v1"
            )
        return LanguageModel.load(Path(model))
    if "price_per_million" in given:
        given["price"] = _token_price(given.pop("price_per_million"))
    return ChatModel(base_url=model, **({"model_name": ""} | given))


def _token_price(text: str) -> TokenPrice:
    from specact_rl.metrics.cost import TokenPrice

    try:
        prompt, completion, *rest = (float(part) for part in text.split(","))
        (cached,) = rest or (prompt,)
        return TokenPrice(prompt=prompt, cached=cached, completion=completion)
    except ValueError as error:
        raise ConfigError(
            f"--price-per-million must be two or three prices such as 0.5,1.5, got {text!r}"
        ) from error


def add_check(subparsers: Subparsers) -> None:
    """Declare `specact check`."""
    parser = subparsers.add_parser(
        "check",
        help="say what a log supports before anyone trains on it",
        description="Count what can be learnt from a log and what can be shown with it: outcomes, "
        "pairs, labels, headroom, smallest visible difference. Takes a log of any known format or "
        "a rollouts folder, and writes nothing but --out.",
    )
    _add_log_arguments(parser)
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

    _refuse_existing(args.out)
    log = load_log(args.log, args.importer, tool_types=args.tool_types)
    if not log.result.rollouts:
        raise ConfigError(f"{args.log} holds no rollout; dropped {log.result.dropped!r}")
    check = check_log(log, args.log)
    print(check_page(check), end="")
    if args.out is not None:
        write_json(args.out, check.to_json())
        logger.info("wrote %s", args.out)
    return EXIT_OK


def _refuse_existing(out: Path | None, option: str = "--out") -> None:
    if out is not None and out.exists():
        raise ConfigError(f"{out} exists and is not overwritten; choose another {option}")


def add_run(subparsers: Subparsers) -> None:
    """Declare `specact run`."""
    parser = subparsers.add_parser(
        "run",
        help="the whole path: tasks, training, gates, systems A-E, live episodes, report",
        description="Run a preset from nothing to a report. The same command goes on with a run "
        "that was stopped, and skips what is finished.",
    )
    parser.add_argument(
        "--preset",
        default="tiny",
        metavar="NAME",
        help="tiny (CPU, minutes), smoke (CPU, about a minute, numbers mean nothing) or qwen3 "
        "(GPU; Qwen3 1.7B, 4B, 8B) (default: tiny)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the run, made if absent"
    )
    parser.add_argument("--seed", type=int, default=0, help="of tasks, training and sampling")
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="pretrain the tiny bases first, instead of taking the shipped ones; not for qwen3",
    )
    parser.set_defaults(run=run_run)


def run_run(args: argparse.Namespace) -> int:
    """Run the preset and end with its table, its verdicts and the report's path."""
    from rich.console import Console
    from transformers.utils import logging as transformers_logging

    from specact_rl.eval.report import terminal_summary
    from specact_rl.pipeline import run_preset
    from specact_rl.presets import find_preset
    from specact_rl.progress import progress_bars

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    preset = find_preset(args.preset)
    command = ["specact", "run", "--preset", args.preset, "--out", str(args.out)]
    command += ["--seed", str(args.seed), *(["--from-scratch"] if args.from_scratch else [])]
    with progress_bars() as bar:
        results = run_preset(
            preset,
            args.out,
            seed=args.seed,
            progress=bar,
            command=command,
            from_scratch=args.from_scratch,
        )
    console = Console()
    terminal_summary(results, console)
    console.print(f"report: {args.out / 'report' / 'report.html'}", soft_wrap=True)
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
    _add_log_arguments(parser)
    _add_pair_arguments(parser)
    parser.add_argument(
        "--propose-with",
        metavar="FOLDER|URL",
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
        "training tasks; FILE.py:CLASS, likewise; or the folder of one that another study has "
        "fitted (DIR/outcomes/cheap--trained/verifier), which then stays as it is (default: trees)",
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
    _add_server_arguments(parser)
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
        proposer=None if args.propose_with is None else _proposer(args.propose_with, args),
        max_new_tokens=_longest(args.propose_with),
        importer=args.importer,
        sizes={} if args.params is None else parse_sizes(args.params),
        verifier=args.verifier,
        fractions=FRACTIONS if args.fractions is None else parse_fractions(args.fractions),
        cost_weight=args.call_worth,
        num_samples=args.num_samples,
        seed=args.seed,
    )
    with progress_bars() as bar:
        results = run_study(plan, args.out, progress=bar, command=["specact", *args.argv])
    console = Console()
    terminal_summary(results, console)
    console.print(f"report: {args.out / 'report' / 'report.html'}", soft_wrap=True)
    return EXIT_OK


def add_report(subparsers: Subparsers) -> None:
    """Declare `specact report`."""
    parser = subparsers.add_parser(
        "report",
        help="write the report of a finished run again",
        description="Write report.html, report.md and figures from a run's results, which stay as "
        "they are; no model runs and nothing is measured again.",
    )
    parser.add_argument("results", type=Path, metavar="DIR", help="folder that `specact run` wrote")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the report (default: DIR/report)"
    )
    parser.set_defaults(run=run_report)


def run_report(args: argparse.Namespace) -> int:
    """Write the files and print the page's path."""
    from specact_rl.eval.report import write_report

    print(write_report(_read_results(args.results), args.out or args.results / "report")[-1])
    return EXIT_OK


def _read_results(run: Path) -> dict[str, Any]:
    from specact_rl.store import read_json

    path = run / "evaluation" / "results.json"
    if not path.is_file():
        raise ConfigError(f"{run} must be a finished run of `specact run`, but has no {path}")
    found = read_json(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path} must hold a JSON object, got {type(found).__name__}")
    return found


def add_repeats(subparsers: Subparsers) -> None:
    """Declare `specact repeats`."""
    parser = subparsers.add_parser(
        "repeats",
        help="which claims repeat over several runs of one preset",
        description="Hold finished runs of one preset with different seeds side by side: each "
        "declared claim in each run, its mean, and in how many runs it holds. Prints Markdown.",
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="DIR", help="folders of `specact run`"
    )
    parser.set_defaults(run=run_repeats)


def run_repeats(args: argparse.Namespace) -> int:
    """Print the page."""
    from specact_rl.eval.repeats import repeats_page

    print(repeats_page([_read_results(folder) for folder in args.runs]), end="")
    return EXIT_OK


SUBCOMMANDS: tuple[Callable[[Subparsers], None], ...] = (
    add_run,
    add_report,
    add_repeats,
    add_check,
    add_import,
    add_study,
    add_outcomes,
    add_calibrate,
    add_recipes,
)
"""In the order of `specact --help`."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="specact",
        description="Mine pairs, train, gate, calibrate and evaluate speculative tool actions.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"specact {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in SUBCOMMANDS:
        add(subparsers)
    return parser


class CurrentStderrHandler(logging.StreamHandler[TextIO]):
    """Logs to whatever stderr is now, so that lines go above progress bars and not through them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = sys.stderr
        super().emit(record)


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Show the library's log on stderr while a command runs, at level INFO."""
    library = logging.getLogger("specact_rl")
    previous_level = library.level
    handler = CurrentStderrHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    library.addHandler(handler)
    library.setLevel(logging.INFO)
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.setLevel(previous_level)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Raises:
        SystemExit: argparse ends the process itself on --help (0) and on bad arguments (2).
    """
    args = build_parser().parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    run: Callable[[argparse.Namespace], int] = args.run
    with logging_to_stderr():
        try:
            return run(args)
        except SpecActError as error:
            print(f"specact: error: {error}", file=sys.stderr)
            return EXIT_MISUSE
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
