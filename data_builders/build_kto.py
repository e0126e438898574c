r"""Build prompt/completion/label rows for KTO from right and wrong actions, without pairs.

For example:
    python data_builders/build_kto.py --rollouts runs/rollouts \
        --proposals runs/proposals --tokenizer runs/sft_model --out runs/kto
"""

from __future__ import annotations

import sys

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
from specact_rl.mining.build_unpaired import build_kto

EPILOG = """\
an action is right if
  label    it is acceptable, as proposals and logged steps are labelled (a reference always is)
  match    it reaches --match-level with the step's reference
  outcome  its rollout succeeded, for --sources executed: every step of a failure is then wrong

Equal actions after equal prompts are one row, and none where they are right once and wrong once.
Unlike build_verifier.py, text that could not be parsed is a wrong row, unless --parsed-only.
"""


def main() -> None:
    """Parse arguments, build, print the folder."""
    parser = program_parser(__doc__, EPILOG)
    add_source_arguments(parser, split="train_verifier")
    add_proposals_argument(parser, required=False)
    add_judgement_arguments(parser, judges=("label", "match", "outcome"))
    args = parser.parse_args()

    # transformers takes seconds to import, which --help need not wait for.
    from specact_rl.models.loading import load_tokenizer

    with logging_to_stderr(), exit_on_error(parser):
        source = source_of(args, load_tokenizer(args.tokenizer, args.chat_template))
        build_kto(source, **judgement_options(args))
    sys.stdout.write(f"{args.out}\n")


if __name__ == "__main__":
    main()
