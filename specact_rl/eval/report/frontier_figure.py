"""Cost against accuracy: the systems, and what a gate on D's proposals could reach."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from specact_rl.eval.report.lookup import (
    accept_rate,
    accepts_what_parses,
    agreement,
    cost_key,
    overhead,
    system,
)
from specact_rl.eval.report.numbers import JSON, metric
from specact_rl.eval.report.palette import BLUE, GREEN, GREY, INK, ORANGE, PURPLE
from specact_rl.eval.report.placement import Box, place_labels
from specact_rl.metrics.frontier import oracle_gate, random_gate, worst_gate

MAIN = ("A", "B", "C", "D", "E")
AXES = {
    "relative_flops": "forward FLOPs per step, relative to the strong model alone (measured)",
    "strong_calls": "share of steps that call the strong model",
}
Labels = list[tuple[str, float, float, str]]
"""Text, x, y in data units, colour."""


def draw_frontier(results: JSON, systems: list[JSON]) -> Figure:
    """Points with error bars, the envelopes, and labels that do not cover one another."""
    figure = Figure(figsize=(8.4, 5.4))
    canvas = FigureCanvasAgg(figure)
    axes: Axes = figure.subplots()
    key = cost_key(results)
    labels = _draw_envelopes(axes, results, key)
    labels += _draw_reference(axes, results, key)
    for row in systems:
        labels.append(_draw_system(axes, row, key))
    axes.set(xlabel=AXES[key], ylabel="acceptable, %")
    axes.set_xlim(left=0)
    axes.margins(x=0.08, y=0.1)
    canvas.draw()  # type: ignore[no-untyped-call]
    _write_labels(axes, labels)
    return figure


def _draw_system(axes: Axes, row: JSON, key: str) -> tuple[str, float, float, str]:
    cost, share = metric(row, key), metric(row, "acceptable")
    assert cost is not None
    assert share is not None
    assert cost.value is not None
    assert share.value is not None
    name = str(row["name"])
    colour = INK if name in MAIN else BLUE
    x, y = cost.value, 100.0 * share.value
    for low, high, across in (
        (cost.low, cost.high, True),
        (share.low and 100.0 * share.low, share.high and 100.0 * share.high, False),
    ):
        if low is not None and high is not None:
            xs, ys = ([low, high], [y, y]) if across else ([x, x], [low, high])
            axes.plot(xs, ys, color=colour, alpha=0.35, linewidth=1.4)
    whole = bool(row.get("fallback")) or name == "A"
    axes.plot(
        [x], [y], "o", color=colour, markersize=8 if name in MAIN else 6,
        markerfacecolor=colour if whole else "white", markeredgewidth=1.6, zorder=6,
    )  # fmt: skip
    return name, x, y, colour


def _draw_reference(axes: Axes, results: JSON, key: str) -> Labels:
    row = accepts_what_parses(results, system(results, "D"))
    cost, share = metric(row, key), metric(row, "acceptable")
    if cost is None or share is None or cost.value is None or share.value is None:
        return []
    x, y = cost.value, 100.0 * share.value
    axes.plot([x], [y], "D", color=PURPLE, markersize=7, zorder=5)
    return [("accept what parses", x, y, PURPLE)]


def _draw_envelopes(axes: Axes, results: JSON, key: str) -> Labels:
    """Lines over the accept rate if its cost is known at both ends, else marks at D's own."""
    row = system(results, "D")
    rates, ends = agreement(results), overhead(results) if key == "relative_flops" else 0.0
    cost, own = metric(row, key), accept_rate(row)
    if row is None or rates is None or cost is None or cost.value is None or own is None:
        return []
    if ends is None and own in (0.0, 1.0):
        return []  # every gate is the same there
    if ends is None:
        return _draw_marks(axes, row, cost.value)
    a = np.linspace(0.0, 1.0, 101)
    knots = {0.0: ends + 1.0, 1.0: ends} | {own: cost.value}
    x = np.interp(a, sorted(knots), [knots[rate] for rate in sorted(knots)])
    best, chance, worst = (
        100.0 * np.array([gate(rates, float(rate)) for rate in a])
        for gate in (oracle_gate, random_gate, worst_gate)
    )
    axes.fill_between(x, worst, best, color=GREY, alpha=0.07, linewidth=0)
    labels: Labels = []
    for y, colour, style, text, at in (
        (best, GREEN, (0, (6, 2)), "oracle gate", 30),
        (chance, GREY, (0, (2, 2)), "random gate", 18),
        (worst, ORANGE, (0, (1, 1.5)), "worst gate", 30),
    ):
        axes.plot(x, y, color=colour, linestyle=style, linewidth=1.6, zorder=1)
        labels.append((text, float(x[at]), float(y[at]), colour))
    parses = accepts_what_parses(results, row)
    rate, share = accept_rate(parses), metric(parses, "acceptable")
    if rate and share is not None and share.value is not None:
        some = np.append(a[a < rate], rate)
        y = 100.0 * (rates.strong + some / rate * (share.value - rates.strong))
        xs = np.interp(some, a, x)
        axes.plot(xs, y, color=PURPLE, linestyle=(0, (4, 1.5, 1, 1.5)), linewidth=1.6, zorder=1)
        middle = some.size // 2
        labels.append(("random among what parses", float(xs[middle]), float(y[middle]), PURPLE))
    return labels


def _draw_marks(axes: Axes, row: JSON, x: float) -> Labels:
    labels: Labels = []
    for key, colour, text in (
        ("oracle_gate", GREEN, "oracle gate at D's accept rate"),
        ("random_gate", GREY, "random gate at D's accept rate"),
        ("random_gate_among_parsed", PURPLE, "random among what parses"),
        ("worst_gate", ORANGE, "worst gate at D's accept rate"),
    ):
        if row.get(key) is not None:
            y = 100.0 * float(row[key])
            axes.plot([x], [y], "_", color=colour, markersize=18, markeredgewidth=2.4)
            labels.append((text, x, y, colour))
    return labels


def _write_labels(axes: Axes, labels: Labels) -> None:
    """Measure each text, find it a place, and lead a thin line to it when it is far."""
    window = axes.get_window_extent()
    bounds = Box(left=window.x0 + 2, bottom=window.y0 + 2, right=window.x1 - 2, top=window.y1 - 2)
    to_pixels, to_data = axes.transData, axes.transData.inverted()
    anchors = [tuple(map(float, to_pixels.transform((x, y)))) for _, x, y, _ in labels]
    sizes = []
    for text, *_ in labels:
        drawn = axes.text(0, 0, text, fontsize=10.5, weight=_weight(text))
        extent = drawn.get_window_extent()
        sizes.append((extent.width + 2.0, extent.height + 2.0))
        drawn.remove()
    found = place_labels([(a[0], a[1]) for a in anchors], sizes, _line_boxes(axes), bounds)
    for (text, x, y, colour), box in zip(labels, found, strict=True):
        centre = to_data.transform(((box.left + box.right) / 2, (box.bottom + box.top) / 2))
        start = to_pixels.transform((x, y))
        near = box.nearest((float(start[0]), float(start[1])))
        if np.hypot(*(np.subtract(near, start))) > 14.0:
            end = to_data.transform(near)
            axes.plot([x, end[0]], [y, end[1]], color=colour, linewidth=0.7, alpha=0.6, zorder=1)
        axes.text(
            centre[0], centre[1], text, color=colour, fontsize=10.5, ha="center", va="center",
            weight=_weight(text), zorder=5,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip


def _weight(text: str) -> str:
    return "bold" if text in MAIN else "normal"


def _line_boxes(axes: Axes) -> list[Box]:
    """Small boxes along every line, so that labels keep off them."""
    boxes = []
    for line in axes.get_lines():
        xy = axes.transData.transform(line.get_xydata())
        for (x0, y0), (x1, y1) in zip(xy[:-1], xy[1:], strict=True):
            steps = max(2, int(np.hypot(x1 - x0, y1 - y0) // 6))
            for t in np.linspace(0.0, 1.0, steps):
                x, y = float(x0 + t * (x1 - x0)), float(y0 + t * (y1 - y0))
                boxes.append(Box(left=x - 1.5, bottom=y - 1.5, right=x + 1.5, top=y + 1.5))
    return boxes
