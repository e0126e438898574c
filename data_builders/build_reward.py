r"""Build prompt/chosen/rejected rows for a reward model that scores single actions.

For example:
    python data_builders/build_reward.py --rollouts runs/rollouts \
        --proposals runs/proposals --tokenizer Qwen/Qwen3-4B --out runs/reward
"""

from __future__ import annotations

import argparse
import sys

from specact_rl.cli import logging_to_stderr
from specact_rl.errors import SpecActError
from specact_rl.mining.arguments import (
    add_pair_arguments,
    add_proposals_argument,
    add_source_arguments,
    source_of,
)
from specact_rl.mining.build_rows import build_reward
from specact_rl.mining.pairs import STEP_STRATEGIES

EPILOG = """\
Both sides are parsed actions at one step: a gate rejects unparsable text before any reward model
sees it. Strategies are those of build_preferences.py, outcome excepted.
"""


def main() -> None:
    """Parse arguments, build, print the folder."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source_arguments(parser, split="train_verifier")
    add_proposals_argument(parser, required=False)
    default = ("same_prefix", "hard_negative")
    add_pair_arguments(parser, strategies=STEP_STRATEGIES, default=default)
    args = parser.parse_args()

    # transformers takes seconds to import, which --help need not wait for.
    from specact_rl.models.loading import load_tokenizer
    from specact_rl.rendering import Renderer

    with logging_to_stderr():
        try:
            tokenizer = load_tokenizer(args.tokenizer)
            source = source_of(args, Renderer(tokenizer=tokenizer, catalogue=args.catalogue))
            build_reward(
                source,
                strategies=args.strategies,
                max_per_task=args.max_per_task,
                max_per_step=args.max_per_step,
                in_environment=args.in_environment,
                precision_episodes=args.precision_episodes,
            )
        except SpecActError as error:
            parser.exit(2, f"{parser.prog}: error: {error}\n")
    sys.stdout.write(f"{args.out}\n")


if __name__ == "__main__":
    main()
