"""Sections about whole systems: replay, reference gates, live episodes, action types, contrasts."""

from __future__ import annotations

from dataclasses import replace

from specact_rl.eval.report import figures
from specact_rl.eval.report.blocks import Block, Cell, Paragraph, Section, Table, table, words
from specact_rl.eval.report.lookup import (
    MAIN_SYSTEMS,
    accepts_what_parses,
    action_type_title,
    agreement,
    all_parse,
    cost_key,
    has_families_held_out,
    part,
    rows,
    system,
)
from specact_rl.eval.report.numbers import (
    JSON,
    cell,
    detectable,
    fixed,
    metric,
    p_value,
    percent,
    points,
    say_rows,
)
from specact_rl.metrics.values import MetricValue

PARSERS_PART = "; among what parses, that is the verifier's part of it, the rest is the parser's"
NO_FALLBACK = "no fallback: the proposal stands, as in the source report"


def systems_table(results: JSON) -> Table | None:
    """A to E and their variants in replay, and the reference gates; None without any."""
    found = rows(results, "replay", "systems")
    if not found:
        return None
    parsing = not all_parse(results)
    if parsing:  # else these accept all: they are B once more
        found += rows(results, "replay", "references")
    has_flops = cost_key(results) == "relative_flops"
    return table(
        (
            "system",
            "acceptable, %",
            "same arguments, %",
            "accepted, %",
            "wrong among accepted, %",
            "FLOPs, × A",
            "seconds, × A",
            "price, × A",
            "assumed cost",
            "difference from A, points",
            "over random gate, points",
            "over random among what parses, points",
        ),
        [
            (
                replace(_named(row), note=None if _falls_back(row) else NO_FALLBACK),
                percent(metric(row, "acceptable")),
                percent(metric(row, "arguments")),
                percent(metric(row, "accept_rate")),
                percent(metric(row, "selective_risk"), count=True),
                cell(metric(row, "relative_flops"), most=2),
                cell(None if has_flops else metric(row, "relative_seconds"), most=2),
                cell(metric(row, "relative_price"), most=2),
                words(_plain(row, "assumed_cost", 2)),
                points(metric(row, "difference_from_a")) if row["name"] != "A" else words(None),
                points(metric(row, "skill")),
                points(metric(row, "skill_among_parsed") if parsing else None),
            )
            for row in found
        ],
        caption=(
            f"Replay, {say_rows(metric(found[0], 'acceptable'))}{_of_families(results)}; 95 % "
            "intervals over tasks in "
            "brackets (shares: Wilson's at the effective number of steps; the rest: bootstrap). "
            "The assumed cost takes the source report's constants (cheap 0.15, verifier 0.10, "
            f"strong 1.00); {_costs(results, has_flops)}, and a rejected "
            "proposal pays for its fallback in both. Over random gate: accuracy above accepting "
            f"as many proposals at random{PARSERS_PART if parsing else ''}.{_left_out(results)}"
        ),
    )


def _costs(results: JSON, has_flops: bool) -> str:
    if part(results, "meta").get("server_notes"):
        return (
            "seconds are measured, and prices are what servers are paid for the tokens that they "
            "say; FLOPs of their models are not known"
        )
    source = "table" if part(results, "meta", "table") else "log"
    if has_flops and source == "table":
        return "FLOPs are of the table's token counts, cached prefixes not paid twice"
    if has_flops:
        return "FLOPs are measured, cached prefixes not paid twice"
    return f"seconds and prices are those of the {source}, where it has them"


def _of_families(results: JSON) -> str:
    return " of families that were trained on" if has_families_held_out(results) else ""


def _left_out(results: JSON) -> str:
    count = part(results, "replay").get("num_out_of_reach")
    why = (
        "without one logged action"
        if part(results, "meta", "study")
        else "whose goal was out of reach"
    )
    return f" Left out: {count} steps {why}." if count else ""


def _named(row: JSON) -> Cell:
    return Cell(main=str(row["name"]), below=str(row.get("title") or ""))


def _falls_back(row: JSON) -> bool:
    return bool(row.get("fallback")) or row["name"] in ("A", "B")


def reference_table(results: JSON) -> Table | None:
    """Each gate beside gates that need no verifier; None without any."""
    found = [r for r in rows(results, "replay", "systems") if r.get("random_gate") is not None]
    if not found:
        return None
    parsing = not all_parse(results)
    parses = [accepts_what_parses(results, row) if parsing else None for row in found]
    return table(
        (
            "system",
            "accepted, %",
            "worst gate, %",
            "random gate, %",
            "random among what parses, %",
            "this gate, %",
            "oracle gate, %",
            "oracle at its best rate, %",
            "accept what parses, %",
            "which accepts, %",
        ),
        [
            (
                words(row["name"]),
                percent(metric(row, "accept_rate")),
                _share(row, "worst_gate"),
                _share(row, "random_gate"),
                _share(row, "random_gate_among_parsed") if parsing else words(None),
                percent(metric(row, "acceptable")),
                _share(row, "oracle_gate"),
                _share(row, "peak_oracle"),
                percent(metric(reference, "acceptable")),
                percent(metric(reference, "accept_rate")),
            )
            for row, reference in zip(found, parses, strict=True)
        ],
        caption=(
            "Share acceptable of each gate beside the expected worst, random and best (oracle) "
            "that any gate with the same accept rate and proposals could reach"
            + ("; accepting what parses has an accept rate of its own" if parsing else "")
            + f".{_ends(results)}"
        ),
    )


def _ends(results: JSON) -> str:
    always, never = (metric(system(results, name), "acceptable") for name in ("B", "A"))
    if always is None or never is None:
        return ""
    told = (
        f" Always accepting is B ({percent(always).main} %), never is A ({percent(never).main} %)"
    )
    rates = agreement(results)
    if rates is None:
        return told + "."
    return (
        f"{told}; only the cheap model is right in {fixed(100 * rates.only_cheap, 1)} % of steps, "
        f"only the strong one in {fixed(100 * rates.only_strong, 1)} %."
    )


def _share(row: JSON, key: str) -> Cell:
    value = row.get(key)
    return words(None if value is None else fixed(100.0 * float(value), 1))


def families_table(results: JSON) -> Table | None:
    """Each system on task families that were trained on and on others; None without others."""
    found = [
        row
        for row in rows(results, "replay", "systems")
        if row["name"] in MAIN_SYSTEMS and part(row, "families", "out_of_family")
    ]
    if not found:
        return None
    return table(
        (
            "system",
            "in family, %",
            "out of family, %",
            "accepted in family, %",
            "accepted out of family, %",
            "in family, − A, points",
            "out of family, − A, points",
        ),
        [
            (
                words(row["name"]),
                *(
                    show(metric(part(row, "families", group), key))
                    for show, key in (
                        (percent, "acceptable"),
                        (percent, "accept_rate"),
                        (points, "difference_from_a"),
                    )
                    for group in ("in_family", "out_of_family")
                ),
            )
            for row in found
        ],
        caption=(
            "Share acceptable in and out of the task families that were trained on: "
            f"{_steps(found[0], 'in_family')} and {_steps(found[0], 'out_of_family')}."
        ),
    )


def _steps(row: JSON, group: str) -> str:
    return say_rows(metric(part(row, "families", group), "acceptable"))


def replay_section(results: JSON) -> Section | None:
    """Table A to E, frontier, reference gates."""
    blocks: list[Block | None] = [
        systems_table(results),
        figures.frontier(results),
        reference_table(results),
        families_table(results),
    ]
    return _section("Systems in replay", blocks)


def live_section(results: JSON) -> Section | None:
    """Whole episodes, never in one table with replay."""
    found = rows(results, "live")
    if not found:
        joined = part(results, "meta", "study") or part(results, "meta", "table")
        if not rows(results, "replay", "systems") or joined:
            return None
        return Section(
            title="Live episodes", blocks=[Paragraph(text="No live episodes in this run.")]
        )
    why = (
        "Here each system acts alone from the first step to the last, so an accepted mistake "
        "changes everything after it. Replay judges single steps of the expert's course, where "
        "each history is given. The two measure different things and never share a row."
    )
    shown = table(
        (
            "system",
            "tasks completed, %",
            "difference from A, points",
            "steps",
            "steps over the expert's",
            "accepted, %",
            "FLOPs, × A",
            "MFLOPs per task",
            "s per task",
            "dollars per 1,000 tasks",
        ),
        [
            (
                _named(row),
                percent(metric(row, "success")),
                points(metric(row, "difference_from_a")) if row["name"] != "A" else words(None),
                cell(metric(row, "num_steps"), most=1),
                cell(metric(row, "excess_steps"), most=1),
                percent(metric(row, "accept_rate")),
                cell(metric(row, "relative_flops"), most=2),
                words(_plain(row, "mflops_per_task", 0)),
                words(_plain(row, "seconds_per_task", 2)),
                words(_plain(row, "price_per_task", 2, times=1000.0)),
            )
            for row in found
        ],
        caption=(
            f"Live, n = {found[0].get('n')} tasks; 95 % intervals in brackets. Steps over the "
            "expert's are of completed tasks alone."
        ),
    )
    return _section("Live episodes", [Paragraph(text=why), shown, figures.live_success(results)])


def _plain(row: JSON, key: str, places: int, times: float = 1.0) -> str | None:
    value = row.get(key)
    return None if value is None else fixed(times * float(value), places)


def action_types_section(results: JSON) -> Section | None:
    """What D accepts, by the type of the action that is due."""
    kinds = part(system(results, "D") or {}, "by_type")
    if not kinds:
        return None
    shown = table(
        ("action type", "n", "accepted by D, %", "D acceptable, %", "A acceptable, %"),
        [
            (
                words(action_type_title(name)),
                words(kind["n"]),
                *(
                    percent(metric(kind, key))
                    for key in ("accept_rate", "acceptable", "strong_acceptable")
                ),
            )
            for name, kind in kinds.items()
        ],
        caption="Test steps by the type of the expert's action; no intervals.",
    )
    return _section("Accept rate by action type", [figures.accept_by_type(results), shown])


def contrasts_section(results: JSON) -> Section | None:
    """The declared comparisons, in their fixed order."""
    found = rows(results, "replay", "contrasts")
    if not found:
        return None
    shown = table(
        ("comparison", "systems", "difference, points", "detectable, points", "p", "Holm p"),
        [
            (
                words(row["name"]),
                words(f"{row['better']} − {row['worse']}"),
                points(metric(row, "difference")),
                words(_detectable(metric(row, "difference"))),
                words(p_value(row.get("p_value"))),
                words(p_value(row.get("p_holm"))),
            )
            for row in found
        ],
        caption=(
            f"Share acceptable, paired by step, {say_rows(metric(found[0], 'difference'))}. p: "
            "sign flips of whole tasks, two-sided; Holm's correction is over the rows that have "
            "one. Rows without one hold D against reference gates: two random ones of its own "
            "accept rate, and accepting whatever parses. Detectable: the true difference that such "
            "an interval leaves 0 out for in four of five samples; smaller ones mostly go unseen."
        ),
        num_words=2,
    )
    return Section(title="Declared contrasts", blocks=[shown])


def _detectable(difference: MetricValue | None) -> str | None:
    size = detectable(difference)
    return None if size is None else fixed(100 * size, 1)


def _section(title: str, blocks: list[Block | None]) -> Section | None:
    present = [block for block in blocks if block is not None]
    return Section(title=title, blocks=present) if present else None
