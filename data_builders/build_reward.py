r"""Build prompt/chosen/rejected rows for a reward model that scores single actions.

For example:
    python data_builders/build_reward.py --rollouts runs/rollouts \
        --proposals runs/proposals --tokenizer Qwen/Qwen3-4B --out runs/reward
"""

from __future__ import annotations

import sys

from specact_rl.cli import logging_to_stderr
from specact_rl.mining.arguments import (
    add_pair_arguments,
    add_proposals_argument,
    add_source_arguments,
    exit_on_error,
    pair_options,
    program_parser,
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
    parser = program_parser(__doc__, EPILOG)
    add_source_arguments(parser, split="train_verifier")
    add_proposals_argument(parser, required=False)
    default = ("same_prefix", "hard_negative")
    add_pair_arguments(parser, strategies=STEP_STRATEGIES, default=default)
    args = parser.parse_args()

    # transformers takes seconds to import, which --help need not wait for.
    from specact_rl.models.loading import load_tokenizer

    with logging_to_stderr(), exit_on_error(parser):
        source = source_of(args, load_tokenizer(args.tokenizer, args.chat_template))
        build_reward(source, **pair_options(args))
    sys.stdout.write(f"{args.out}\n")


if __name__ == "__main__":
    main()
