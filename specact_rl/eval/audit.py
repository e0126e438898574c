"""What follows from a published table of systems: costs, counts, identities, intervals.

Nothing is run and no item is known, only aggregates. Still, a rejected proposal has to be paid for,
a share of n items has to be a count over n, and a system with a fallback is right where its parts
are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from scipy import stats

from specact_rl.eval.published import Published, PublishedRow, PublishedTable
from specact_rl.eval.report.numbers import independent_difference
from specact_rl.metrics.cost import AssumedCosts, gated_cost
from specact_rl.metrics.frontier import implied_strong_accuracy_on_accepted
from specact_rl.metrics.paired import wilson_interval
from specact_rl.metrics.values import MetricValue

SEARCHED = 2000
"""Numbers of items that are tried where none is published."""


def tried_cost(row: PublishedRow, costs: AssumedCosts) -> float:
    """What proposing and verifying come to, before any fallback."""
    if row.role == "strong":
        return costs.strong
    if row.role == "cheap":
        return costs.cheap
    return gated_cost(
        costs, 1.0, num_proposals=row.num_proposals, num_scored=row.num_proposals, fallback=False
    )


def true_cost(row: PublishedRow, costs: AssumedCosts) -> float | None:
    """Cost per step with every rejection paid; None where the accept rate is not published."""
    if row.role == "picks":
        return None
    tried = tried_cost(row, costs)
    if row.accept_rate is None:
        return tried
    return tried + (1.0 - row.accept_rate.value) * costs.strong


def least_cost(row: PublishedRow, costs: AssumedCosts) -> float:
    """As `true_cost`; where that is not known, as if every proposal had been accepted."""
    paid = true_cost(row, costs)
    return tried_cost(row, costs) if paid is None else paid


def most_cost(row: PublishedRow, costs: AssumedCosts) -> float:
    """As `true_cost`; where that is not known, as if none had been."""
    paid = true_cost(row, costs)
    return tried_cost(row, costs) + costs.strong if paid is None else paid


def fitting_counts(table: PublishedTable, most: int) -> list[int]:
    """Numbers of items up to `most` over which every printed share is a count."""
    printed = list(table.printed().values())
    return [n for n in range(1, most + 1) if all(p.count_of(n) is not None for p in printed)]


def items_for_intervals(table: PublishedTable) -> tuple[int | None, str]:
    """The number of items that intervals are computed for, and why that one."""
    published = table.n
    if published is not None and all(
        p.count_of(published) is not None for p in table.printed().values()
    ):
        return published, f"Intervals take the published n = {published}."
    fits = fitting_counts(table, published or SEARCHED)
    if not fits:
        return published, "No number of items fits the printed shares; see below."
    why = "no n is published" if published is None else f"n = {published} cannot be"
    return fits[0], f"Intervals take n = {fits[0]}, the smallest that fits, since {why}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Implied:
    """What a gated row implies of the strong model on the accepted items."""

    value: float
    low: float
    high: float
    """Ends that the rounding of the printed numbers allows."""
    assumed: bool
    """The accepted proposals' accuracy was not published: the proposer's own stands in."""


def implied_strong(
    row: PublishedRow, strong: PublishedRow, cheap: PublishedRow | None
) -> Implied | None:
    """Accuracy that the strong model must have on what was accepted, for the row to be true.

    None without an accept rate above 0, or with nothing to take the accepted accuracy from.
    """
    accepted = row.accepted_accuracy or (cheap.accuracy if cheap else None)
    if row.accept_rate is None or row.accept_rate.value <= 0.0 or accepted is None:
        return None

    def at(accepted_side: int, strong_side: int, rate_side: int) -> float:
        rate = row.accept_rate
        assert rate is not None
        return implied_strong_accuracy_on_accepted(
            system=row.accuracy.value - strong_side * row.accuracy.half_unit,
            accept_rate=min(1.0, rate.value + rate_side * rate.half_unit),
            accepted=accepted.value + accepted_side * accepted.half_unit,
            strong=strong.accuracy.value + strong_side * strong.accuracy.half_unit,
        )

    corners = [at(a, s, r) for a in (-1, 1) for s in (-1, 1) for r in (-1, 1)]
    return Implied(
        value=at(0, 0, 0),
        low=min(corners),
        high=max(corners),
        assumed=row.accepted_accuracy is None,
    )


def possible_strong(row: PublishedRow, strong: PublishedRow) -> tuple[float, float]:
    """Least and most that the strong model can be right on of the accepted items, as shares.

    Right on a share s of all items, it is right on s - (1 - a) to s of them among the share a that
    was accepted. Each end is moved by as much as rounding allows.
    """
    rate, right = row.accept_rate, strong.accuracy
    if rate is None or rate.value <= rate.half_unit:
        return 0.0, 1.0
    accepted = rate.value - rate.half_unit
    least = 1.0 - (1.0 - right.value + right.half_unit) / accepted
    return max(0.0, least), min(1.0, (right.value + right.half_unit) / accepted)


def some_gate_gives(row: PublishedRow, strong: PublishedRow, cheap: PublishedRow) -> bool:
    """Whether some gate of the printed accept rate makes a system of the printed accuracy."""
    assert row.accept_rate is not None
    a, c, s = row.accept_rate.value, cheap.accuracy.value, strong.accuracy.value
    rounding = sum(p.half_unit for p in (row.accuracy, row.accept_rate, cheap.accuracy))
    rounding += strong.accuracy.half_unit + row.accept_rate.half_unit
    most = min(a, c) + min(1.0 - a, s)
    least = max(0.0, c - (1.0 - a)) + max(0.0, s - a)
    return least - rounding <= row.accuracy.value <= most + rounding


def unpaired_z(a: float, b: float, n: int) -> float | None:
    """Difference of two shares of n items each over its standard error; None where that is 0."""
    variance = (a * (1.0 - a) + b * (1.0 - b)) / n
    return (a - b) / math.sqrt(variance) if variance > 0.0 else None


def interval_of(p: Published, n: int) -> MetricValue:
    """Of a printed share of n items, Wilson's."""
    count = p.count_of(n)
    return wilson_interval(round(p.value * n) if count is None else count, n)


def best_row(table: PublishedTable) -> PublishedRow:
    """The most accurate; of equals the cheapest."""
    costs = table.costs
    return min(table.rows, key=lambda row: (-row.accuracy.value, least_cost(row, costs)))


def differences_from_best(
    table: PublishedTable, n: int
) -> Iterator[tuple[PublishedRow, PublishedRow, MetricValue, float, float]]:
    """Best, other, difference with interval, z and p; not of equals."""
    best = best_row(table)
    for row in table.rows:
        if row.accuracy.value == best.accuracy.value:
            continue
        z = unpaired_z(best.accuracy.value, row.accuracy.value, n)
        if z is not None:
            a, b = interval_of(best.accuracy, n), interval_of(row.accuracy, n)
            difference = independent_difference(a, b)
            yield best, row, difference, z, float(2.0 * stats.norm.sf(abs(z)))
