"""The threshold explorer: every gated system at other thresholds, as plots and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specact_rl.eval.report.blocks import Cell, Explorer, Paragraph, Section, Table, table, words
from specact_rl.eval.report.lookup import rows, system
from specact_rl.eval.report.numbers import DASH, JSON, cell, fixed, metric, percent

COSTS = {
    "relative_flops": "FLOPs per step, relative to A",
    "assumed_cost": "assumed cost, relative to A",
    "strong_calls": "share of steps that call the strong model",
}
"""Cost axes, the first known one shown first."""
SHARES = ("accept_rate", "selective_risk", "acceptable")
GATES = ("random_gate", "oracle_gate", "worst_gate")
NUM_ROWS = 11
"""Thresholds in the table that stands for the plots where no script runs."""
PLACES = 6
"""Decimals of what the page carries; results.json has them all."""
EXPLORATION = (
    "Thresholds were frozen on the calibration split, and only what stands there is a result. "
    "These curves are over test steps: moving a threshold along them is exploration, and a "
    "threshold picked from them would look better than it is."
)

PARTLY_LABELLED = (
    "Some steps have no label. A share acceptable is over the steps at which what the system "
    "executed has one, which changes along a curve; those of the best, the worst and the random "
    "gate are over the steps at which proposal and fallback both have one. So a curve may pass "
    "beyond them."
)


def explorer_section(results: JSON) -> Section | None:
    """Accept rate, risk, cost and accuracy over thresholds; None without a curve."""
    curves = rows(results, "replay", "curves")
    if not curves:
        return None
    return Section(
        title="Threshold explorer",
        blocks=[
            Paragraph(text=EXPLORATION),
            *([Paragraph(text=PARTLY_LABELLED)] if _lacks_labels(results, curves) else []),
            Explorer(data=explorer_data(results), tables=_tables(results, curves)),
        ],
    )


def explorer_data(results: JSON) -> dict[str, Any]:
    """What the page's script draws from.

    Returns:
        `systems`: one per curve, its lists rounded; `points`: every system of the replay table
        with the numbers of its own row; `costs`: key and title of the cost axes that are known,
        in order.
    """
    curves = rows(results, "replay", "curves")
    costs = [
        [key, title]
        for key, title in COSTS.items()
        if any(curve.get(key) is not None for curve in curves)
    ]
    return {
        "costs": costs,
        "systems": [_curve(results, curve) for curve in curves],
        "points": [
            {"name": str(row["name"])} | {key: _value(row, key) for key in ("acceptable", *COSTS)}
            for row in rows(results, "replay", "systems")
        ],
    }


def _lacks_labels(results: JSON, curves: Sequence[JSON]) -> bool:
    """Whether a share acceptable is over fewer steps than its curve."""
    found = [(metric(system(results, str(c["system"])), "acceptable"), c["n"]) for c in curves]
    return any(share is not None and share.n < n for share, n in found)


def _curve(results: JSON, curve: JSON) -> dict[str, Any]:
    row = system(results, str(curve["system"])) or {}
    return {
        "name": curve["system"],
        "title": row.get("title") or "",
        "n": curve["n"],
        "frozen": curve["frozen"],
        "num_accepted": curve["num_accepted"],
        "intervals": {key: _interval(row, key) for key in (*SHARES, *COSTS)},
        **{key: _rounded(curve.get(key)) for key in ("threshold", *SHARES, *COSTS, *GATES)},
    }


def _interval(row: JSON, key: str) -> list[float] | None:
    """Ends of the interval that the system's own row has; None without one."""
    found = metric(row, key)
    if found is None or found.low is None or found.high is None:
        return None
    return [round(found.low, PLACES), round(found.high, PLACES)]


def _rounded(values: Sequence[float | None] | None) -> list[float | None] | None:
    if values is None:
        return None
    return [None if value is None else round(value, PLACES) for value in values]


def _value(row: JSON, key: str) -> float | None:
    found = metric(row, key)
    return None if found is None or found.value is None else round(found.value, PLACES)


def _tables(results: JSON, curves: Sequence[JSON]) -> tuple[Table, ...]:
    """All frozen thresholds, and the headline system's way from accepting nothing to all."""
    frozen = table(
        ("system", *HEADERS),
        [(words(curve["system"]), *_at(curve, curve["frozen"], results)) for curve in curves],
        caption="At the frozen thresholds, on the test steps.",
    )
    shown = next((curve for curve in curves if curve["system"] == "D"), curves[0])
    last = len(shown["threshold"]) - 1
    places = {round(i * last / (NUM_ROWS - 1)) for i in range(NUM_ROWS)} | {shown["frozen"]}
    along = table(
        ("", *HEADERS),
        [(words("frozen" if i == shown["frozen"] else ""), *_at(shown, i)) for i in sorted(places)],
        caption=(
            f"{shown['system']} at other thresholds, n = {shown['n']} test steps: exploration, "
            "without intervals. Threshold none accepts nothing."
        ),
    )
    return frozen, along


HEADERS = (
    "threshold",
    "accepted, %",
    "wrong among accepted, %",
    "acceptable, %",
    "FLOPs, × A",
    "assumed cost",
    "strong calls, %",
)


def _at(curve: JSON, i: int, results: JSON | None = None) -> list[Cell]:
    """A curve's numbers at one threshold, with the intervals of the system's own row."""
    row = None if results is None else system(results, str(curve["system"]))
    cells = [words(_threshold(curve["threshold"][i]))]
    for key in SHARES:
        own = metric(row, key)
        cells.append(_share(curve, key, i) if own is None else percent(own))
    for key in ("relative_flops", "assumed_cost"):
        values = curve.get(key)
        own = metric(row, key) if key == "relative_flops" else None
        plain = words(None if values is None else fixed(values[i], 2))
        cells.append(plain if own is None else cell(own, most=2))
    return [*cells, _share(curve, "strong_calls", i)]


def _threshold(value: float | None) -> str:
    return "none" if value is None else fixed(value, 3)


def _share(curve: JSON, key: str, i: int) -> Cell:
    value = curve[key][i]
    return words(DASH if value is None else fixed(100.0 * value, 1))
