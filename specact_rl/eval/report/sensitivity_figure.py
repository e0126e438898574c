"""Cost of each system over the price of a proposal and of a score, relative to the strong model."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specact_rl.eval.report.blocks import Picture
from specact_rl.eval.report.lookup import rows
from specact_rl.eval.report.numbers import JSON, fixed
from specact_rl.eval.report.palette import COLOURS, DASHES, GREY, INK

UNIT_TITLES = {
    "assumed": "assumed price list",
    "flops": "FLOPs",
    "seconds": "seconds",
    "price": "dollars",
}
ROLE_TITLES = {"proposer": "proposal", "verifier": "score", "strong": "strong call"}
NAMED = ("A", "B", "C", "D", "E")
MOST_SHOWN = 7
HIGHEST = 2.5
"""Costs above this, times A, are not drawn."""
NARROW = 0.09
"""Share of the width below which a stretch has no room for its name."""


def priced_in(unit: str) -> str:
    """A unit in running text."""
    return "at the assumed prices" if unit == "assumed" else f"in {UNIT_TITLES[unit]}"


def main_unit(results: JSON) -> JSON | None:
    """The sensitivity that a picture shows: of what was measured, where anything was."""
    found = {row["unit"]: row for row in rows(results, "replay", "sensitivity")}
    return next((found[unit] for unit in ("flops", "price", "assumed") if unit in found), None)


def sensitivity_picture(results: JSON) -> Picture | None:
    """At which prices does another system become the cheaper, or the better one?"""
    row = main_unit(results)
    axes = [axis for axis in (row or {}).get("axes", []) if _has_range(row or {}, axis)]
    if row is None or not axes:
        return None
    names = _shown(row, axes)
    weight = fixed(100.0 * float(row["cost_weight"]), 0)
    return Picture(
        name="sensitivity",
        alt="Cost of each system relative to the strong model over the price of a proposal and of "
        "a score",
        caption=(
            f"Cost per step {priced_in(row['unit'])}, relative to A, over what a proposal and "
            "what a score costs in units of A's step; all else as measured, n = "
            f"{row['n']} steps. The dotted line is the price in this run, a dot where a system "
            f"starts or stops being cheaper than A. Below: the system of the highest accuracy less "
            f"{weight} points for the cost of one of A's steps."
        ),
        draw=lambda: _draw(row, axes, names),
    )


def _has_range(row: JSON, axis: JSON) -> bool:
    return bool(axis["factors"]) and axis["role"] != "strong" and bool(row["base"][axis["role"]])


def _shown(row: JSON, axes: list[JSON]) -> list[str]:
    """A to E, then whichever else is the best at some price in the picture."""
    present = [str(system["name"]) for system in row["systems"]]
    best = [
        str(stretch["system"])
        for axis in axes
        for stretch in axis["best"]
        if _overlap(stretch, axis) is not None
    ]
    wanted = [*(name for name in NAMED if name in present), *best]
    return list(dict.fromkeys(wanted))[:MOST_SHOWN]


def _overlap(stretch: JSON, axis: JSON) -> tuple[float, float] | None:
    """The part of a stretch that lies within the factors drawn."""
    low = max(float(stretch["from"]), axis["factors"][0])
    high = min(np.inf if stretch["to"] is None else float(stretch["to"]), axis["factors"][-1])
    return (low, high) if low < high else None


def _draw(row: JSON, axes: list[JSON], names: list[str]) -> Figure:
    figure = Figure(figsize=(4.6 * len(axes) + 1.2, 4.6))
    grid = figure.subplots(
        2, len(axes), sharex="col", sharey="row", squeeze=False,
        gridspec_kw={"height_ratios": (9, 1), "hspace": 0.08, "wspace": 0.08},
    )  # fmt: skip
    styles = {
        name: (INK if name == "A" else COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)])
        for i, name in enumerate(names)
    }
    for column, axis in enumerate(axes):
        _draw_costs(grid[0][column], row, axis, styles)
        _draw_best(grid[1][column], row, axis, styles)
    grid[0][0].set_ylabel("cost per step, × A")
    grid[0][0].set_ylim(0, HIGHEST)
    for i, (name, (colour, style)) in enumerate(styles.items()):
        height = 0.97 - 0.085 * i
        where = grid[0][-1].transAxes
        grid[0][-1].plot(
            [1.03, 1.11], [height, height], color=colour, linestyle=style, linewidth=2.0,
            transform=where, clip_on=False,
        )  # fmt: skip
        grid[0][-1].text(1.13, height, name, color=colour, transform=where, va="center")
    return figure


def _draw_costs(axes: Axes, row: JSON, axis: JSON, styles: dict[str, tuple[str, object]]) -> None:
    role, base = axis["role"], float(row["base"][axis["role"]])
    factors = np.geomspace(axis["factors"][0], axis["factors"][-1], 200)
    systems = {system["name"]: system for system in row["systems"]}
    for name, (colour, style) in styles.items():
        system = systems[name]
        fixed_part = sum(float(system[r]) for r in ROLE_TITLES if r != role)
        axes.plot(
            base * factors, fixed_part + float(system[role]) * factors, color=colour,
            linestyle=style, linewidth=2.4 if name in ("A", "D") else 1.7,
        )  # fmt: skip
    for against in axis["against_a"]:
        at = (against["at"] or {}).get("value")
        if at is not None and against["system"] in styles and factors[0] <= at <= factors[-1]:
            axes.plot([base * at], [1.0], "o", color=styles[against["system"]][0], markersize=7)
    axes.axvline(base, color=GREY, linewidth=1.2, linestyle=(0, (1, 2)))
    axes.set_xscale("log", base=2)
    axes.set_xlim(base * factors[0], base * factors[-1])


def _draw_best(axes: Axes, row: JSON, axis: JSON, styles: dict[str, tuple[str, object]]) -> None:
    base = float(row["base"][axis["role"]])
    whole = np.log2(axis["factors"][-1] / axis["factors"][0])
    for stretch in axis["best"]:
        part = _overlap(stretch, axis)
        if part is None:
            continue
        name = str(stretch["system"])
        colour = styles[name][0] if name in styles else GREY
        axes.barh([0], [base * (part[1] - part[0])], left=base * part[0], color=colour, height=1)
        if np.log2(part[1] / part[0]) / whole > NARROW:
            middle = base * float(np.sqrt(part[0] * part[1]))
            axes.text(middle, 0, name, color="white", ha="center", va="center", fontsize=10)
    axes.set_yticks([0], ["best"])
    axes.set_ylim(-0.5, 0.5)
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    ticks = base * 2.0 ** np.arange(-2, 3, 2)
    axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"price of a {ROLE_TITLES[axis['role']]}, × A's step")
