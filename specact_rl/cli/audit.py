"""`specact audit`: what a published table of systems says about itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from specact_rl.cli.shared import EXIT_OK, logger, refuse_existing
from specact_rl.errors import ConfigError

if TYPE_CHECKING:
    from specact_rl.cli.shared import Subparsers


def add_audit(subparsers: Subparsers) -> None:
    """Declare `specact audit`."""
    parser = subparsers.add_parser(
        "audit",
        help="check a published table of systems: costs, counts, identities, intervals",
        description="Read accuracies, costs and accept rates as they were published and say what "
        "they imply: what a system costs once its fallback is paid, whether its accuracy can be "
        "that of a system with a fallback, over how many items the shares can be counts, which "
        "differences are established. No item and no model is needed.",
    )
    parser.add_argument(
        "table",
        type=Path,
        metavar="TABLE",
        help="CSV with the columns config, accuracy and, as far as known, cost, accept_rate, "
        "accepted_accuracy, n, num_proposals (0: the strong model alone); or YAML with a list of "
        "such systems, n, unit_costs and other shares. Write shares as they were printed: their "
        "decimals count",
    )
    parser.add_argument(
        "--unit-costs",
        metavar="ROLE=COST,...",
        help="of one call, roles cheap, verifier and strong (default: the file's, else cheap=0.15,"
        "verifier=0.1,strong=1)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE.md", help="write the page as Markdown too, to a new file"
    )
    parser.set_defaults(run=run_audit)


def run_audit(args: argparse.Namespace) -> int:
    """Print the page, and write it where asked to."""
    from rich.console import Console

    from specact_rl.eval.audit_page import audit_page
    from specact_rl.eval.published import read_published
    from specact_rl.eval.report.markdown import page_markdown
    from specact_rl.eval.report.terminal import print_page
    from specact_rl.store import atomic_write

    refuse_existing(args.out)
    page = audit_page(read_published(args.table, _unit_costs(args.unit_costs)))
    print_page(page, Console())
    if args.out is not None:
        with atomic_write(args.out) as temporary:
            temporary.write_text(page_markdown(page), encoding="utf-8")
        logger.info("wrote %s", args.out)
    return EXIT_OK


def _unit_costs(text: str | None) -> dict[str, float]:
    if text is None:
        return {}
    found = {}
    for part in text.split(","):
        role, _, cost = part.strip().partition("=")
        try:
            found[role] = float(cost)
        except ValueError:
            raise ConfigError(
                f"--unit-costs must be ROLE=COST,... such as cheap=0.15,strong=1, got {text!r}"
            ) from None
    return found
