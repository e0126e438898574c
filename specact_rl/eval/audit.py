"""What a published table of systems says about itself: costs, counts, identities, intervals.

Nothing is run and no item is known, only aggregates. Still, a rejected proposal has to be paid for,
a share of n items has to be a count over n, and a system with a fallback is right where its parts
are. What those three imply is held against what is printed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from scipy import stats

from specact_rl.eval.published import Published, PublishedRow, PublishedTable, Role
from specact_rl.eval.report.blocks import (
    Block,
    Cell,
    Finding,
    Findings,
    Paragraph,
    Section,
    Table,
    table,
    words,
)
from specact_rl.eval.report.judging import listed
from specact_rl.eval.report.numbers import (
    cell,
    fixed,
    independent_difference,
    percent,
    points,
    say_p,
    say_percent,
    say_points,
)
from specact_rl.eval.report.page import Page
from specact_rl.metrics.cost import AssumedCosts, gated_cost
from specact_rl.metrics.frontier import (
    break_even_accept_rate,
    implied_strong_accuracy_on_accepted,
    pareto_set,
)
from specact_rl.metrics.paired import wilson_interval
from specact_rl.metrics.values import MetricValue

MOST_LISTED = 6
"""Numbers of items that fit, of which so many are named."""
NEGLIGIBLE = 1e-3
"""Chance below which what only rounding allows is taken to be impossible."""
SEARCHED = 2000
"""Numbers of items that are tried where none is published."""

ROLES: Mapping[Role, str] = {
    "strong": "strong model alone",
    "cheap": "proposer alone",
    "gated": "gated, with fallback",
    "picks": "several proposals, accept rate not published",
}


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


def fitting_counts(table: PublishedTable, most: int) -> list[int]:
    """Numbers of items up to `most` over which every printed share is a count."""
    printed = list(table.printed().values())
    return [n for n in range(1, most + 1) if all(p.count_of(n) is not None for p in printed)]


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


def unpaired_z(a: float, b: float, n: int) -> float | None:
    """Difference of two shares of n items each over its standard error; None where that is 0."""
    variance = (a * (1.0 - a) + b * (1.0 - b)) / n
    return (a - b) / math.sqrt(variance) if variance > 0.0 else None


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


# The page ----------------------------------------------------------------------------------------


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


def findings(table: PublishedTable) -> Iterator[Finding]:
    """Everything that follows, in the order of the page."""
    yield from _counts(table)
    strong, cheap = table.of_role("strong"), table.of_role("cheap")
    for row in table.rows:
        yield from _costs(row, table.costs)
        if strong is not None:
            yield from _identity(row, strong, cheap, table)
            yield from _break_even(row, table.costs)
    if strong is not None and cheap is not None:
        yield from _worth_of_fallback(strong, cheap)
    yield from _comparisons(table)
    yield from _dominance(table)


def _counts(table: PublishedTable) -> Iterator[Finding]:
    published, printed = table.n, table.printed()
    fits = fitting_counts(table, published or SEARCHED)
    named = ", ".join(map(str, fits[:MOST_LISTED])) + (", …" if len(fits) > MOST_LISTED else "")
    if published is None:
        least = f"The smallest n that gives every printed share is {fits[0]}." if fits else ""
        yield Finding(status="unknown", claim="No number of items is published.", evidence=least)
        return
    wrong = {name: p for name, p in printed.items() if p.count_of(published) is None}
    if not wrong:
        yield Finding(
            status="note",
            claim=f"Every printed share is a count over n = {published}.",
            evidence="",
        )
        return
    told = "; ".join(
        f"{name}, {fixed(100 * p.value, max(0, p.places - 2))} %, would be "
        f"{p.value * published:g} items"
        for name, p in wrong.items()
    )
    others = (
        f" Of all n up to {published} these give every printed share: {named}."
        if fits
        else f" No n up to {published} gives every printed share."
    )
    yield Finding(
        status="against",
        claim=f"n = {published} is impossible.",
        evidence=f"{told[0].upper()}{told[1:]}.{others}",
    )


def _costs(row: PublishedRow, costs: AssumedCosts) -> Iterator[Finding]:
    if row.cost is None:
        return
    tried, paid = tried_cost(row, costs), true_cost(row, costs)

    def is_claimed(cost: float) -> bool:
        assert row.cost is not None
        return abs(cost - row.cost.value) <= row.cost.half_unit + 1e-9

    claimed = fixed(row.cost.value, row.cost.places)
    if paid is not None and is_claimed(paid):
        return
    if row.role in ("gated", "picks") and is_claimed(tried):
        if paid is None:
            yield Finding(
                status="against",
                claim=f"{row.config} pays for no fallback: its cost {claimed} is that of "
                "proposing and verifying alone.",
                evidence=(
                    f"With rejections paid it is {fixed(tried, 3)} + "
                    f"{costs.strong:g} × (1 − accept rate), from {fixed(tried, 3)} to "
                    f"{fixed(tried + costs.strong, 3)}; the accept rate is not published."
                ),
            )
            return
        assert row.accept_rate is not None
        share = fixed(paid / costs.strong, 3)
        dearer = ", dearer than it" if paid > costs.strong else ""
        yield Finding(
            status="against",
            claim=f"{row.config} pays for no fallback: its true cost is {fixed(paid, 3)}, not "
            f"{claimed}.",
            evidence=(
                f"{fixed(tried, 3)} for proposing and verifying, and {costs.strong:g} × "
                f"(1 − {row.accept_rate.value:g}) for the fallback: {share} × the strong model "
                f"alone{dearer}."
            ),
        )
        return
    expected = f"{fixed(tried, 3)} or more" if paid is None else fixed(paid, 3)
    yield Finding(
        status="against",
        claim=f"The cost of {row.config} does not follow from the costs of its calls.",
        evidence=f"Printed {claimed}, expected {expected}.",
    )


def _identity(
    row: PublishedRow, strong: PublishedRow, cheap: PublishedRow | None, table: PublishedTable
) -> Iterator[Finding]:
    rate = row.accept_rate
    if rate is None:
        return
    end = {0.0: strong, 1.0: cheap}.get(rate.value)
    if rate.value in (0.0, 1.0):
        what = (
            f"no proposal, so that it is {strong.config} at a higher price"
            if rate.value == 0.0
            else "every proposal"
        )
        differs = end is not None and abs(end.accuracy.value - row.accuracy.value) > (
            end.accuracy.half_unit + row.accuracy.half_unit
        )
        yield Finding(
            status="against",
            claim=f"The gate of {row.config} decides nothing: it accepts {what}.",
            evidence=(
                f"Its accuracy would have to be that of {end.config}, "
                f"{fixed(end.accuracy.value, end.accuracy.places)}, and is "
                f"{fixed(row.accuracy.value, row.accuracy.places)}."
                if differs and end is not None
                else "A verifier that says the same of all proposals has a fault to be found "
                "first: its prompt, its labels, or the token that its answer is read from."
            ),
        )
        return
    found = implied_strong(row, strong, cheap)
    if found is None:
        return
    mean = rate.value * (cheap.accuracy.value if cheap else 0.0)
    uninformed = mean + (1.0 - rate.value) * strong.accuracy.value
    basis = (
        f"taking the accepted proposals to be as good as all are ({cheap.config}'s accuracy)"
        if found.assumed and cheap is not None
        else "with the published accuracy of what it accepted"
    )
    accepted = row.accepted_accuracy or (cheap.accuracy if cheap else row.accuracy)
    sum_shown = (
        f"{accepted.value:g} + ({strong.accuracy.value:g} − {row.accuracy.value:g}) / "
        f"{rate.value:g} = {fixed(found.value, 4)}"
    )
    evidence = (
        f"On the accepted items {strong.config} would have to be right in a share of {sum_shown}, "
        f"{basis}; the rounding of the printed numbers allows {fixed(found.low, 3)} to "
        f"{fixed(found.high, 3)}."
    )
    if cheap is not None:
        evidence += (
            f" A gate that knows nothing would make {row.config} right in {fixed(uninformed, 4)}."
        )
    low, high = possible_strong(row, strong)
    if low <= found.value <= high:
        yield Finding(
            status="note",
            claim=f"{row.config} can be a system with a fallback on {strong.config}.",
            evidence=evidence,
        )
        return
    if 0.0 <= found.value <= 1.0:
        bound = f"at most {fixed(high, 3)}" if found.value > high else f"at least {fixed(low, 3)}"
        evidence += (
            f" Right in {strong.accuracy.value:g} of all items, it is right in {bound} of those, "
            "whatever the gate."
        )
    chance, told = _how_unlikely(row, strong, found, table)
    evidence += told
    if cheap is not None and abs(row.accuracy.value - cheap.accuracy.value) < 1e-9:
        evidence += (
            f" Its accuracy is that of {cheap.config}: most likely nothing was ever replaced."
        )
    with_fallback = f"a system with a fallback on {strong.config}"
    if found.assumed and cheap is not None and _some_gate_gives(row, strong, cheap):
        yield Finding(
            status="open",
            claim=f"{row.config} is {with_fallback} only if the proposals it accepted differ from "
            f"{cheap.config}'s on the whole; their accuracy is not published.",
            evidence=evidence,
        )
    elif low <= found.high and found.low <= high and chance > NEGLIGIBLE:
        yield Finding(
            status="open",
            claim=f"{row.config} is {with_fallback} only near an end of what rounding allows.",
            evidence=evidence,
        )
    else:
        claim = f"{row.config} as published cannot be {with_fallback}."
        yield Finding(status="against", claim=claim, evidence=evidence)


def _some_gate_gives(row: PublishedRow, strong: PublishedRow, cheap: PublishedRow) -> bool:
    """Whether some gate of the printed accept rate makes a system of the printed accuracy."""
    assert row.accept_rate is not None
    a, c, s = row.accept_rate.value, cheap.accuracy.value, strong.accuracy.value
    rounding = sum(p.half_unit for p in (row.accuracy, row.accept_rate, cheap.accuracy))
    rounding += strong.accuracy.half_unit + row.accept_rate.half_unit
    most = min(a, c) + min(1.0 - a, s)
    least = max(0.0, c - (1.0 - a)) + max(0.0, s - a)
    return least - rounding <= row.accuracy.value <= most + rounding


def _how_unlikely(
    row: PublishedRow, strong: PublishedRow, found: Implied, table: PublishedTable
) -> tuple[float, str]:
    """How often a gate that is blind to the strong model's errors would come near; 1 if unknown."""
    n, _ = items_for_intervals(table)
    if n is None or row.accept_rate is None or found.value >= 0.0 or found.high < 0.0:
        return 1.0, ""
    num_accepted, num_right = row.accept_rate.count_of(n), strong.accuracy.count_of(n)
    if num_accepted is None or num_right is None:
        return 1.0, ""
    most = math.floor(found.high * num_accepted + 1e-9)
    chance = float(stats.hypergeom.cdf(most, n, num_right, num_accepted))
    return chance, (
        f" Even at the end that rounding allows it is right in at most {most} of {num_accepted} "
        f"accepted items and in {num_right} of all {n}; a gate that does not know its errors would "
        f"hit on that with a chance of {chance:.0e}."
    )


def _break_even(row: PublishedRow, costs: AssumedCosts) -> Iterator[Finding]:
    if row.accept_rate is None or row.accept_rate.value in (0.0, 1.0):
        return
    tried = tried_cost(row, costs)
    needed = break_even_accept_rate(tried, 0.0, costs.strong)
    a = row.accept_rate.value
    text = f"{a:g} accepted, {needed:g} needed: (proposals + verifications) / strong."
    if a > needed:
        claim = f"{row.config} accepts enough to be cheaper than the strong model alone."
        yield Finding(status="shown", claim=claim, evidence=text)
    else:
        claim = f"{row.config} accepts too little to save anything: it is below break-even."
        yield Finding(status="against", claim=claim, evidence=text)


def _worth_of_fallback(strong: PublishedRow, cheap: PublishedRow) -> Iterator[Finding]:
    lost = cheap.accuracy.value - strong.accuracy.value
    if lost <= 0.0:
        return
    places = max(0, max(strong.accuracy.places, cheap.accuracy.places) - 2)
    points_lost = fixed(100 * lost, places).removesuffix("." + "0" * places)
    yield Finding(
        status="against",
        claim=f"The fallback is weaker than the proposer: {strong.config} "
        f"{fixed(strong.accuracy.value, strong.accuracy.places)}, {cheap.config} "
        f"{fixed(cheap.accuracy.value, cheap.accuracy.places)}.",
        evidence=(
            f"Every rejection that knows nothing loses {points_lost} points on average. A verifier "
            f"pays only if it rejects where {strong.config} does better than {cheap.config}, of "
            "which a score of the proposals alone knows little."
        ),
    )


def _wilson(p: Published, n: int) -> MetricValue:
    count = p.count_of(n)
    return wilson_interval(round(p.value * n) if count is None else count, n)


def _best(table: PublishedTable) -> PublishedRow:
    """The most accurate; of equals the cheapest."""
    costs = table.costs
    return min(table.rows, key=lambda row: (-row.accuracy.value, _least_cost(row, costs)))


def _least_cost(row: PublishedRow, costs: AssumedCosts) -> float:
    paid = true_cost(row, costs)
    return tried_cost(row, costs) if paid is None else paid


def _most_cost(row: PublishedRow, costs: AssumedCosts) -> float:
    paid = true_cost(row, costs)
    return tried_cost(row, costs) + costs.strong if paid is None else paid


def _differences(
    table: PublishedTable, n: int
) -> Iterator[tuple[PublishedRow, PublishedRow, MetricValue, float, float]]:
    """Best, other, difference with interval, z and p; not of equals."""
    best = _best(table)
    for row in table.rows:
        if row.accuracy.value == best.accuracy.value:
            continue
        z = unpaired_z(best.accuracy.value, row.accuracy.value, n)
        if z is not None:
            difference = independent_difference(_wilson(best.accuracy, n), _wilson(row.accuracy, n))
            yield best, row, difference, z, float(2.0 * stats.norm.sf(abs(z)))


def _comparisons(table: PublishedTable) -> Iterator[Finding]:
    n, _ = items_for_intervals(table)
    if n is None:
        return
    for best, row, difference, z, p in _differences(table, n):
        if p <= 0.05:
            continue
        enough = math.ceil(n * (1.959964 / z) ** 2)
        yield Finding(
            status="open",
            claim=f"It is not shown that {best.config} is better than {row.config}.",
            evidence=(
                f"{say_percent(_wilson(best.accuracy, n))} against "
                f"{say_percent(_wilson(row.accuracy, n))}: {say_points(difference)} as if the "
                f"items were not the same, z = {fixed(z, 2)}{say_p(p)}, n = {n}; unpaired it is "
                f"significant from n = {enough} on if it stays as large. On the same items only a "
                "paired test settles it (exact McNemar), "
                "for which the answers to each item would have to be published."
            ),
        )


def _dominance(table: PublishedTable) -> Iterator[Finding]:
    best, costs = _best(table), table.costs
    kept = pareto_set(
        [_least_cost(row, costs) for row in table.rows],
        [row.accuracy.value for row in table.rows],
    )
    names = [table.rows[i].config for i in kept]
    beaten = [
        row.config
        for row in table.rows
        if row.config != best.config
        and _least_cost(row, costs) >= _most_cost(best, costs)
        and row.accuracy.value <= best.accuracy.value
    ]
    bound = (
        " (where no accept rate is published, at the least that it can cost)"
        if table.of_role("picks")
        else ""
    )
    if len(names) == 1 and beaten:
        claim = f"{best.config} dominates {listed(beaten)}: no dearer and no less accurate."
    else:
        claim = f"Worth their true cost are {listed(names)}." if len(names) > 1 else ""
    if claim:
        yield Finding(
            status="note", claim=claim, evidence=f"By accuracy as printed and true costs{bound}."
        )


def _systems(published: PublishedTable, n: int | None) -> Table:
    strong, cheap = published.of_role("strong"), published.of_role("cheap")
    costs = published.costs

    def share(p: Published | None) -> Cell:
        if p is None:
            return words(None)
        if n is None:
            return words(fixed(100 * p.value, max(0, p.places - 2)))
        return percent(_wilson(p, n))

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
        for best, row, difference, z, p in _differences(published, n)
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
