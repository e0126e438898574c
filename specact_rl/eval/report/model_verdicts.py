"""Verdicts on single models: beside baselines, after DPO, and on families they never saw."""

from __future__ import annotations

from collections.abc import Iterator

from specact_rl.eval.report.blocks import Finding, Status
from specact_rl.eval.report.judging import (
    beats_all,
    claim,
    holm,
    listed,
    status_of,
    unsettled,
)
from specact_rl.eval.report.lookup import contrast, part, proposer, rows, system
from specact_rl.eval.report.numbers import (
    JSON,
    Direction,
    direction,
    independent_difference,
    metric,
    say_percent,
    say_points,
    say_rows,
)
from specact_rl.metrics.values import MetricValue

A_LOSS: dict[Direction, Status] = {
    "below": "against",
    "above": "note",
    "open": "open",
    "unknown": "unknown",
}
"""Status of the loss by the side of the difference: it is what one hopes not to see."""


def cheap_against_baselines(results: JSON) -> Iterator[Finding]:
    """Does the cheap proposer do what copying training steps cannot?"""
    gains = {
        str(row["name"]).replace("_", " "): gain
        for row in rows(results, "replay", "baselines")
        if (gain := metric(row, "cheap_minus_baseline")) is not None
    }
    if not gains:
        return
    status, names = beats_all(gains)
    told = "; ".join(f"{say_points(gain)} over {name}" for name, gain in gains.items())
    yield Finding(
        status=status,
        claim=claim(
            status,
            f"the cheap proposer beats the baselines without a language model ({listed(names)})",
            f"The cheap proposer is worse than a baseline without a language model: "
            f"{listed(names)}.",
        ),
        evidence=f"Same arguments as the expert: {told}, {say_rows(next(iter(gains.values())))}."
        + (unsettled(status, gains[names[0]]) if len(names) == 1 else ""),
    )


def preference_training(results: JSON) -> Iterator[Finding]:
    """Did DPO make the proposer better?"""
    row = contrast(results, "B-dpo", "B")
    difference = metric(row, "difference")
    if row is None or difference is None:
        return
    status = status_of(difference, row)
    yield Finding(
        status=status,
        claim=claim(
            status,
            "DPO makes the proposer better than its SFT start",
            "DPO makes the proposer worse than its SFT start.",
        ),
        evidence=f"B-dpo − B = {say_points(difference)}, {say_rows(difference)}{holm(row)}."
        f"{unsettled(status, difference)}",
    )


def new_families(results: JSON) -> Iterator[Finding]:
    """How much is lost outside the task families that were trained on?"""
    for title, groups in (
        ("the cheap proposer", part(proposer(results, "cheap") or {}, "groups")),
        ("the strong model", part(proposer(results, "strong") or {}, "groups")),
        ("D", part(system(results, "D") or {}, "families")),
    ):
        inside = metric(groups.get("in_family"), "acceptable")
        outside = metric(groups.get("out_of_family"), "acceptable")
        if inside is None or outside is None or inside.value is None or outside.value is None:
            continue
        beside_a = metric(groups.get("out_of_family"), "difference_from_a")
        yield _loss(title, inside, outside, beside_a)


def _loss(
    title: str, inside: MetricValue, outside: MetricValue, beside_a: MetricValue | None
) -> Finding:
    gain = independent_difference(outside, inside)
    status = A_LOSS[direction(gain)]
    that = f"{title} is worse on task families it never saw"
    text = claim(status, that, f"{that[0].upper()}{that[1:]}.")
    if status == "note":
        text = text.replace("is worse on", "is better on").replace("saw.", "saw, which are easier.")
    evidence = (
        f"{say_percent(outside)} acceptable there against {say_percent(inside)}: "
        f"{say_points(gain)}; {say_rows(outside)} against {say_rows(inside)}."
    )
    if beside_a is not None:
        evidence += f" On those families D − A = {say_points(beside_a)}."
    return Finding(status=status, claim=text, evidence=evidence + unsettled(status, gain))
