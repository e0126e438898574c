"""The `specact` command: arguments in, one library call, results to stdout or to files.

Each subcommand is an `add_<name>` that declares its arguments and a `run_<name>` that imports
what it needs, so that `--help` stays quick. Logging is configured here and nowhere else.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from specact_rl import __version__
from specact_rl.cli.audit import add_audit
from specact_rl.cli.evaluate import add_evaluate
from specact_rl.cli.logs import add_check, add_import, add_study
from specact_rl.cli.runs import add_recipes, add_repeats, add_report, add_run
from specact_rl.cli.shared import EXIT_INTERRUPTED, EXIT_MISUSE
from specact_rl.cli.tables import add_calibrate, add_outcomes
from specact_rl.errors import SpecActError

if TYPE_CHECKING:
    from specact_rl.cli.shared import Subparsers

EPILOG = """\
example:
  specact run --preset tiny --out runs/demo
  specact repeats runs/seed0 runs/seed1 runs/seed2
  specact check my_logs/
  specact import my_logs/ --out runs/rollouts
  specact study my_logs/ --cheap small --strong large --out runs/study
  specact outcomes --rollouts runs/rollouts --model my_proposer --out runs/proposals
  specact audit published.csv
  specact recipes --list
  specact evaluate table.parquet --cheap small --strong large --out runs/table
  specact calibrate --table scores.csv --score log_odds --label acceptable --cluster task_id

exit codes: 0 done, 1 findings, 2 misuse or an input that does not fit, 130 interrupted
"""


SUBCOMMANDS: tuple[Callable[[Subparsers], None], ...] = (
    add_run,
    add_report,
    add_repeats,
    add_check,
    add_import,
    add_study,
    add_outcomes,
    add_evaluate,
    add_calibrate,
    add_audit,
    add_recipes,
)
"""In the order of `specact --help`."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="specact",
        description="Mine pairs, train, gate, calibrate and evaluate speculative tool actions.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"specact {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in SUBCOMMANDS:
        add(subparsers)
    return parser


class CurrentStderrHandler(logging.StreamHandler[TextIO]):
    """Logs to whatever stderr is now, so that lines go above progress bars and not through them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = sys.stderr
        super().emit(record)


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Show the library's log on stderr while a command runs, at level INFO."""
    library = logging.getLogger("specact_rl")
    previous_level = library.level
    handler = CurrentStderrHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    library.addHandler(handler)
    library.setLevel(logging.INFO)
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.setLevel(previous_level)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Raises:
        SystemExit: argparse ends the process itself on --help (0) and on bad arguments (2).
    """
    args = build_parser().parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    run: Callable[[argparse.Namespace], int] = args.run
    with logging_to_stderr():
        try:
            return run(args)
        except SpecActError as error:
            print(f"specact: error: {error}", file=sys.stderr)
            return EXIT_MISUSE
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
