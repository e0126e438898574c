"""The page of two runs held against each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from specact_rl.eval.report.blocks import (
    Block,
    Finding,
    Findings,
    Paragraph,
    Section,
    Table,
    table,
    words,
)
from specact_rl.eval.report.judging import holm, listed, status_of, unsettled
from specact_rl.eval.report.lookup import part, rows, system
from specact_rl.eval.report.numbers import (
    JSON,
    cell,
    detectable,
    fixed,
    metric,
    p_value,
    percent,
    points,
    say_percent,
    say_points,
    say_rows,
)
from specact_rl.eval.report.page import HOW_TO_READ, Page
from specact_rl.metrics.values import MetricValue

META = ("preset", "seed", "command", "code_version", "source_hash", "label", "calibration_rule")
"""What is said of each run where the two differ."""
PAIRED = (
    "Both runs have the same test steps, so differences are paired by step: intervals resample "
    "whole tasks, p is of sign flips of whole tasks."
)
UNPAIRED = (
    "The runs have other test steps, so nothing is paired: intervals and p take them as "
    "independent samples of tasks."
)


def compare_page(compared: JSON, results: tuple[JSON, JSON], names: tuple[str, str]) -> Page:
    """A page with verdicts, the table, and what the runs differ in.

    Args:
        compared: What `compare_runs` returned.
        results: Of both runs, for what they are.
        names: Of the runs, as the reader gave them.
    """
    found = [_as_json(row) for row in compared["rows"]]
    how = PAIRED if compared["paired"] else UNPAIRED + _shared(compared)
    told = (
        f"Run 1 is {names[0]}, run 2 is {names[1]}; a difference is run 2 less run 1. {how} Holm's "
        f"correction is over the {len(found)} systems that both have; families held out are left "
        f"out. {HOW_TO_READ}"
    )
    blocks: list[Block] = [Paragraph(text=told), Findings(items=tuple(_findings(found)))]
    differing = _differing(results)
    return Page(
        title="Two runs compared",
        summary=blocks,
        sections=[
            Section(title="Systems", blocks=[_table(compared, found)]),
            *([Section(title="What the runs differ in", blocks=[differing])] if differing else []),
        ],
    )


def _as_json(row: JSON) -> JSON:
    return {k: asdict(v) if isinstance(v, MetricValue) else v for k, v in row.items()}


def _shared(compared: JSON) -> str:
    count = compared["num_common_tasks"]
    if not count:
        return ""
    return f" {count} tasks are in both, which makes these intervals wider than they need be."


def _findings(found: list[JSON]) -> Iterator[Finding]:
    for row in found:
        difference = metric(row, "difference")
        if difference is None or row["num_disagree"] == 0:
            continue
        status = status_of(difference, row)
        yield Finding(
            status=status,
            claim=_claim(status, row["system"]),
            evidence=(
                f"{say_points(difference)}: {say_percent(metric(row, 'second'))} against "
                f"{say_percent(metric(row, 'first'))}, {say_rows(difference)}{holm(row)}."
                f"{unsettled(status, difference)}"
            ),
        )
    same = [str(row["system"]) for row in found if row["num_disagree"] == 0]
    if same:
        each = "is" if len(same) == 1 else "are each"
        yield Finding(
            status="note",
            claim=f"{listed(same)} {each} right and wrong at the same steps in both runs.",
            evidence="",
        )


def _claim(status: str, name: object) -> str:
    return {
        "shown": f"{name} is right more often in run 2.",
        "against": f"{name} is right less often in run 2.",
        "open": f"It is not shown that {name} is right more or less often in run 2.",
    }.get(status, f"Whether {name} is right more often in run 2 cannot be said.")


def _table(compared: JSON, found: list[JSON]) -> Table:
    only = [
        f"only in run {i}: {', '.join(compared[key])}."
        for i, key in ((1, "only_first"), (2, "only_second"))
        if compared[key]
    ]
    return table(
        (
            "system",
            "acceptable in run 1, %",
            "in run 2, %",
            "difference, points",
            "steps that disagree",
            "p",
            "Holm p",
            "detectable, points",
            "accepted in run 1, %",
            "in run 2, %",
            "difference, points",
            "FLOPs, run 2 / run 1",
        ),
        [
            (
                words(row["system"]),
                percent(metric(row, "first")),
                percent(metric(row, "second")),
                points(metric(row, "difference")),
                words(row["num_disagree"]),
                words(p_value(row["p_value"])),
                words(p_value(row["p_holm"])),
                words(_detectable(row)),
                percent(metric(row, "accept_first")),
                percent(metric(row, "accept_second")),
                points(metric(row, "accept_difference")),
                cell(metric(row, "flops_ratio"), most=2),
            )
            for row in found
        ],
        caption=(
            f"n = {compared['n'][0]} steps in run 1, {compared['n'][1]} in run 2; 95 % intervals "
            "in brackets. Detectable: the true difference that these data show with "
            "80 % power; smaller ones mostly go unseen. "
            + " ".join(text[0].upper() + text[1:] for text in only)
        ).rstrip(),
    )


def _detectable(row: JSON) -> str | None:
    found = detectable(metric(row, "difference"))
    return None if found is None else fixed(100.0 * found, 1)


def _differing(results: tuple[JSON, JSON]) -> Table | None:
    """What of the runs' provenance differs, and of the gates of the systems that both have."""
    metas = [part(found, "meta") for found in results]
    lines = [(key.replace("_", " "), *(meta.get(key) for meta in metas)) for key in META]
    for row in rows(results[0], "replay", "systems"):
        pair = [system(found, str(row["name"])) for found in results]
        lines.append((f"gate of {row['name']}", *((r or {}).get("gate_id") for r in pair)))
    shown = [
        (words(key), words(first), words(second)) for key, first, second in lines if first != second
    ]
    return table(("", "run 1", "run 2"), shown, num_words=3) if shown else None
