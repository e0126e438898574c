"""Heat maps: one number per cell of a table, as colour and in figures. Knows no sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from specact_rl.eval.report.palette import GREY, INK

# Not of the palette, so that a dark page leaves cells and the figures in them as they are.
_GOOD, _BAD, _FIGURES = "#dcebf7", "#e0763c", "#15191e"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """One panel."""

    title: str
    values: Sequence[Sequence[float | None]]
    """Rows from the top; None where there is nothing, NaN where the training diverged."""
    show: Callable[[float], str]
    """A value as text."""
    best: float
    """Value of the palest colour, on whichever side of `worst`."""
    worst: float
    """Value of the darkest colour; beyond it nothing gets darker."""


def draw_heat_maps(
    panels: Sequence[HeatMap],
    row_names: Sequence[str],
    column_names: Sequence[str],
    column_title: str,
    gaps: Sequence[int] = (),
) -> Figure:
    """Panels over the same rows and columns, two beside each other.

    Args:
        panels: At least one.
        row_names: From the top.
        column_names: From the left.
        column_title: What the columns are.
        gaps: Rows before which another block begins.
    """
    places = [i + 0.35 * sum(gap <= i for gap in gaps) for i in range(len(row_names))]
    height = places[-1] + 1.0
    lines = (len(panels) + 1) // 2
    figure = Figure(figsize=(10.4, lines * (1.15 + 0.36 * height)), layout="constrained")
    grid = figure.subplots(lines, 2, squeeze=False, sharex=True, sharey=True)
    colours = LinearSegmentedColormap.from_list("sweep", [_GOOD, _BAD])
    for axes, panel in zip(grid.flat, panels, strict=False):
        for place, row in zip(places, panel.values, strict=True):
            for column, value in enumerate(row):
                if value is None:
                    continue
                diverged = bool(np.isnan(value))
                share = 1.0 if diverged else (value - panel.best) / (panel.worst - panel.best)
                colour = to_hex(colours(float(np.clip(share, 0.0, 1.0))))
                axes.add_patch(Rectangle((column, place), 0.97, 0.94, color=colour, linewidth=0))
                text = "diverged" if diverged else panel.show(value)
                axes.text(
                    column + 0.485, place + 0.48, text,
                    ha="center", va="center", fontsize=9.5, color=_FIGURES,
                )  # fmt: skip
        axes.set_title(panel.title, fontsize=11, loc="left", color=INK)
        axes.set(xlim=(0, len(column_names)), ylim=(height, 0))
        axes.set_xticks([i + 0.485 for i in range(len(column_names))], column_names)
        axes.set_yticks([place + 0.47 for place in places], row_names)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel(column_title)
        axes.xaxis.label.set_color(GREY)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    return figure
