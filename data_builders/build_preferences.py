r"""Build prompt/chosen/rejected rows for DPO from rollouts and proposals.

For example:
    python data_builders/build_preferences.py --rollouts runs/rollouts \
        --proposals runs/proposals --tokenizer runs/sft_model --out runs/preferences
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
from specact_rl.mining.build_rows import build_preferences
from specact_rl.mining.pairs import PAIR_STRATEGIES

EPILOG = """\
strategies:
  outcome        success against failure, whole trajectories (in a folder of its own)
  divergence     the step where a success and a failure part after the same history
  approx_prefix  the same, where the histories agree in their calls but not in words
  same_prefix    acceptable against unacceptable proposal at one step
  hard_negative  reference against a plausible wrong action
  on_policy      same_prefix with both sides from the model --model-id

report.json has the length gaps of the sides and, with --in-environment, how often chosen is
really better. manifest.json counts what was dropped, and why.
"""


def main() -> None:
    """Parse arguments, build, print the folder."""
    parser = program_parser(__doc__, EPILOG)
    add_source_arguments(parser, split="train_verifier")
    add_proposals_argument(parser, required=False)
    default = ("divergence", "same_prefix")
    add_pair_arguments(parser, strategies=tuple(PAIR_STRATEGIES), default=default)
    parser.add_argument(
        "--max-distance",
        type=float,
        default=0.5,
        help="of the histories in approx_prefix, 0 equal, 1 nothing in common (default: 0.5)",
    )
    parser.add_argument("--model-id", help="the current proposer, for on_policy")
    args = parser.parse_args()

    # transformers takes seconds to import, which --help need not wait for.
    from specact_rl.models.loading import load_tokenizer

    with logging_to_stderr(), exit_on_error(parser):
        source = source_of(args, load_tokenizer(args.tokenizer, args.chat_template))
        build_preferences(
            source,
            max_distance=args.max_distance,
            model_id=args.model_id,
            **pair_options(args),
        )
    sys.stdout.write(f"{args.out}\n")


if __name__ == "__main__":
    main()
