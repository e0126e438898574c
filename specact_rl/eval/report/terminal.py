"""What a run prints at its end: the systems and the verdicts."""

from __future__ import annotations

from rich import box
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table as RichTable

from specact_rl.eval.report.blocks import Cell, Table
from specact_rl.eval.report.markdown import STATUS_WORDS
from specact_rl.eval.report.numbers import JSON
from specact_rl.eval.report.system_sections import systems_table
from specact_rl.eval.report.verdicts import findings

COLOURS = {
    "shown": "green",
    "against": "yellow",
    "open": "dim",
    "unknown": "dim",
    "note": "cyan",
}
HEADERS = {
    "system": "system",
    "acceptable, %": "acceptable\n%",
    "accepted, %": "accepted\n%",
    "FLOPs, × A": "FLOPs\n× A",
    "difference from A, points": "points\nfrom A",
    "over random gate, points": "points over\nrandom gate",
}
"""Columns of the report that fit on a terminal of 80, and their heads there."""
ONE_LINE = ("system", "accepted, %", "FLOPs, × A")
"""Columns whose titles and intervals are in the report alone."""


def terminal_summary(results: JSON, console: Console) -> None:
    """Print the systems table and the verdicts; the caller adds where the report is."""
    systems = systems_table(results)
    if systems is None:
        console.print("No replay results: nothing was evaluated.")
    else:
        console.print(_rich(systems))
    for finding in findings(results):
        colour = COLOURS[finding.status]
        status = STATUS_WORDS[finding.status]
        console.print(
            f"[{colour}]{status}[/{colour}]: [bold]{escape(finding.claim)}[/bold] "
            f"{escape(finding.evidence)}",
            highlight=False,
        )


def _rich(systems: Table) -> RichTable:
    kept = [j for j, header in enumerate(systems.headers) if header in HEADERS]
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for j in kept:
        justify: JustifyMethod = "left" if j < systems.num_word_columns else "right"
        shown.add_column(HEADERS[systems.headers[j]], justify=justify, no_wrap=True)
    for row in systems.rows:
        shown.add_row(*(_text(row[j], systems.headers[j]) for j in kept))
    return shown


def _text(cell: Cell, header: str) -> str:
    if not cell.below or header in ONE_LINE:
        return escape(cell.main)
    return f"{escape(cell.main)}\n[dim]{escape(cell.below)}[/dim]"
