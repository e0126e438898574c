"""How an interval becomes a verdict: the rules that all verdicts share, and their wording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specact_rl.eval.report.blocks import Status
from specact_rl.eval.report.numbers import JSON, Direction, detectable, direction, fixed, say_p
from specact_rl.metrics.values import MetricValue

ALPHA = 0.05
OF_SIDE: dict[Direction, Status] = {
    "above": "shown",
    "below": "against",
    "open": "open",
    "unknown": "unknown",
}
"""Where more is better. Without an interval nothing can be said, neither for nor against."""


def status_of(difference: MetricValue | None, row: JSON | None = None, zero: float = 0.0) -> Status:
    """Of the claim that a number is above `zero`.

    Args:
        difference: With its interval.
        row: Of a declared contrast, which has to survive Holm's correction too.
        zero: What is to be exceeded.
    """
    status = OF_SIDE[direction(difference, zero)]
    adjusted = (row or {}).get("p_holm")
    if status != "unknown" and adjusted is not None and adjusted > ALPHA:
        return "open"
    return status


def claim(status: Status, that: str, otherwise: str) -> str:
    """One sentence: `that` (without capital and full stop), `otherwise`, or that it is not known.

    Args:
        status: Of `that`.
        that: What would be shown, as in "it is not shown that ...".
        otherwise: The whole sentence that stands when the data speak against it.
    """
    return {
        "shown": f"{that[0].upper()}{that[1:]}.",
        "against": otherwise,
        "open": f"It is not shown that {that}.",
        "unknown": f"Whether {that} cannot be said.",
        "note": f"{that[0].upper()}{that[1:]}.",
    }[status]


def beats_all(gains: Mapping[str, MetricValue]) -> tuple[Status, list[str]]:
    """Whether something beats each of several others, and the names that decide it.

    Those it loses to; else those it cannot be compared with; else those the intervals leave open;
    else all.
    """
    sides = {name: direction(gain) for name, gain in gains.items()}
    order: tuple[Direction, ...] = ("below", "unknown", "open")
    for side in order:
        names = [name for name in gains if sides[name] == side]
        if names:
            return OF_SIDE[side], names
    return "shown", list(gains)


def holm(row: JSON) -> str:
    """The corrected p-value of a contrast, to follow its numbers."""
    return say_p(row.get("p_holm"), "Holm p")


def unsettled(status: Status, m: MetricValue) -> str:
    """Why a comparison is open, or nothing can be said; empty when it is settled."""
    if status == "unknown":
        return f" There is no interval{f' ({reason})' if (reason := _reason(m)) else ''}."
    if status != "open":
        return ""
    if direction(m) != "open":
        return " The interval leaves out 0, but not after the correction for all contrasts."
    return unseen(m)


def unseen(m: MetricValue, unit: str = "points", *, scale: float = 100.0, most: int = 1) -> str:
    """The true difference that rows like these mostly miss; empty without an interval."""
    size = detectable(m)
    if size is None:
        return ""
    shown = " ".join(part for part in (fixed(scale * size, most), unit) if part)
    return f" A true difference below about {shown} would mostly go unseen."


def _reason(m: MetricValue) -> str:
    return (m.note or "").removeprefix("no interval: ")


def listed(names: Sequence[str]) -> str:
    """Names as a list in a sentence: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
