r"""Roll policies out in the workspace and write a rollouts folder, split by task.

For example:
    python data_builders/collect_rollouts.py --policy expert noisy:0.15 --seeds 0:500 \
        --held-out-seeds 0:60 --trials 2 --out runs/rollouts
    python data_builders/collect_rollouts.py --policy expert model:runs/demo/models/cheap \
        --seeds 0:500 --trials 4 --out runs/cheap_rollouts
"""

from __future__ import annotations

import shutil
import sys

from rich.console import Console
from rich.progress import Progress

from specact_rl.cli import logging_to_stderr
from specact_rl.envs.collect import MODEL_PREFIX, parse_seeds, plan_episodes, scripted_rollouts
from specact_rl.mining.arguments import (
    add_policy_arguments,
    add_split_arguments,
    exit_on_error,
    program_parser,
)
from specact_rl.mining.build_rollouts import collect_rollouts, parse_fractions

EPILOG = """\
A killed run goes on where it was; a finished one is not repeated. Families held out of training
(--held-out-seeds) go to the test split whole and their rollouts say so.

A model:FOLDER is a checkpoint as the recipes write it. Its prompts are rendered as it was trained,
and its policy is called model: and the last part of FOLDER. Trials draw different actions, and the
same command draws the same ones. Tasks are split by --seed and --fractions alone: give those of
the rollouts that a model was trained on, and take pairs from its train_verifier tasks.

A model:URL#NAME is the model NAME of an OpenAI-compatible server; its key, if it wants one, is the
value of OPENAI_API_KEY. Its policy is called model: and the last part of NAME. Give servers' models
more --max-new-tokens. What one answered before a run was killed is not asked for again.
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
    add_policy_arguments(parser)
    add_split_arguments(parser)
    args = parser.parse_args()
    with exit_on_error(parser):
        plans = plan_episodes(
            args.policy,
            parse_seeds(args.seeds),
            held_out_seeds=parse_seeds(args.held_out_seeds),
            trials=args.trials,
            greedy_models=args.temperature == 0,
        )
        fractions = parse_fractions(args.fractions)
        roll_out, acting = scripted_rollouts, None
        answers = args.out.with_name(f"{args.out.name}.answers")
        if any(policy.startswith(MODEL_PREFIX) for policy in args.policy):
            # transformers takes seconds to import, which scripted policies need not wait for.
            from specact_rl.eval.model_policies import ModelPolicies

            models = ModelPolicies.load(
                args.policy,
                temperature=args.temperature,
                max_new_tokens=args.max_new_tokens,
                answers=answers,
            )
            roll_out, acting = models.roll_out, models.arguments
        with logging_to_stderr(), Progress(console=Console(stderr=True)) as progress:
            bar = progress.add_task("episodes", total=len(plans))
            collect_rollouts(
                args.out,
                plans,
                roll_out=roll_out,
                acting=acting,
                fractions=fractions,
                seed=args.seed,
                overwrite=args.overwrite,
                progress=lambda count: progress.advance(bar, count),
            )
        shutil.rmtree(answers, ignore_errors=True)
    sys.stdout.write(f"{args.out}\n")


if __name__ == "__main__":
    main()
