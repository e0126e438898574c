"""What a run prints at its end: the systems and the verdicts."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from specact_rl.eval.report.blocks import Cell, Table
from specact_rl.eval.report.markdown import STATUS_WORDS
from specact_rl.eval.report.numbers import JSON
from specact_rl.eval.report.system_sections import systems_table
from specact_rl.eval.report.verdicts import findings

COLOURS = {"shown": "green", "against": "yellow", "open": "dim", "note": "cyan"}
DROPPED = ("", "same arguments, %", "assumed cost", "wrong among accepted, %")
"""Columns that are in the report but would not fit on a terminal."""


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
    kept = [j for j, header in enumerate(systems.headers) if header not in DROPPED]
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for j in kept:
        shown.add_column(
            escape(systems.headers[j]), justify="left" if j < systems.num_word_columns else "right"
        )
    for row in systems.rows:
        shown.add_row(*(_text(row[j]) for j in kept))
    return shown


def _text(cell: Cell) -> str:
    below = f"\n[dim]{escape(cell.below)}[/dim]" if cell.below else ""
    return escape(cell.main) + below
