"""The report's figures: each returns a Picture that is drawn when asked, or None without data."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specact_rl.eval.report.blocks import Picture
from specact_rl.eval.report.frontier_figure import AXES, draw_frontier
from specact_rl.eval.report.lookup import (
    action_type_title,
    cost_key,
    part,
    rows,
    system,
    verifier_title,
)
from specact_rl.eval.report.numbers import JSON, fixed, metric
from specact_rl.eval.report.palette import (
    BLUE,
    COLOURS,
    DASHES,
    GREY,
    INK,
    LIGHT,
    ORANGE,
    RC,
    SKY,
)
from specact_rl.metrics.values import MetricValue

MIN_ACCEPTED_SHOWN = 10
"""A selective risk of fewer accepted proposals than this is not drawn: it is mostly noise."""


def risk_coverage(results: JSON) -> Picture | None:
    """How wrong are the accepted proposals when so many are accepted?"""
    judges = [
        row
        for row in rows(results, "replay", "verifiers")
        if row.get("risk_coverage") and row.get("proposer", "cheap") == "cheap"
    ]
    if not judges:
        return None
    judges.sort(key=lambda row: float(row["aurc"]))
    return Picture(
        name="risk_coverage",
        alt="Selective risk against coverage for every verifier of the cheap proposer",
        caption=(
            "Share of the accepted proposals that are not acceptable, against the share accepted, "
            "most probable first, for every verifier of the cheap proposer (best AURC first). "
            f"Below {MIN_ACCEPTED_SHOWN} accepted proposals nothing is drawn. The dot is where "
            "D's frozen threshold puts it."
        ),
        draw=lambda: _draw_risk_coverage(judges, system(results, "D")),
    )


def _draw_risk_coverage(judges: list[JSON], of_d: JSON | None) -> Figure:
    figure = Figure(figsize=(7.6, 4.6))
    axes = figure.subplots()
    base = max(float(row["risk_coverage"][-1]["risk"]) for row in judges)
    axes.axhline(base, color=GREY, linewidth=1.0, linestyle=(0, (1, 2)))
    axes.text(0.01, base, "accepting at random", color=GREY, va="bottom", fontsize=10)
    for i, row in enumerate(judges):
        curve = [
            point
            for point in row["risk_coverage"]
            if point["coverage"] * row["n"] >= MIN_ACCEPTED_SHOWN
        ]
        ours = row.get("system") == "D"
        colour = INK if ours else COLOURS[i % len(COLOURS)]
        style = "-" if ours else DASHES[i % len(DASHES)]
        axes.plot(
            [point["coverage"] for point in curve],
            [point["risk"] for point in curve],
            color=colour,
            linestyle=style,
            linewidth=2.6 if ours else 1.6,
            zorder=3 if ours else 2,
        )
        height = 0.97 - 0.1 * i
        axes.plot(
            [1.03, 1.09], [height, height], color=colour, linestyle=style,
            linewidth=2.6 if ours else 1.6, transform=axes.transAxes, clip_on=False,
        )  # fmt: skip
        axes.text(
            1.11,
            height,
            f"{verifier_title(str(row['name']))}\n{row.get('system', '')}, AURC "
            f"{fixed(float(row['aurc']), 3)}",
            color=colour,
            fontsize=9.5,
            weight="bold" if ours else "normal",
            transform=axes.transAxes,
            va="center",
        )
    _mark_operating_point(axes, judges, of_d)
    axes.set(xlabel="share accepted (coverage)", ylabel="selective risk", xlim=(0, 1.01))
    axes.set_ylim(bottom=0)
    return figure


def _mark_operating_point(axes: Axes, judges: list[JSON], of_d: JSON | None) -> None:
    judge = next((row for row in judges if row.get("system") == "D"), None)
    rate, risk = metric(of_d, "accept_rate"), metric(of_d, "selective_risk")
    if judge is None or rate is None or risk is None or risk.value is None or not rate.value:
        return
    # The accept rate is of all steps, coverage of the proposals that could be judged.
    coverage = min(1.0, rate.value * rate.n / judge["n"])
    axes.plot([coverage], [risk.value], "o", color=INK, markersize=8, zorder=4)


def frontier(results: JSON) -> Picture | None:
    """Accuracy against measured cost."""
    key = cost_key(results)
    systems = [
        row
        for row in rows(results, "replay", "systems")
        if (x := metric(row, key)) and x.value is not None
        if (y := metric(row, "acceptable")) and y.value is not None
    ]
    if len(systems) < 2:
        return None
    interpolated = (
        " Their cost is measured at both ends and at D's own accept rate, and interpolated between."
        if key == "relative_flops"
        else ""
    )
    return Picture(
        name="frontier",
        alt=f"Share of acceptable steps against {AXES[key]}",
        caption=(
            "Replay, single steps: up and to the left is better. Bars are 95 % intervals over "
            "tasks; hollow points have no fallback. The lines are what any gate on D's proposals "
            "could do at best, at random and at worst, from accepting nothing (right end) to "
            "accepting everything (left end), and at random among the proposals that parse, which "
            f"ends where all of these are accepted.{interpolated} The diamond accepts what parses "
            "and has no verifier to pay."
        ),
        draw=lambda: draw_frontier(results, systems),
    )


def accept_by_type(results: JSON) -> Picture | None:
    """Which kinds of action does D dare to accept?"""
    row = system(results, "D")
    kinds = {
        name: kind
        for name, kind in part(row or {}, "by_type").items()
        if kind["acceptable"] is not None and kind["strong_acceptable"] is not None
    }
    if row is None or not kinds:
        return None
    return Picture(
        name="accept_by_type",
        alt="Accept rate of system D and accuracy of D and A per action type",
        caption=(
            "System D by the type of the expert's action, most frequent first: share of steps "
            "whose proposal is accepted, and share acceptable of D beside that of the strong "
            "model alone. Rare types have wide intervals, which are not drawn."
        ),
        draw=lambda: _draw_by_type(kinds),
    )


def _draw_by_type(kinds: JSON) -> Figure:
    names = sorted(kinds, key=lambda name: kinds[name]["n"])
    figure = Figure(figsize=(9.0, 0.42 * len(names) + 1.3))
    rates, accuracy = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": (1, 1)})
    shares = [100.0 * kinds[name]["accept_rate"] for name in names]
    rates.barh(range(len(names)), shares, color=SKY, height=0.62)
    for i, (name, share) in enumerate(zip(names, shares, strict=True)):
        label = f"{fixed(share, 0)} %, n = {kinds[name]['n']}"
        inside = share > 65.0
        rates.text(
            share + (-1.5 if inside else 1.5), i, label, va="center",
            ha="right" if inside else "left", fontsize=9.5, color=INK,
        )  # fmt: skip
    rates.set_yticks(range(len(names)), [action_type_title(name) for name in names])
    for i, name in enumerate(names):
        ours, strong = 100 * kinds[name]["acceptable"], 100 * kinds[name]["strong_acceptable"]
        accuracy.plot([ours, strong], [i, i], color=LIGHT, linewidth=3, zorder=1)
        accuracy.plot([strong], [i], "s", color=ORANGE, markersize=7)
        accuracy.plot([ours], [i], "o", color=BLUE, markersize=7)
    for x, colour, text in ((0.0, BLUE, "● D"), (0.13, ORANGE, "■ A, strong only")):
        accuracy.text(x, 1.02, text, color=colour, transform=accuracy.transAxes, fontsize=10)
    rates.set(xlabel="accepted, %", xlim=(0, 100))
    accuracy.set(xlabel="acceptable, %", xlim=(-2, 102))
    for axes in (rates, accuracy):
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    return figure


def live_success(results: JSON) -> Picture | None:
    """Which systems finish tasks?"""
    shown = [
        (row, success)
        for row in rows(results, "live")
        if (success := metric(row, "success")) is not None and success.value is not None
    ]
    if not shown:
        return None
    return Picture(
        name="live_success",
        alt="Share of tasks that each system completes in live episodes",
        caption="Live episodes: share of test tasks completed, with 95 % intervals.",
        draw=lambda: _draw_live(shown),
    )


def _draw_live(shown: list[tuple[JSON, MetricValue]]) -> Figure:
    figure = Figure(figsize=(7.6, 0.46 * len(shown) + 1.1))
    axes: Axes = figure.subplots()
    for i, (row, success) in enumerate(reversed(shown)):
        assert success.value is not None  # live_success kept those that have one
        value = 100.0 * success.value
        axes.barh([i], [value], color=ORANGE if row["name"] == "A" else SKY, height=0.6)
        end = value
        if success.low is not None and success.high is not None:
            axes.plot([100 * success.low, 100 * success.high], [i, i], color=INK, linewidth=1.6)
            end = max(value, 100 * success.high)
        axes.text(end + 1.0, i, f"{fixed(value, 0)} %", va="center", fontsize=10)
    names = [f"{row['name']}  {row.get('title', '')}" for row, _ in reversed(shown)]
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="tasks completed, %", xlim=(0, 108))
    axes.set_xticks(range(0, 101, 20))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    return figure


@contextmanager
def house_style() -> Iterator[None]:
    """Fonts, grid and colours of every figure; SVG with the same bytes for the same data."""
    # matplotlib spells its parameters out as a Literal; ours are checked when they are set.
    with matplotlib.rc_context(RC):  # type: ignore[arg-type]
        yield


def render(picture: Picture, form: str) -> bytes:
    """A picture as "png" or "svg" bytes."""
    with house_style():
        stream = io.BytesIO()
        # Dates and versions would change the bytes from one run to the next.
        metadata = {"Date": None} if form == "svg" else {"Software": None}
        picture.draw().savefig(stream, format=form, dpi=150, bbox_inches="tight", metadata=metadata)
        return stream.getvalue()
