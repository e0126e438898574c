"""Colours that colour-blind readers can tell apart, and the look of the axes."""

from __future__ import annotations

from typing import Any

BLUE = "#0072B2"
ORANGE = "#C2571A"
GREEN = "#00785A"
SKY = "#8EC5E8"
PURPLE = "#A8508A"
GREY = "#767676"
LIGHT = "#D0D4D9"
INK = "#1F2933"
OLIVE = "#8A6D00"
STEEL = "#3B7DA8"
GRID = "#E6E8EB"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, OLIVE, GREY, STEEL)
"""After Okabe and Ito, darkened where text has to be read in them."""
CSS_NAMES = {
    colour.lower(): name
    for name, colour in {
        "blue": BLUE,
        "orange": ORANGE,
        "green": GREEN,
        "sky": SKY,
        "purple": PURPLE,
        "olive": OLIVE,
        "steel": STEEL,
        "grey": GREY,
        "light": LIGHT,
        "grid": GRID,
        "paper": "#FFFFFF",
    }.items()
} | dict.fromkeys((INK.lower(), "#000000"), "ink")
"""Variables of page.css, which has them for light and dark, by colour."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)))
RC: dict[str, Any] = {
    "font.size": 11.0,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "specact_rl",
}
