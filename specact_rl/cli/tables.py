"""`specact outcomes` and `calibrate`: tables of proposals and scores, and gates from them."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from specact_rl.cli.shared import (
    EXIT_OK,
    add_judge_arguments,
    add_pair_arguments,
    add_server_arguments,
    judge_of,
    logger,
    longest_proposal,
    proposer_of,
    refuse_existing,
)
from specact_rl.errors import ConfigError
from specact_rl.types import SPLITS, Proposal, Score

if TYPE_CHECKING:
    from specact_rl.cli.shared import Subparsers
    from specact_rl.verifiers import Verifier


# As in policy.thresholds, which takes scipy a second to load; a test compares them.
RULES = (
    "target_risk",
    "task_risk",
    "conformal_risk",
    "accept_rate",
    "utility",
    "chow",
    "cost",
)
LOSSES = ("wrong_among_accepted", "wrong_share", "any_wrong")


def add_outcomes(subparsers: Subparsers) -> None:
    """Declare `specact outcomes`."""
    parser = subparsers.add_parser(
        "outcomes",
        help="let a model propose at every step of a rollouts folder, and a verifier judge",
        description="Run a proposer once over the steps of tasks that it was not trained on, and "
        "write what it proposed with labels; --verifier and --scores also write what a verifier "
        "says of that. Rollouts of the workspace are labelled by it, foreign ones by the step's "
        "reference action; without one the label is unknown. A killed run goes on where it was. "
        "Several processes share the work: torchrun --nproc_per_node N -m specact_rl.cli outcomes "
        "..., or accelerate launch. With --from-logs no model runs: what two models of the log "
        "answered is the table.",
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
        metavar="FOLDER|ID|URL#NAME",
        help="checkpoint of a proposer, as a folder, a hub id or ID@REVISION, or base URL of an "
        "OpenAI-compatible server (vLLM, SGLang, llama.cpp, transformers serve, a hosted API), "
        "such as http://localhost:8000/v1, and its model behind #",
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
        "--distinct",
        action="store_true",
        help="draw without replacement: no two proposals of a step have the same text; they are "
        "written one after another, so that it takes longer; not for servers",
    )
    parser.add_argument(
        "--verifier",
        metavar="FOLDER|ID|URL#NAME",
        help="checkpoint of a verifier or reward model, likewise, that judges the proposals, or a "
        "server's model that is asked yes or no; needs --scores",
    )
    parser.add_argument("--scores", type=Path, metavar="DIR", help="folder of the scores table")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder of a checkpoint's proposals and scores by the hash of all that they depend on "
        "(weights, template, sampling, rollout, code), for all runs that name it: what is in it is "
        "not computed again, and has the seconds that it took then and there",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace folders made from other things"
    )
    add_pair_arguments(parser.add_argument_group("if --from-logs"))
    add_server_arguments(parser)
    add_judge_arguments(parser)
    parser.set_defaults(run=run_outcomes)


def run_outcomes(args: argparse.Namespace) -> int:
    """Write the tables and print their folders."""
    if args.from_logs:
        return _outcomes_from_logs(args)
    from transformers.utils import logging as transformers_logging

    from specact_rl.eval.collect import collect_proposals, collect_scores
    from specact_rl.eval.outcomes import num_steps
    from specact_rl.eval.team import Team
    from specact_rl.mining.build_rollouts import iter_rollouts
    from specact_rl.mining.chunks import PROPOSALS_FILE, SCORES_FILE
    from specact_rl.models.language_model import Sampling
    from specact_rl.progress import progress_bars
    from specact_rl.verifiers import ClassifierVerifier

    if (args.verifier is None) != (args.scores is None):
        raise ConfigError("--verifier and --scores must be given together, got one of them")
    folders: list[Path] = [args.rollouts, args.out]
    folders += [] if args.scores is None else [args.scores]
    if len({path.resolve() for path in folders}) < len(folders):
        raise ConfigError(
            f"rollouts, proposals and scores must have folders of their own, got {folders!r}"
        )
    longest = args.max_new_tokens
    if longest is None:
        longest = longest_proposal(args.model)
    sampling = Sampling(
        num_samples=args.num_samples,
        temperature=args.temperature,
        max_new_tokens=longest,
        seed=args.seed,
        distinct=args.distinct,
    )
    team = Team.of_environment()
    if not team.leads:
        logging.getLogger("specact_rl").setLevel(logging.WARNING)  # the first process tells
    total = num_steps(iter_rollouts(args.rollouts, args.splits))
    if not total:
        raise ConfigError(f"{args.rollouts} has no step in {args.splits!r}; name other --splits")
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    judge = judge_of(args.verifier, args)
    model = proposer_of(args.model, args, args.verifier)
    verifier: Verifier | None = judge
    if judge is None and args.verifier is not None:
        verifier = ClassifierVerifier.load(args.verifier)
    with progress_bars(shown=team.leads) as bar:
        name = args.model_name or Path(args.model).name.rpartition("#")[2]
        with bar(f"{name} proposes", total, "steps") as advance:
            collect_proposals(
                args.rollouts,
                args.out,
                model,
                args.splits,
                sampling=sampling,
                progress=advance,
                overwrite=args.overwrite,
                cache_dir=args.cache,
                team=team,
            )
        if verifier is not None:
            judges = f"{Path(args.verifier).name.rpartition('#')[2]} judges"
            with bar(judges, total, "steps") as advance:
                collect_scores(
                    args.rollouts,
                    args.out,
                    args.scores,
                    verifier,
                    getattr(verifier, "renderer", None),
                    args.splits,
                    progress=advance,
                    overwrite=args.overwrite,
                    cache_dir=args.cache,
                    team=team,
                )
    if team.leads:
        _tell_prices("proposals", args.out / PROPOSALS_FILE, Proposal)
        if args.scores is not None:
            _tell_prices("scores", args.scores / SCORES_FILE, Score)
        print(*folders[1:], sep="\n")
    return EXIT_OK


def _tell_prices(what: str, table: Path, record_type: type) -> None:
    from specact_rl.store import iter_columns

    prices = [p for cells in iter_columns(table, record_type, ["price"]) for p in cells["price"]]
    known = [price for price in prices if price is not None]
    if known:
        logger.info("%d of %d %s cost $%.4f", len(known), len(prices), what, sum(known))


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


def add_calibrate(subparsers: Subparsers) -> None:
    """Declare `specact calibrate`."""
    parser = subparsers.add_parser(
        "calibrate",
        help="turn a table of scores and labels into a gate with error bars",
        description="Split the rows of a table by task into thirds: fit a calibrator on one, "
        "choose a threshold on the next, report on the last. How the threshold is chosen is "
        "--rule. With a promise: target_risk (at most so many of the accepted are wrong, tested "
        "exactly on one row per task), task_risk (the same of whole tasks, all rows used), "
        "conformal_risk (so many of all steps are accepted and wrong, on average). Without: "
        "accept_rate, utility and chow (accuracy less what a fallback call is worth; chow takes "
        "the probabilities at their word), cost (most accurate within a budget). A promise is "
        "about new tasks like these, not about live episodes, in which an accepted mistake "
        "changes what follows.",
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
    _add_rule_arguments(parser.add_argument_group("how the threshold is chosen"))
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


def _add_rule_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--rule",
        default="target_risk",
        choices=RULES,
        help="target_risk, or task_risk where tasks have several rows, of which it makes more "
        "(default: target_risk)",
    )
    group.add_argument(
        "--target-risk",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="of the three risk rules: how much may go wrong; a verifier that cannot promise it "
        "accepts nothing, and the report says what it could promise (default: 0.1)",
    )
    group.add_argument(
        "--delta",
        type=float,
        default=0.1,
        metavar="CHANCE",
        help="that an unlucky table breaks the promise; conformal_risk has none, it promises an "
        "average (default: 0.1)",
    )
    group.add_argument(
        "--loss",
        choices=LOSSES,
        help="of a task: wrong_among_accepted is the share wrong among its accepted steps (for "
        "task_risk, its default), wrong_share the share of all its steps that are accepted and "
        "wrong (default of conformal_risk), any_wrong whether there is such a step",
    )
    group.add_argument(
        "--accept-rate", type=float, metavar="SHARE", help="of rule accept_rate: how much to accept"
    )
    group.add_argument(
        "--fallback-accuracy",
        type=float,
        metavar="SHARE",
        help="of utility, chow and cost: how often the fallback is right; taken to be the same on "
        "every row, which is what makes a cut on the score the best rule",
    )
    group.add_argument(
        "--cost-weight",
        type=float,
        default=0.02,
        metavar="ACCURACY",
        help="of utility and chow: accuracy that one unit of cost is worth (default: 0.02)",
    )
    group.add_argument(
        "--budget", type=float, metavar="COST", help="of cost: highest mean cost of a row"
    )
    group.add_argument(
        "--overhead",
        type=float,
        default=0.25,
        metavar="COST",
        help="of cost: proposing and verifying, paid on each row (default: 0.25)",
    )
    group.add_argument(
        "--fallback-cost",
        type=float,
        default=1.0,
        metavar="COST",
        help="of utility, chow and cost: one call of the fallback, paid where a row is rejected "
        "(default: 1)",
    )


def run_calibrate(args: argparse.Namespace) -> int:
    """Print the report as Markdown, and write what was asked for."""
    from specact_rl.eval.score_table import calibrate_scores, read_score_table, table_gate
    from specact_rl.policy.thresholds import ThresholdRequest
    from specact_rl.store import write_json

    refuse_existing(args.out)
    refuse_existing(args.gate, "--gate")
    if args.gate is not None and args.gate == args.out:
        raise ConfigError(f"--gate and --out must be two files, got {args.gate} for both")
    asked = ThresholdRequest(
        rule=args.rule,
        target_risk=args.target_risk,
        delta=args.delta,
        loss=args.loss,
        accept_rate=args.accept_rate,
        fallback_accuracy=args.fallback_accuracy,
        budget=args.budget,
        overhead=args.overhead,
        fallback_cost=args.fallback_cost,
        cost_weight=args.cost_weight,
    )
    table = read_score_table(args.table, args.score, args.label, args.cluster)
    try:
        report = calibrate_scores(
            table.scores,
            table.labels,
            table.clusters,
            seed=args.seed,
            scale=args.scale,
            asked=asked,
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
