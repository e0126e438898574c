"""The page of an audit: the published table with intervals and true costs, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping

from specact_rl.eval.audit import (
    differences_from_best,
    implied_strong,
    interval_of,
    items_for_intervals,
    tried_cost,
    true_cost,
)
from specact_rl.eval.audit_findings import findings
from specact_rl.eval.published import Published, PublishedRow, PublishedTable, Role
from specact_rl.eval.report.blocks import (
    Block,
    Cell,
    Findings,
    Paragraph,
    Section,
    Table,
    table,
    words,
)
from specact_rl.eval.report.numbers import cell, fixed, percent, points
from specact_rl.eval.report.page import Page
from specact_rl.metrics.values import MetricValue

ROLES: Mapping[Role, str] = {
    "strong": "strong model alone",
    "cheap": "proposer alone",
    "gated": "gated, with fallback",
    "picks": "several proposals, accept rate not published",
}


def audit_page(table: PublishedTable) -> Page:
    """The table with intervals and true costs, and what is wrong with it, as a page."""
    n, of_n = items_for_intervals(table)
    c = table.costs
    blocks: list[Block] = [
        Findings(items=tuple(findings(table))),
        _systems(table, n),
    ]
    if n is not None and (versus := _against_best(table, n)) is not None:
        blocks.append(versus)
    told = (
        f"{table.path.name}: {len(table.rows)} systems. Costs of one call: proposer "
        f"{c.cheap:g}, verifier {c.verifier:g}, strong model {c.strong:g}. {of_n}"
    )
    return Page(
        title=f"Audit of published numbers: {table.title}",
        summary=[Paragraph(text=told)],
        sections=[Section(title="What the table says about itself", blocks=blocks)],
    )


def _systems(published: PublishedTable, n: int | None) -> Table:
    strong, cheap = published.of_role("strong"), published.of_role("cheap")
    costs = published.costs

    def share(p: Published | None) -> Cell:
        if p is None:
            return words(None)
        if n is None:
            return words(fixed(100 * p.value, max(0, p.places - 2)))
        return percent(interval_of(p, n))

    def paid(row: PublishedRow) -> Cell:
        found = true_cost(row, costs)
        if found is not None:
            return words(fixed(found, 3))
        tried = tried_cost(row, costs)
        return Cell(main=f"{fixed(tried, 3)} to {fixed(tried + costs.strong, 3)}")

    def implied(row: PublishedRow) -> Cell:
        found = None if strong is None else implied_strong(row, strong, cheap)
        return words(None if found is None else fixed(100 * found.value, 1))

    def uninformed(row: PublishedRow) -> Cell:
        if strong is None or cheap is None or row.accept_rate is None:
            return words(None)
        a = row.accept_rate.value
        value = a * cheap.accuracy.value + (1 - a) * strong.accuracy.value
        return words(fixed(100 * value, 1))

    return table(
        (
            "system",
            "accuracy, %",
            "accepted, %",
            "accepted at break-even, %",
            "cost as printed",
            "true cost",
            "accuracy of an uninformed gate, %",
            "strong model on what was accepted, %",
        ),
        [
            (
                Cell(main=row.config, below=ROLES[row.role]),
                share(row.accuracy),
                share(row.accept_rate),
                words(
                    fixed(100 * tried_cost(row, costs) / costs.strong, 1)
                    if row.role == "gated"
                    else None
                ),
                words(None if row.cost is None else fixed(row.cost.value, row.cost.places)),
                paid(row),
                uninformed(row),
                implied(row),
            )
            for row in published.rows
        ],
        caption=(
            (f"n = {n}; Wilson's 95 % intervals in brackets. " if n is not None else "")
            + "True cost: every rejected proposal pays for a strong call. Strong model on what was "
            "accepted: the share that the row's own numbers imply."
        ),
    )


def _against_best(published: PublishedTable, n: int) -> Table | None:
    rows = [
        (
            words(f"{best.config} − {row.config}"),
            points(difference),
            cell(MetricValue(value=z, n=0), most=2),
            words(fixed(p, 3) if p >= 0.001 else "< 0.001"),
        )
        for best, row, difference, z, p in differences_from_best(published, n)
    ]
    if not rows:
        return None
    return table(
        ("systems", "difference, points", "z", "p"),
        rows,
        caption=(
            f"The most accurate system beside each other one, n = {n}, unpaired (the answers to "
            "each item are not published): Newcombe's interval, z by the two standard errors."
        ),
    )
