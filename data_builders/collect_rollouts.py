r"""Roll scripted policies out in the workspace and write a rollouts folder, split by task.

For example:
    python data_builders/collect_rollouts.py --policy expert noisy:0.15 --seeds 0:500 \
        --held-out-seeds 0:60 --trials 2 --out runs/rollouts
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import Progress

from specact_rl.cli import logging_to_stderr
from specact_rl.envs.collect import parse_seeds, plan_episodes
from specact_rl.mining.arguments import add_split_arguments, exit_on_error, program_parser
from specact_rl.mining.build_rollouts import collect_rollouts, parse_fractions

EPILOG = """\
A killed run goes on where it was; a finished one is not repeated. Families held out of training
(--held-out-seeds) go to the test split whole and their rollouts say so.
"""


def main() -> None:
    """Parse arguments, roll out, print the folder."""
    parser = program_parser(__doc__, EPILOG)
    parser.add_argument(
        "--seeds", required=True, metavar="START:STOP", help="task seeds; one seed is one task"
    )
    parser.add_argument(
        "--held-out-seeds",
        default="0",
        metavar="START:STOP",
        help="seeds of tasks from the families kept out of training (default: none)",
    )
    parser.add_argument(
        "--policy",
        nargs="+",
        default=["expert", "noisy:0.15"],
        help="expert, or noisy:P with a share P of random actions (default: expert noisy:0.15)",
    )
    parser.add_argument(
        "--trials", type=int, default=1, help="repeats of each noisy policy (default: 1)"
    )
    add_split_arguments(parser)
    args = parser.parse_args()
    with exit_on_error(parser):
        plans = plan_episodes(
            args.policy,
            parse_seeds(args.seeds),
            held_out_seeds=parse_seeds(args.held_out_seeds),
            trials=args.trials,
        )
        fractions = parse_fractions(args.fractions)
        with logging_to_stderr(), Progress(console=Console(stderr=True)) as progress:
            bar = progress.add_task("episodes", total=len(plans))
            collect_rollouts(
                args.out,
                plans,
                fractions=fractions,
                seed=args.seed,
                overwrite=args.overwrite,
                progress=lambda count: progress.advance(bar, count),
            )
    sys.stdout.write(f"{args.out}\n")


if __name__ == "__main__":
    main()
