r"""Read a foreign log and write a rollouts folder, split by task and checked for leaks.

For example:
    python data_builders/import_rollouts.py --log chats.jsonl --out runs/rollouts
    python data_builders/import_rollouts.py --log bfcl --importer bfcl --out runs/rollouts
"""

from __future__ import annotations

import sys
from pathlib import Path

from specact_rl.cli import logging_to_stderr
from specact_rl.logs import IMPORTERS
from specact_rl.logs.sniff import sniff
from specact_rl.mining.arguments import add_split_arguments, exit_on_error, program_parser
from specact_rl.mining.build_rollouts import import_rollouts, parse_fractions

EPILOG = """\
Splits are fixed here, once, by task id: train_proposer, train_verifier, calibration, test. Tasks
with the same request and tools, or the same initial state, stay together. Without --importer the
format is told by the log's first row. A log that is nearly in a known format needs a mapping.yaml;
an importer of your own is a function from a path to an ImportResult: --importer my_file.py:function
"""


def main() -> None:
    """Parse arguments, import, print the folder."""
    parser = program_parser(__doc__, EPILOG)
    parser.add_argument("--log", type=Path, required=True, help="file or folder of one format")
    parser.add_argument(
        "--importer",
        help=f"{', '.join(IMPORTERS)}, a mapping.yaml, or FILE.py:FUNCTION (default: look)",
    )
    parser.add_argument(
        "--held-out-family",
        nargs="*",
        default=[],
        metavar="NAME",
        help="families whose tasks all go to test",
    )
    add_split_arguments(parser)
    args = parser.parse_args()
    with logging_to_stderr(), exit_on_error(parser):
        import_rollouts(
            args.log,
            args.out,
            importer=args.importer or sniff(args.log).importer,
            fractions=parse_fractions(args.fractions),
            held_out_families=args.held_out_family,
            seed=args.seed,
            overwrite=args.overwrite,
        )
    sys.stdout.write(f"{args.out}\n")


if __name__ == "__main__":
    main()
