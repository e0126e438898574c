"""What is wrong with a published table, in words: what follows is held against what is printed."""

from __future__ import annotations

import math
from collections.abc import Iterator

from scipy import stats

from specact_rl.eval.audit import (
    SEARCHED,
    Implied,
    best_row,
    differences_from_best,
    fitting_counts,
    implied_strong,
    interval_of,
    items_for_intervals,
    least_cost,
    most_cost,
    possible_strong,
    some_gate_gives,
    tried_cost,
    true_cost,
)
from specact_rl.eval.published import PublishedRow, PublishedTable
from specact_rl.eval.report.blocks import Finding
from specact_rl.eval.report.judging import listed
from specact_rl.eval.report.numbers import fixed, say_p, say_percent, say_points
from specact_rl.metrics.cost import AssumedCosts
from specact_rl.metrics.frontier import break_even_accept_rate, pareto_set

MOST_LISTED = 6
"""Numbers of items that fit, of which so many are named."""
NEGLIGIBLE = 1e-3
"""Chance below which what only rounding allows is taken to be impossible."""


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
    if found.assumed and cheap is not None and some_gate_gives(row, strong, cheap):
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


def _comparisons(table: PublishedTable) -> Iterator[Finding]:
    n, _ = items_for_intervals(table)
    if n is None:
        return
    for best, row, difference, z, p in differences_from_best(table, n):
        if p <= 0.05:
            continue
        enough = math.ceil(n * (1.959964 / z) ** 2)
        yield Finding(
            status="open",
            claim=f"It is not shown that {best.config} is better than {row.config}.",
            evidence=(
                f"{say_percent(interval_of(best.accuracy, n))} against "
                f"{say_percent(interval_of(row.accuracy, n))}: {say_points(difference)} as if the "
                f"items were not the same, z = {fixed(z, 2)}{say_p(p)}, n = {n}; unpaired it is "
                f"significant from n = {enough} on if it stays as large. On the same items only a "
                "paired test settles it (exact McNemar), "
                "for which the answers to each item would have to be published."
            ),
        )


def _dominance(table: PublishedTable) -> Iterator[Finding]:
    best, costs = best_row(table), table.costs
    kept = pareto_set(
        [least_cost(row, costs) for row in table.rows],
        [row.accuracy.value for row in table.rows],
    )
    names = [table.rows[i].config for i in kept]
    beaten = [
        row.config
        for row in table.rows
        if row.config != best.config
        and least_cost(row, costs) >= most_cost(best, costs)
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
