"""The command lines of the data builders: what they share, and what becomes of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specact_rl.cluster import ENGINES
from specact_rl.errors import SpecActError
from specact_rl.mining.data_sets import DataSource
from specact_rl.rendering import Renderer
from specact_rl.types import SplitName

if TYPE_CHECKING:  # transformers takes seconds to import, and only the annotation needs it
    from transformers import PreTrainedTokenizerBase


def program_parser(doc: str | None, epilog: str) -> argparse.ArgumentParser:
    """A parser that shows the first line of the program's docstring, and the epilog as it is."""
    return argparse.ArgumentParser(
        description=(doc or "").splitlines()[0],
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


@contextmanager
def exit_on_error(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End the program with one line and exit code 2 where arguments or inputs do not fit."""
    try:
        yield
    except SpecActError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Add who acts in episodes, how often, and how models draw their actions."""
    parser.add_argument(
        "--policy",
        nargs="+",
        default=["expert", "noisy:0.15"],
        metavar="POLICY",
        help="expert, noisy:P with a share P of random actions, model:FOLDER, a trained model, "
        "or model:URL#NAME, a server's (default: expert noisy:0.15)",
    )
    parser.add_argument(
        "--trials",
        type=int,
        default=1,
        help="repeats of each policy that leaves something to chance (default: 1)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="of the models' draws; 0 is greedy, which leaves nothing to chance (default: 1)",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=48,
        help="longest turn of a model; text beyond is cut off and no action (default: 48)",
    )


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every rollouts folder needs: where to, and how its tasks are split."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--fractions",
        default="train_proposer=0.4,train_verifier=0.25,calibration=0.15,test=0.2",
        metavar="SPLIT=SHARE,...",
        help="shares of the tasks (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    _add_overwrite(parser)


def add_source_arguments(parser: argparse.ArgumentParser, *, split: SplitName) -> None:
    """Add what every data set needs: where from, where to, and how prompts are rendered.

    Args:
        parser: To add to.
        split: Default of `--split`.
    """
    parser.add_argument(
        "--rollouts", type=Path, required=True, metavar="DIR", help="rollouts folder"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="NAME",
        help="folder, hub id or ID@REVISION of the model to be trained; its chat template makes "
        "the rows",
    )
    parser.add_argument(
        "--chat-template",
        default="own",
        metavar="NAME",
        help="another one, which the model is then trained with: a name of TRL's, or a .jinja file "
        "(default: own)",
    )
    parser.add_argument(
        "--catalogue",
        choices=["compact", "template"],
        default="template",
        help="tools by the chat template, or in one line each (default: template)",
    )
    parser.add_argument(
        "--split",
        choices=["train_proposer", "train_verifier"],
        default=split,
        help="tasks that the rows come from (default: %(default)s)",
    )
    parser.add_argument(
        "--eval-fraction",
        type=float,
        default=0.0,
        help="share of these tasks whose rows become an eval split (default: 0)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all chance (default: 0)")
    _add_overwrite(parser)


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a folder made from other things"
    )


def add_proposals_argument(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the folders with proposals."""
    parser.add_argument(
        "--proposals",
        type=Path,
        nargs="+",
        required=required,
        default=[],
        metavar="DIR",
        help="folders with a proposals table, made on these rollouts",
    )


def add_pair_arguments(
    parser: argparse.ArgumentParser, *, strategies: Sequence[str], default: Sequence[str]
) -> None:
    """Add what pairs are mined, how many, and how they are judged."""
    parser.add_argument(
        "--strategies",
        nargs="+",
        choices=strategies,
        default=list(default),
        metavar="NAME",
        help=f"which pairs, earlier names first where two agree (default: {' '.join(default)})",
    )
    parser.add_argument(
        "--max-per-task",
        type=int,
        default=8,
        help="cap of each strategy on each task (default: 8)",
    )
    parser.add_argument(
        "--max-per-step", type=int, default=1, help="cap of each strategy on a step (default: 1)"
    )
    parser.add_argument(
        "--max-length-ratio",
        type=float,
        metavar="RATIO",
        help="leave out pairs whose longer side has more than RATIO times the tokens of the other, "
        "after the caps (default: keep all)",
    )
    parser.add_argument(
        "--max-turn-gap",
        type=int,
        metavar="N",
        help="leave out pairs whose sides differ by more than N messages (default: keep all)",
    )
    parser.add_argument(
        "--in-environment",
        action="store_true",
        help="rollouts of the workspace: judge hard negatives in it and measure pair precision",
    )
    parser.add_argument(
        "--precision-episodes",
        type=int,
        default=0,
        help="measure it by as many continuations a side (default: 0, by cost-to-go)",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="local",
        help="ray: mine on a Ray cluster (RAY_ADDRESS, else this machine's CPUs); needs "
        "specact_rl[ray], the rows are the same (default: local)",
    )


def add_judgement_arguments(parser: argparse.ArgumentParser, *, judges: Sequence[str]) -> None:
    """Add which actions become rows, and what their values are."""
    parser.add_argument(
        "--sources",
        nargs="+",
        choices=["proposals", "executed", "reference"],
        default=["proposals"],
        metavar="NAME",
        help="whose actions: proposals, executed (what the logged policy did), reference (known "
        "right ones) (default: proposals)",
    )
    parser.add_argument(
        "--judged-by",
        choices=judges,
        default="label",
        help="what their values are, see below (default: label)",
    )
    parser.add_argument(
        "--match-level",
        choices=["type", "tool", "arguments"],
        default="arguments",
        help="for --judged-by match (default: arguments)",
    )
    parser.add_argument(
        "--parsed-only",
        action="store_true",
        help="leave out text that could not be parsed",
    )


def judgement_options(args: argparse.Namespace) -> dict[str, Any]:
    """Values of `add_judgement_arguments` as keywords of `build_kto` and `build_weighted`."""
    return {
        "sources": args.sources,
        "judged_by": args.judged_by,
        "level": args.match_level,
        "allow_unparsable": not args.parsed_only,
    }


def pair_options(args: argparse.Namespace) -> dict[str, Any]:
    """Values of `add_pair_arguments` as keywords of `build_preferences` and `build_reward`."""
    return {
        "strategies": args.strategies,
        "max_per_task": args.max_per_task,
        "max_per_step": args.max_per_step,
        "max_length_ratio": args.max_length_ratio,
        "max_turn_gap": args.max_turn_gap,
        "in_environment": args.in_environment,
        "precision_episodes": args.precision_episodes,
        "engine": args.engine,
    }


def source_of(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> DataSource:
    """The source that parsed arguments name, rendered with the tokenizer of `--tokenizer`.

    Raises:
        ConfigError: Arguments that do not fit.
    """
    return DataSource(
        rollouts_dir=args.rollouts,
        proposals_dirs=getattr(args, "proposals", ()),
        out_dir=args.out,
        renderer=Renderer(tokenizer=tokenizer, catalogue=args.catalogue),
        split=args.split,
        eval_fraction=args.eval_fraction,
        seed=args.seed,
        overwrite=args.overwrite,
    )
