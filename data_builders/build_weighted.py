r"""Build prompt/completion/reward rows for reward-weighted fine-tuning from judged actions.

For example:
    python data_builders/build_weighted.py --rollouts runs/rollouts \
        --proposals runs/proposals --tokenizer runs/sft_model --out runs/weighted
"""

from __future__ import annotations

import sys
from pathlib import Path

from specact_rl.cli import logging_to_stderr
from specact_rl.mining.arguments import (
    add_judgement_arguments,
    add_proposals_argument,
    add_source_arguments,
    exit_on_error,
    judgement_options,
    program_parser,
    source_of,
)
from specact_rl.mining.build_unpaired import build_weighted

EPILOG = """\
the reward of an action is
  label    1 if it is acceptable, else 0 (a reference always is)
  match    1 if it reaches --match-level with the step's reference, else 0
  outcome  1 if its rollout succeeded, else 0, for --sources executed
  score    the log-odds or reward in --scores, for --sources proposals

Equal actions after equal prompts are one row with their mean reward; num_samples says how many they
were. Actions of unknown reward are left out and counted in manifest.json.
"""


def main() -> None:
    """Parse arguments, build, print the folder."""
    parser = program_parser(__doc__, EPILOG)
    add_source_arguments(parser, split="train_verifier")
    add_proposals_argument(parser, required=False)
    add_judgement_arguments(parser, judges=("label", "match", "outcome", "score"))
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="DIR",
        help="folder with a scores table of the proposals, which `specact outcomes` writes",
    )
    args = parser.parse_args()

    # transformers takes seconds to import, which --help need not wait for.
    from specact_rl.models.loading import load_tokenizer

    with logging_to_stderr(), exit_on_error(parser):
        source = source_of(args, load_tokenizer(args.tokenizer, args.chat_template))
        build_weighted(source, scores_dir=args.scores, **judgement_options(args))
    sys.stdout.write(f"{args.out}\n")


if __name__ == "__main__":
    main()
