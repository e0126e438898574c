r"""Build prompt/completion rows for supervised fine-tuning from rollouts.

For example:
    python data_builders/build_sft.py --rollouts runs/rollouts --tokenizer Qwen/Qwen3-1.7B \
        --out runs/sft
"""

from __future__ import annotations

import sys

from specact_rl.cli import logging_to_stderr
from specact_rl.mining.arguments import (
    add_source_arguments,
    exit_on_error,
    program_parser,
    source_of,
)
from specact_rl.mining.build_rows import build_sft

EPILOG = """\
One row per step: what the model sees, and the action that is right there. Equal rows are
written once. datasets.load_dataset and TRL read the folder as it is.
"""


def main() -> None:
    """Parse arguments, build, print the folder."""
    parser = program_parser(__doc__, EPILOG)
    add_source_arguments(parser, split="train_proposer")
    parser.add_argument(
        "--target",
        choices=["reference", "successes"],
        default="reference",
        help="imitate known right actions, or whatever successful rollouts did; logs without "
        "references need the second (default: reference)",
    )
    args = parser.parse_args()

    # transformers takes seconds to import, which --help need not wait for.
    from specact_rl.models.loading import load_tokenizer

    with logging_to_stderr(), exit_on_error(parser):
        source = source_of(args, load_tokenizer(args.tokenizer, args.chat_template))
        build_sft(source, target=args.target)
    sys.stdout.write(f"{args.out}\n")


if __name__ == "__main__":
    main()
