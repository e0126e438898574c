"""What a run prints at its end: the systems and the verdicts."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as RichTable

from specact_rl.eval.report.blocks import Cell, Finding, Findings, Paragraph, Table
from specact_rl.eval.report.markdown import STATUS_WORDS
from specact_rl.eval.report.numbers import JSON
from specact_rl.eval.report.page import Page
from specact_rl.eval.report.system_sections import reference_table, systems_table
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
REFERENCE_HEADERS = {
    "system": "system",
    "worst gate, %": "worst\ngate, %",
    "random gate, %": "random\ngate, %",
    "this gate, %": "this\ngate, %",
    "oracle gate, %": "oracle\ngate, %",
    "oracle at its best rate, %": "best\noracle, %",
    "accept what parses, %": "all that\nparses, %",
}
"""Likewise, of the gates that need no verifier."""
ONE_LINE = ("system", "accepted, %", "FLOPs, × A", "this gate, %", "accept what parses, %")
"""Columns whose titles and intervals are in the report alone."""


def terminal_summary(results: JSON, console: Console) -> None:
    """Print systems, reference gates and verdicts; the caller adds where the report is."""
    systems = systems_table(results)
    if systems is None:
        console.print("No replay results: nothing was evaluated.")
    else:
        console.print(_rich(systems, HEADERS))
    references = reference_table(results)
    if references is not None:
        console.print(_rich(references, REFERENCE_HEADERS))
    for finding in findings(results):
        _print_finding(finding, console)


def print_page(page: Page, console: Console) -> None:
    """Print a page of words, tables and verdicts; other blocks are left to files."""
    console.print(f"[bold]{escape(page.title)}[/bold]", highlight=False)
    for block in [*page.summary, *(block for s in page.sections for block in s.blocks)]:
        match block:
            case Paragraph():
                console.print(escape(block.text), highlight=False)
            case Findings():
                for finding in block.items:
                    _print_finding(finding, console)
            case Table():
                shown = _whole(block)
                needed = Measurement.get(console, console.options, shown).minimum
                console.print(shown, width=max(console.width, needed), crop=False)
                console.print(f"[dim]{escape(block.caption)}[/dim]", highlight=False)


def _print_finding(finding: Finding, console: Console) -> None:
    colour, status = COLOURS[finding.status], STATUS_WORDS[finding.status]
    console.print(
        f"[{colour}]{status}[/{colour}]: [bold]{escape(finding.claim)}[/bold] "
        f"{escape(finding.evidence)}".rstrip(),
        highlight=False,
    )


def _whole(block: Table) -> RichTable:
    """Every column; no word is broken, so that a narrow terminal breaks lines."""
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for j, header in enumerate(block.headers):
        texts = [header, *(f"{row[j].main} {row[j].below}" for row in block.rows)]
        shown.add_column(
            escape(header),
            justify="left" if j < block.num_word_columns else "right",
            min_width=max(len(word) for text in texts for word in ["", *text.split()]),
        )
    for row in block.rows:
        shown.add_row(*(_text(cell, "") for cell in row))
    return shown


def _rich(systems: Table, heads: Mapping[str, str]) -> RichTable:
    kept = [j for j, header in enumerate(systems.headers) if header in heads]
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for j in kept:
        justify: JustifyMethod = "left" if j < systems.num_word_columns else "right"
        shown.add_column(heads[systems.headers[j]], justify=justify, no_wrap=True)
    for row in systems.rows:
        shown.add_row(*(_text(row[j], systems.headers[j]) for j in kept))
    return shown


def _text(cell: Cell, header: str) -> str:
    if not cell.below or header in ONE_LINE:
        return escape(cell.main)
    return f"{escape(cell.main)}\n[dim]{escape(cell.below)}[/dim]"
