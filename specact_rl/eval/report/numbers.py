"""Numbers as text: percent, points and ratios with their intervals, and no digit too many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, Literal

from specact_rl.eval.report.blocks import Cell
from specact_rl.metrics.values import MetricValue

JSON = Mapping[str, Any]
DASH = "–"
MINUS = "−"
Z_95 = NormalDist().inv_cdf(0.975)
POWER = 0.8


def metric(row: JSON | None, key: str) -> MetricValue | None:
    """The metric stored under a key, as written by `dataclasses.asdict` or as a bare number.

    Returns:
        None when the row has no such field; a MetricValue without a value when it is undefined.
    """
    found = None if row is None else row.get(key)
    if found is None or row is None:
        return None
    if isinstance(found, Mapping):
        return MetricValue(
            value=found.get("value"),
            low=found.get("low"),
            high=found.get("high"),
            n=int(found.get("n") or 0),
            num_clusters=found.get("num_clusters"),
            note=found.get("note"),
        )
    return MetricValue(value=float(found), n=int(row.get("n") or 0))


def decimals(m: MetricValue, scale: float, most: int) -> int:
    """Decimals of `scale * value` that its interval supports: two digits of the half-width.

    Without an interval the widest one that n rows can have for a share, 0.98 / sqrt(n), stands in;
    without n there is nothing to go by.
    """
    if m.low is not None and m.high is not None:
        half_width = scale * (m.high - m.low) / 2.0
    elif m.n > 0:
        half_width = scale * Z_95 / (2.0 * math.sqrt(m.n))
    else:
        return most
    if half_width <= 0.0:
        return most
    return max(0, min(most, 1 - math.floor(math.log10(half_width))))


def fixed(value: float, places: int, *, signed: bool = False) -> str:
    """A number with so many decimals, a true minus sign, and no negative zero."""
    text = f"{value:+.{places}f}" if signed else f"{value:.{places}f}"
    if float(text) == 0.0:
        return text.lstrip("+-")
    return text.replace("-", MINUS)


def cell(
    m: MetricValue | None,
    *,
    scale: float = 1.0,
    most: int = 3,
    signed: bool = False,
    count: bool = False,
) -> Cell:
    """A number, its interval below it, and its note as a footnote.

    Args:
        m: None is an empty cell (does not apply); without a value it is a dash and the note.
        scale: 100 for percent.
        most: Decimals at most.
        signed: Write a plus sign too, for differences.
        count: Give n below, for numbers whose n is not that of the table.
    """
    if m is None:
        return Cell(main="")
    if m.value is None:
        return Cell(main=DASH, note=m.note or "undefined on these rows")
    places = decimals(m, scale, most)
    parts = []
    if m.low is not None and m.high is not None:
        low, high = (fixed(scale * end, places, signed=signed) for end in (m.low, m.high))
        parts.append(f"[{low}, {high}]")
    if count and m.n:
        parts.append(f"n = {m.n}")
    main = fixed(scale * m.value, places, signed=signed)
    return Cell(main=main, below=" ".join(parts), note=m.note)


def percent(m: MetricValue | None, *, count: bool = False) -> Cell:
    """A share in percent, one decimal at most; the unit stands in the table's head."""
    return cell(m, scale=100.0, most=1, count=count)


def points(m: MetricValue | None) -> Cell:
    """A difference of two shares in percentage points, with its sign."""
    return cell(m, scale=100.0, most=1, signed=True)


def say(m: MetricValue | None, unit: str = "", **how: Any) -> str:
    """A number in running text: value, unit, interval, or a dash and the note."""
    shown = cell(m, **how)
    if m is None or m.value is None:
        return f"{DASH} ({shown.note})" if shown.note else DASH
    return " ".join(part for part in (shown.main, unit, shown.below) if part)


def say_percent(m: MetricValue | None) -> str:
    """A share in running text."""
    return say(m, "%", scale=100.0, most=1)


def say_points(m: MetricValue | None) -> str:
    """A difference of shares in running text."""
    return say(m, "points", scale=100.0, most=1, signed=True)


def say_rows(m: MetricValue | None, what: str = "steps") -> str:
    """How many rows, of how many tasks, a number comes from."""
    if m is None or not m.n:
        return ""
    tasks = f" of {m.num_clusters} tasks" if m.num_clusters else ""
    return f"n = {m.n} {what}{tasks}"


def p_value(p: float | None) -> str | None:
    """A p-value with three decimals, for a table."""
    if p is None:
        return None
    return "< 0.001" if p < 0.001 else fixed(p, 3)


def say_p(p: float | None, name: str = "p") -> str:
    """A p-value in running text, after a comma; empty without one."""
    shown = p_value(p)
    if shown is None:
        return ""
    return f", {name} {shown}" if shown.startswith("<") else f", {name} = {shown}"


Direction = Literal["above", "below", "open", "unknown"]


def direction(m: MetricValue | None, zero: float = 0.0) -> Direction:
    """On which side of `zero` the whole interval lies; unknown without an interval."""
    if m is None or m.low is None or m.high is None:
        return "unknown"
    return "above" if m.low > zero else "below" if m.high < zero else "open"


def detectable(m: MetricValue | None) -> float | None:
    """True difference that data with this error show with 80 % power; None without an interval."""
    if m is None or m.low is None or m.high is None or m.high <= m.low:
        return None
    standard_error = (m.high - m.low) / (2.0 * Z_95)
    return standard_error * (Z_95 + NormalDist().inv_cdf(POWER))


def independent_difference(a: MetricValue, b: MetricValue) -> MetricValue:
    """Difference a - b of numbers from different tasks, with the interval that theirs imply.

    Source: Zou and Donner (2008), the method of variance estimates recovery.
    """
    if a.value is None or b.value is None:
        return MetricValue(value=None, n=min(a.n, b.n), note=a.note or b.note)
    low = high = None
    if a.low is not None and a.high is not None and b.low is not None and b.high is not None:
        low = a.value - b.value - math.hypot(a.value - a.low, b.high - b.value)
        high = a.value - b.value + math.hypot(a.high - a.value, b.value - b.low)
    return MetricValue(value=a.value - b.value, low=low, high=high, n=a.n + b.n)


def parameters(count: float | None) -> str:
    """A model's size: 900 thousand is 0.9 M, 1.7 billion is 1.7 B."""
    if not count:
        return ""
    size, unit = (count / 1e9, "B") if count >= 1e9 else (count / 1e6, "M")
    return f"{size:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """Wall time in the unit a reader would say."""
    if seconds is None:
        return ""
    if seconds < 120.0:
        return f"{seconds:.1f} s" if seconds < 10.0 else f"{seconds:.0f} s"
    minutes = round(seconds / 60.0)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
