"""Sections on what verification is worth, and on the frontier of accuracy and cost."""

from __future__ import annotations

from specact_rl.eval.report.blocks import Block, Cell, Paragraph, Section, Table, table, words
from specact_rl.eval.report.judging import listed
from specact_rl.eval.report.lookup import (
    as_elsewhere,
    contrast,
    part,
    rows,
    system,
    verifier,
    verifier_title,
)
from specact_rl.eval.report.numbers import (
    JSON,
    cell,
    fixed,
    metric,
    percent,
    points,
    say_points,
    say_rows,
)

COSTS = {
    "assumed": "the source report's (proposer 0.15, verifier 0.10, strong model 1)",
    "flops": "measured FLOPs",
}
FIRST_OF = {"cheap": "B", "strong": "A", "cheap_dpo": "B-dpo"}
"""Systems that give a model's first answer at every step."""
COST_KEYS = {"relative_flops": "FLOPs", "strong_calls": "strong calls"}


def value_section(results: JSON) -> Section | None:
    """Skill in parts, equal rates, break-even, second runs; None without any."""
    blocks: list[Block | None] = [
        _skill_table(results),
        _equal_rate_table(results),
        *_break_even(results),
        _second_runs(results),
    ]
    present = [block for block in blocks if block is not None]
    return Section(title="What verification is worth", blocks=present) if present else None


def _skill_table(results: JSON) -> Table | None:
    found = rows(results, "replay", "value", "systems")
    if not found:
        return None
    worth = sorted({100.0 * float(row["call_worth"]) for row in found})
    return table(
        (
            "system",
            "accepted, %",
            "over random gate, points",
            "= by where the proposal is right",
            "+ by where the fallback errs",
            "lost by its threshold, points",
            "at most",
            "of random to oracle, %",
        ),
        [
            (
                words(row["name"]),
                words(fixed(100 * part(row, "envelope")["accept_rate"], 1)),
                points(
                    as_elsewhere(
                        metric(part(row, "parts"), "skill"),
                        metric(system(results, str(row["name"])), "skill"),
                    )
                ),
                points(metric(part(row, "parts"), "discrimination")),
                points(metric(part(row, "parts"), "complementarity")),
                points(metric(part(row, "parts"), "calibration_loss")),
                words(fixed(100 * part(row, "parts")["in_sample_loss"], 1)),
                cell(metric(part(row, "envelope"), "efficiency"), scale=100.0, most=0),
            )
            for row in found
        ],
        caption=(
            f"{_rows_of(found[0])}. The first number is the sum of the next two: Cov(g, C − S) = "
            "Cov(g, C) − Cov(g, S), with g accepted, C proposal right, S fallback right. Lost by "
            "its threshold: net value of the best threshold on the same scores, chosen on other "
            "tasks, less that of the frozen one, a saved strong call being worth "
            f"{listed([fixed(w, 1) for w in worth])} points; below 0 the frozen one was the "
            "better. At most: the same with the threshold chosen on these very steps. Of random to "
            "oracle: the gate's place between a random gate of its accept rate (0) and the best "
            "possible one (100). Intervals over tasks: the first as in the table of systems, the "
            "others Student's."
        ),
    )


def _rows_of(row: JSON) -> str:
    return say_rows(metric(part(row, "parts"), "net_value")) or f"n = {row['n']}"


def _equal_rate_table(results: JSON) -> Table | None:
    found = [r for r in rows(results, "replay", "value", "systems") if part(r, "at_equal_rate")]
    free = list(dict.fromkeys(name for row in found for name in part(row, "at_equal_rate")))
    if not free:
        return None

    def gain(row: JSON, name: str) -> Cell:
        against = part(row, "at_equal_rate", name)
        return points(metric(against, "gain")) if against else words(None)

    return table(
        ("system", *(f"over {verifier_title(name)}, points" for name in free)),
        [(words(row["name"]), *(gain(row, name) for name in free)) for row in found],
        caption=(
            "Share acceptable of each gate less that of a gate which accepts as many proposals by "
            "the other verifier: what the ranking is worth where it is used."
        ),
    )


def _break_even(results: JSON) -> list[Block | None]:
    found = rows(results, "replay", "value", "break_even")
    joint = part(results, "replay", "value", "joint")
    if not found or not joint:
        return []
    of_d = metric(verifier(results, "D"), "auroc")
    shown = table(
        (
            "costs",
            "accept rate at break-even, %",
            "AUROC: none does below",
            "binormal scores need",
            "all do above",
            "D's verifier has",
        ),
        [
            (
                words(COSTS.get(str(row["costs"]), str(row["costs"]))),
                words(fixed(100 * row["accept_rate"], 1)),
                *(_limit(row, key) for key in ("none_below", "binormal", "all_above")),
                cell(of_d),
            )
            for row in found
        ],
        caption=(
            "How well a verifier must rank right proposals above wrong ones for D, at its best "
            "threshold, to be worth more than A and B, of whose accuracy "
            f"{fixed(100 * found[0]['call_worth'], 1)} points are taken for the cost of a strong "
            "call. Binormal: scores of right and of wrong proposals are normal with one variance; "
            "the limit on its left holds for every score whose ROC curve is concave, that on its "
            "right for every score. All suppose that the score knows of the fallback's errors only "
            "through the proposal's. Accept rate at break-even: what saves as much as proposing "
            "and verifying cost."
        ),
    )
    told = (
        f"Both models are right in {fixed(100 * joint['both'], 1)} % of n = {joint['n']} steps, "
        f"only the cheap one in {fixed(100 * joint['only_cheap'], 1)} %, only the strong one in "
        f"{fixed(100 * joint['only_strong'], 1)} %, neither in "
        f"{fixed(100 * joint['neither'], 1)} %."
    )
    return [shown, Paragraph(text=told)]


def _limit(row: JSON, key: str) -> Cell:
    if row.get(key) is None:
        return Cell(main="–", note=str(row["message"]))
    return words(fixed(float(row[key]), 3))


def _second_runs(results: JSON) -> Table | None:
    found = rows(results, "replay", "value", "second_runs")
    if not found:
        return None
    return table(
        (
            "model",
            "answers to a step",
            "first right, %",
            "first or another of its own, %",
            "first or the strong model's, %",
            "strong model over another own, points",
        ),
        [
            (
                words(row["role"]),
                words(row["num_runs"]),
                percent(
                    as_elsewhere(
                        metric(row, "first"),
                        metric(system(results, FIRST_OF.get(str(row["role"]), "")), "acceptable"),
                    )
                ),
                percent(metric(row, "second_run")),
                percent(metric(row, "oracle")),
                points(metric(row, "oracle_over_second_run")),
            )
            for row in found
        ],
        caption=(
            "How much of an oracle's headroom is the luck of a second try: the share in which the "
            "first answer or another one of the same model is right, beside the share in which it "
            "or the strong model's is."
        ),
    )


def frontier_section(results: JSON) -> Section | None:
    """Which systems are worth having, and where each gate's curve lies; None without any."""
    found = part(results, "replay", "frontier")
    if not found or not rows(found, "systems"):
        return None
    blocks: list[Block] = [Paragraph(text=_hull_words(found))]
    gates = [row for row in rows(found, "gates") if metric(row, "envelope_share") is not None]
    if gates:
        blocks.append(_gates_table(results, found, gates))
    return Section(title="Frontier", blocks=blocks)


def _hull_words(found: JSON) -> str:
    systems, unit = rows(found, "systems"), COST_KEYS[str(found["cost"])]
    on_hull = [str(row["name"]) for row in systems if row["hull"]]
    below = [str(row["name"]) for row in systems if row["pareto"] and not row["hull"]]
    told = f"By accuracy and {unit}, no mixture of two others beats {listed(on_hull)}."
    if below:
        told += (
            f" {listed(below)}: no single system beats {'it' if len(below) == 1 else 'them'}, but "
            "flipping a coin between two others does."
        )
    quality, ungated = metric(found, "quality"), metric(found, "quality_ungated")
    if quality is None or quality.value is None:
        return told
    low, high = found["cost_range"]
    told += (
        f" Mean accuracy along the hull over costs from {fixed(low, 2)} to {fixed(high, 2)} × A "
        f"(AIQ): {fixed(100 * quality.value, 1)} %"
    )
    if ungated is not None and ungated.value is not None:
        told += f"; with A and B alone {fixed(100 * ungated.value, 1)} %"
    return told + f". {quality.n} systems as measured, without an interval."


def _gates_table(results: JSON, found: JSON, gates: list[JSON]) -> Table:
    gaps = list(part(gates[0], "calls_for_gap"))
    note = found.get("gap_note")
    declared = metric(contrast(results, "A", "B"), "difference")
    gap = as_elsewhere(metric(found, "gap"), declared)

    def of_gap(m: Cell) -> Cell:
        return m if m.main != "–" else Cell(main="–", note=note or m.note)

    return table(
        (
            "system",
            "curve, of random to oracle, %",
            "gap recovered (PGR), %",
            "on average (APGR), %",
            *(f"strong calls for {fixed(100 * float(x), 0)} % of the gap, %" for x in gaps),
        ),
        [
            (
                words(row["name"]),
                cell(metric(row, "envelope_share"), scale=100.0, most=0),
                of_gap(_plain_percent(row.get("recovered_gap"))),
                of_gap(_percent(part(row, "average_recovered_gap"))),
                *(of_gap(_percent(part(row, "calls_for_gap", x))) for x in gaps),
            )
            for row in gates
        ],
        caption=(
            f"{say_rows(metric(gates[0], 'envelope_share'))}. Curve: each verifier over a fixed "
            "grid of calibrated probabilities, from never accepting to always; area over "
            f"{COST_KEYS[str(found['cost'])]} between the random gates' line (0) and the oracle's "
            "(100), each fallback charged what it has to read since the last one. PGR, APGR and "
            "the strong calls (CPT) are RouteLLM's, relative to the gap A − B"
            f"{f' = {say_points(gap)}' if gap is not None else ''}"
            f"{f': {note}' if note else ''}. A random gate has an APGR of 50 and needs x % strong "
            "calls for x % of the gap. Intervals: bootstrap over tasks."
        ),
    )


def _plain_percent(value: float | None) -> Cell:
    return Cell(main="–") if value is None else words(fixed(100.0 * float(value), 0))


def _percent(found: JSON) -> Cell:
    m = metric({"m": found}, "m")
    return cell(m, scale=100.0, most=0)
