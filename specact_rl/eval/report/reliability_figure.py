"""Reliability diagrams: observed against promised, with the band that chance alone explains."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specact_rl.eval.report.blocks import Picture
from specact_rl.eval.report.lookup import rows, verifier_title
from specact_rl.eval.report.numbers import JSON, fixed
from specact_rl.eval.report.palette import BLUE, GREY, INK, LIGHT, ORANGE, SKY

MAIN = "D"
NUM_COLUMNS = 3
TICKS = [0, 0.2, 0.4, 0.6, 0.8, 1]
BAND = (
    "Grey: where each bin lies in 95 % of data sets if the probabilities are right and the labels "
    "independent; of ten bins one or more is outside in 4 of 10 such data sets."
)


def reliability(results: JSON) -> Picture | None:
    """Are D's probabilities right, or those of the first verifier if there is no D?"""
    row = main_row(results)
    if row is None:
        return None
    bins = rows(row, "reliability")
    name = row.get("system") or MAIN
    return Picture(
        name="reliability",
        alt=f"Reliability diagram of system {name}'s verifier: share acceptable against p_accept",
        caption=(
            f"Reliability of {name}'s verifier on the test split, n = {row['n']} proposals in "
            f"{len(bins)} bins of equal mass; on the dashed line they are right. Bars are 95 % "
            f"intervals of what was observed, over tasks.{_band_text(bins)} Bottom: proposals per "
            "bin."
        ),
        draw=lambda: _draw_one(row, bins),
    )


def other_reliabilities(results: JSON) -> Picture | None:
    """The same of every other verifier, small."""
    main = main_row(results)
    found = [
        row for row in rows(results, "replay", "verifiers") if row.get("reliability")
        and row is not main
    ]  # fmt: skip
    if not found:
        return None
    return Picture(
        name="reliability_others",
        alt="Reliability diagrams of the other verifiers: share acceptable against p_accept",
        caption=(
            "The other verifiers, each with the calibrator of its own gate; the area of a dot goes "
            f"with the proposals in its bin.{_band_text(rows(found[0], 'reliability'))}"
        ),
        draw=lambda: _draw_others(found),
    )


def main_row(results: JSON) -> JSON | None:
    """The verifier's row that the page looks at closely; None without a reliability curve."""
    found = [row for row in rows(results, "replay", "verifiers") if row.get("reliability")]
    of_main = [row for row in found if row.get("system") == MAIN]
    return next(iter(of_main + found), None)


def _band_text(bins: list[JSON]) -> str:
    return f" {BAND}" if bins and bins[0].get("calibrated_low") is not None else ""


def _draw_one(row: JSON, bins: list[JSON]) -> Figure:
    figure = Figure(figsize=(5.6, 5.8))
    top, strip = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (5, 1)})
    p = [b["p_accept"] for b in bins]
    _draw_curve(top, bins, marker=6.0)
    threshold = row.get("threshold")
    if threshold is not None and 0.0 < threshold <= 1.0:
        for axes in (top, strip):
            axes.axvline(threshold, color=ORANGE, linewidth=1.4)
        left = threshold > 0.7
        top.text(
            threshold + (-0.015 if left else 0.015),
            1.11,
            f"accepted from {fixed(threshold, 2)}",
            color=ORANGE,
            ha="right" if left else "left",
            va="top",
        )
    top.set(ylabel="share acceptable", xlim=(-0.02, 1.02), ylim=(-0.03, 1.12), yticks=TICKS)
    counts = [b["n"] for b in bins]
    strip.vlines(p, 0, counts, color=SKY, linewidth=5)
    strip.set(ylabel="proposals", xlabel="calibrated probability that the proposal is acceptable")
    strip.set_ylim(0, 1.45 * max(counts))
    for label, x, count in _apart(p, counts):
        strip.text(x, count, label, ha="center", va="bottom", fontsize=8, color=INK)
    figure.align_ylabels()
    return figure


def _apart(p: list[float], counts: list[int]) -> list[tuple[str, float, int]]:
    """Counts that can be written without touching one another, from the left."""
    shown: list[tuple[str, float, int]] = []
    for x, count in sorted(zip(p, counts, strict=True)):
        if not shown or x - shown[-1][1] > 0.02 + 0.017 * len(str(count)):
            shown.append((str(count), x, count))
    return shown


def _draw_curve(axes: Axes, bins: list[JSON], marker: float) -> None:
    p, share = [b["p_accept"] for b in bins], [b["acceptable"] for b in bins]
    if all(b.get("calibrated_low") is not None for b in bins):
        axes.fill_between(
            p,
            [b["calibrated_low"] for b in bins],
            [b["calibrated_high"] for b in bins],
            color=LIGHT,
            alpha=0.75,
            linewidth=0,
        )
        if len(bins) == 1:  # no area between one point
            axes.vlines(p, bins[0]["calibrated_low"], bins[0]["calibrated_high"], color=LIGHT, lw=9)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 3)), linewidth=1.2)
    axes.plot(p, share, color=BLUE, linewidth=1.2, alpha=0.5)
    for b in bins:
        if b.get("low") is not None and b.get("high") is not None:
            axes.vlines(b["p_accept"], b["low"], b["high"], color=BLUE, linewidth=1.6)
    most = max(b["n"] for b in bins)
    sizes = [marker**2 * (0.25 + 0.75 * b["n"] / most) for b in bins]
    axes.scatter(p, share, s=sizes, color=BLUE, zorder=3)


def _draw_others(found: list[JSON]) -> Figure:
    columns = min(NUM_COLUMNS, len(found))
    lines = math.ceil(len(found) / columns)
    figure = Figure(figsize=(2.9 * columns, 2.9 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes, row in zip(grid.flat, found, strict=False):
        _draw_curve(axes, rows(row, "reliability"), marker=5.0)
        axes.set_title(
            f"{row.get('system') or ''}, n = {row['n']}\n{verifier_title(str(row['name']))}",
            fontsize=9.5,
            loc="left",
        )
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.03, 1.03), xticks=TICKS[::2], yticks=TICKS)
        axes.tick_params(labelbottom=True)
    for axes in list(grid.flat)[len(found) :]:
        axes.set_visible(False)
    figure.supxlabel("calibrated probability", fontsize=10)
    figure.supylabel("share acceptable", fontsize=10)
    return figure
