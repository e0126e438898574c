r"""Build prompt/completion/label rows for a verifier from labelled proposals.

For example:
    python data_builders/build_verifier.py --rollouts runs/rollouts \
        --proposals runs/proposals --tokenizer Qwen/Qwen3-4B --out runs/verifier
"""

from __future__ import annotations

import sys

from specact_rl.cli import logging_to_stderr
from specact_rl.mining.arguments import (
    add_proposals_argument,
    add_source_arguments,
    exit_on_error,
    program_parser,
    source_of,
)
from specact_rl.mining.build_rows import build_verifier

EPILOG = """\
A row is one distinct proposal; label says whether it was acceptable. Proposals with an unknown
label, or that could not be parsed, are left out and counted in manifest.json. Proposals must come
from tasks that the proposer was not trained on.
"""


def main() -> None:
    """Parse arguments, build, print the folder."""
    parser = program_parser(__doc__, EPILOG)
    add_source_arguments(parser, split="train_verifier")
    add_proposals_argument(parser, required=True)
    parser.add_argument(
        "--balance",
        choices=["natural", "subsample"],
        default="natural",
        help="subsample: leave out train rows until --positive-fraction of them are acceptable "
        "(default: natural)",
    )
    parser.add_argument(
        "--positive-fraction", type=float, default=0.5, help="for subsample (default: 0.5)"
    )
    args = parser.parse_args()

    # transformers takes seconds to import, which --help need not wait for.
    from specact_rl.models.loading import load_tokenizer

    with logging_to_stderr(), exit_on_error(parser):
        source = source_of(args, load_tokenizer(args.tokenizer, args.chat_template))
        build_verifier(source, balance=args.balance, positive_fraction=args.positive_fraction)
    sys.stdout.write(f"{args.out}\n")


if __name__ == "__main__":
    main()
