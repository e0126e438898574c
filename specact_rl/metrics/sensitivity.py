"""At which prices another system becomes the better one: exact, since costs are linear in prices.

A system's cost per step is a sum over roles (proposer, verifier, strong model). Its accuracy and
how often it calls each role do not depend on prices, so that a role whose price is multiplied by x
turns the cost into a line in x. Two lines cross once; between crossings no order changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from specact_rl.metrics.frontier import pareto_set
from specact_rl.metrics.values import FloatArray, as_scores

SMALLEST = 1e-12
"""Relative difference of slopes below which lines are taken as parallel, and costs as equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A range of price factors in which nothing changes."""

    low: float
    high: float | None
    """None for all above."""
    systems: tuple[int, ...]
    """Numbers of the systems that are on the Pareto set, by rising cost, or the best one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """Where a system is cheaper than another one, over the price factor of a role."""

    cheaper: Literal["below", "above", "always", "never"]
    at: float | None
    """The factor; None with always and never."""


def cost_at(costs: ArrayLike, role: int, factor: float) -> FloatArray:
    """Cost of each system when a role's price is multiplied, shape (m,).

    Args:
        costs: Per step, by system and role, at the given prices, shape (m, roles); at least 0.
        role: Column whose price changes.
        factor: At least 0.
    """
    fixed, slope = _lines(_checked(costs), role)
    return fixed + slope * factor


def pareto_stretches(accuracies: ArrayLike, costs: ArrayLike, role: int) -> list[Stretch]:
    """The Pareto set of accuracy and cost over all price factors of a role, (0, infinity).

    Args:
        accuracies: Shape (m,).
        costs: As of `cost_at`.
        role: Column whose price changes.
    """
    table, accuracy = _checked(costs), as_scores(accuracies, "accuracies")
    _check_systems(table, accuracy)
    fixed, slope = _lines(table, role)

    def members(factor: float) -> tuple[int, ...]:
        # Costs that are equal on paper are equal, whatever rounding says.
        cost = [float(f"{c:.12g}") for c in fixed + slope * factor]
        kept = pareto_set(cost, accuracy.tolist())
        return tuple(sorted(kept, key=lambda i: (cost[i], accuracy[i], i)))

    return _stretches(_crossings(fixed, slope), members)


def best_stretches(
    accuracies: ArrayLike, costs: ArrayLike, role: int, cost_weight: float
) -> list[Stretch]:
    """The system of the highest accuracy - cost_weight x cost over all price factors of a role.

    Of systems that are equal the first is named.
    """
    table, accuracy = _checked(costs), as_scores(accuracies, "accuracies")
    _check_systems(table, accuracy)
    fixed, slope = _lines(table, role)
    utility, falls = accuracy - cost_weight * fixed, -cost_weight * slope
    return _stretches(
        _crossings(utility, falls), lambda factor: (int(np.argmax(utility + falls * factor)),)
    )


def crossing(cost: ArrayLike, other: ArrayLike, role: int) -> Crossing:
    """At which price factors of a role a system is cheaper than another one.

    Args:
        cost: Per step and role, of the system, shape (roles,).
        other: Of the one it is held against.
        role: Whose price changes.
    """
    pair = np.stack([np.asarray(cost, np.float64), np.asarray(other, np.float64)])
    (fixed, other_fixed), (slope, other_slope) = _lines(_checked(pair), role)
    lead, rise = other_fixed - fixed, slope - other_slope
    if abs(rise) <= SMALLEST * max(slope, other_slope):
        return Crossing(cheaper="always" if lead > 0.0 else "never", at=None)
    at = lead / rise
    if at <= 0.0:  # the line starts on the side where it stays
        return Crossing(cheaper="never" if rise > 0.0 else "always", at=None)
    return Crossing(cheaper="below" if rise > 0.0 else "above", at=float(at))


def resampled_crossings(
    cost: FloatArray, other: FloatArray, role: int, cheaper: Literal["below", "above"]
) -> FloatArray:
    """The factor at which a system stops ("below") or starts ("above") being cheaper, per draw.

    Args:
        cost: Of the system, shape (draws, roles).
        other: Of the other one, likewise.
        role: Whose price changes.
        cheaper: On which side of the crossing the system is cheaper in the data.

    Returns:
        Shape (draws,). For "below" 0 where it is never cheaper and infinity where it always is;
        for "above" the other way round.
    """
    fixed, slope = cost.sum(axis=1) - cost[:, role], cost[:, role]
    other_fixed, other_slope = other.sum(axis=1) - other[:, role], other[:, role]
    lead, rise = other_fixed - fixed, slope - other_slope
    if cheaper == "above":
        lead, rise = -lead, -rise
    crossed = np.divide(lead, rise, out=np.full(lead.shape, np.inf), where=rise > 0.0)
    if cheaper == "below":
        crossed = np.where((rise <= 0.0) & (lead <= 0.0), 0.0, crossed)
    return np.asarray(np.maximum(crossed, 0.0), dtype=np.float64)


def tornado(costs: ArrayLike, low: float = 0.5, high: float = 2.0) -> FloatArray:
    """Each system's cost when one role's price is multiplied by `low`, and by `high`.

    Returns:
        Shape (m, roles, 2).
    """
    table = _checked(costs)
    total = table.sum(axis=1)[:, None]
    ends = [total + (factor - 1.0) * table for factor in (low, high)]
    return np.asarray(np.stack(ends, axis=-1), dtype=np.float64)


def shares_over_draws(
    accuracies: FloatArray,
    costs: FloatArray,
    role: int,
    factors: ArrayLike,
    cost_weight: float,
) -> tuple[FloatArray, FloatArray]:
    """How often each system is on the Pareto set, and the best, over resamples.

    Args:
        accuracies: Shape (draws, m).
        costs: Shape (draws, m, roles).
        role: Whose price changes.
        factors: Price factors, g of them.
        cost_weight: Accuracy that a unit of cost is worth.

    Returns:
        Two arrays of shape (g, m). Equal systems are on the Pareto set together; of equally good
        ones the first is the best.
    """
    num_draws, m = accuracies.shape
    fixed, slope = costs.sum(axis=2) - costs[:, :, role], costs[:, :, role]
    at_least = accuracies[:, :, None] >= accuracies[:, None, :]  # i is as accurate as j
    above = accuracies[:, :, None] > accuracies[:, None, :]
    on_set, best = [], []
    for factor in as_scores(factors, "factors"):
        cost = fixed + slope * factor
        cheaper = cost[:, :, None] < cost[:, None, :] * (1.0 - SMALLEST)
        as_cheap = cost[:, :, None] <= cost[:, None, :] * (1.0 + SMALLEST)
        beaten = ((as_cheap & above) | (cheaper & at_least)).any(axis=1)
        on_set.append(1.0 - beaten.mean(axis=0))
        first = (accuracies - cost_weight * cost).argmax(axis=1)
        best.append(np.bincount(first, minlength=m) / num_draws)
    return np.array(on_set), np.array(best)


def _lines(table: FloatArray, role: int) -> tuple[FloatArray, FloatArray]:
    return table.sum(axis=1) - table[:, role], table[:, role]


def _crossings(fixed: FloatArray, slope: FloatArray) -> FloatArray:
    """Positive factors at which two of the lines meet, rising."""
    first, second = np.triu_indices(fixed.size, 1)
    rise = slope[first] - slope[second]
    size = np.maximum(np.abs(slope[first]), np.abs(slope[second]))
    meets = np.abs(rise) > SMALLEST * size
    at = (fixed[second] - fixed[first])[meets] / rise[meets]
    return np.unique(at[(at > 0.0) & np.isfinite(at)])


def _stretches(ends: FloatArray, members: Callable[[float], tuple[int, ...]]) -> list[Stretch]:
    """Stretches between the ends, neighbours of the same members joined."""
    found: list[Stretch] = []
    lows, highs = [0.0, *ends.tolist()], [*ends.tolist(), None]
    for low, high in zip(lows, highs, strict=True):
        systems = members(2.0 * low + 1.0 if high is None else 0.5 * (low + high))
        if found and found[-1].systems == systems:
            low = found.pop().low
        found.append(Stretch(low=low, high=high, systems=systems))
    return found


def _checked(costs: ArrayLike) -> FloatArray:
    table = np.asarray(costs, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"costs must have shape (systems, roles), got {table.shape!r}")
    if not (np.isfinite(table).all() and (table >= 0.0).all()):
        raise ValueError("costs must be finite and at least 0; leave out systems without a cost")
    return table


def _check_systems(table: FloatArray, accuracy: FloatArray) -> None:
    if accuracy.size != table.shape[0]:
        raise ValueError(f"each of {table.shape[0]} systems needs an accuracy, got {accuracy.size}")
