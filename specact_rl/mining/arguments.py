"""The command-line arguments that the data builders share, and what they become."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from specact_rl.mining.data_sets import DataSource
from specact_rl.rendering import Renderer
from specact_rl.types import SplitName


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
        metavar="PATH",
        help="folder or hub id of the model to be trained; its chat template makes the rows",
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


def source_of(args: argparse.Namespace, renderer: Renderer) -> DataSource:
    """The source that parsed arguments name.

    Raises:
        ConfigError: Arguments that do not fit.
    """
    return DataSource(
        rollouts_dir=args.rollouts,
        proposals_dirs=getattr(args, "proposals", ()),
        out_dir=args.out,
        renderer=renderer,
        split=args.split,
        eval_fraction=args.eval_fraction,
        seed=args.seed,
        overwrite=args.overwrite,
    )
