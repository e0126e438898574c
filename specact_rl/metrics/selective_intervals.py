"""Intervals over tasks for the areas under risk-coverage, and a band for the curve.

An area depends on the order of all rows, so a bootstrap sorts or sums all of them at each draw:
minutes at a million rows. What each row does to an area to first order, its influence, is known in
closed form; the sum of a task's influences varies as the area does under resampling of tasks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from specact_rl.metrics.rates import wilson_at
from specact_rl.metrics.resampling import Clusters, cluster_codes
from specact_rl.metrics.values import (
    BoolArray,
    FloatArray,
    IntArray,
    MetricValue,
    as_labels,
    as_scores,
    check_lengths,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskAreas:
    """The three areas of one ranking; lower is better."""

    aurc: MetricValue
    e_aurc: MetricValue
    augrc: MetricValue


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskBand:
    """Selective risk at a few thresholds, with a band; one entry per threshold, strictest first."""

    threshold: FloatArray
    num_accepted: IntArray
    coverage: FloatArray
    risk: FloatArray
    low: FloatArray
    high: FloatArray
    level: float
    """With this probability all of the true risks lie in the band at once (pointwise: each)."""
    simultaneous: bool
    n: int
    num_clusters: int


def risk_areas(
    confidence: ArrayLike, acceptable: ArrayLike, clusters: Clusters, *, level: float = 0.95
) -> RiskAreas:
    """AURC, E-AURC and AUGRC with intervals over tasks, in O(n log n).

    The interval is the value plus or minus a t quantile times the standard error of the summed
    influences of tasks.

    Args:
        confidence: Higher is more confident, shape (n,).
        acceptable: Labels, shape (n,).
        clusters: Task id per row.
        level: Of the intervals.

    Returns:
        No interval, and a note, when there is one cluster only or all rows have one label.

    Source: Hampel (1974) for the influence of a row; the derivation is in the tests.
    """
    s, y = as_scores(confidence, "confidence"), as_labels(acceptable)
    check_lengths(confidence=s, acceptable=y)
    codes, num_clusters = cluster_codes(clusters, s.size)
    areas = area_influences(s, y)
    risk = 1.0 - float(y.mean())
    cause = None
    if num_clusters < 2:
        cause = "one cluster only"
    elif risk in (0.0, 1.0):
        cause = "all rows have the same label"
    perfect, of_perfect = risk, np.zeros(s.size, dtype=np.float64)
    if 0.0 < risk < 1.0:
        # r + (1 - r) ln(1 - r), and its derivative by the risk.
        perfect += (1.0 - risk) * math.log1p(-risk)
        of_perfect = -math.log1p(-risk) * ((~y).astype(np.float64) - risk)

    def around(value: float, of_row: FloatArray) -> MetricValue:
        if cause is not None:
            return MetricValue(
                value=value, n=s.size, num_clusters=num_clusters, note=f"no interval: {cause}"
            )
        sums = np.bincount(codes, of_row)
        error = math.sqrt(num_clusters / (num_clusters - 1) * float(sums @ sums)) / s.size
        half = float(stats.t.ppf((1.0 + level) / 2.0, num_clusters - 1)) * error
        return MetricValue(
            value=value, low=value - half, high=value + half, n=s.size, num_clusters=num_clusters
        )

    return RiskAreas(
        aurc=around(areas.aurc, areas.of_aurc),
        e_aurc=around(areas.aurc - perfect, areas.of_aurc - of_perfect),
        augrc=around(areas.augrc, areas.of_augrc),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaInfluences:
    """Areas, and what a row does to them: n times the derivative by its weight; it sums to 0."""

    aurc: float
    augrc: float
    of_aurc: FloatArray
    """Shape (n,), in the order given."""
    of_augrc: FloatArray
    """Shape (n,), in the order given."""


def area_influences(confidence: FloatArray, acceptable: BoolArray) -> AreaInfluences:
    """Influences of the rows on AURC and AUGRC.

    AURC is the mean over rows k of r_k, the risk among those ranked up to k. A row adds its own r,
    and moves every r_k from its rank on by (wrong - r_k) / k. AUGRC likewise with the share
    accepted and wrong. Within a tie all is averaged over its orders.
    """
    n = confidence.size
    order = np.argsort(-confidence)
    wrong, ranked = (~acceptable[order]).astype(np.float64), confidence[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), n - 1)
    sizes = np.diff(last, prepend=-1)

    def over_tie(values: FloatArray) -> FloatArray:
        if sizes.size == n:
            return values
        return np.repeat(np.add.reduceat(values, last - sizes + 1) / sizes, sizes)

    k = np.arange(1, n + 1, dtype=np.float64)
    expected = over_tie(wrong)
    errors = np.cumsum(expected)
    risk = errors / k
    aurc = float(risk.mean())
    from_here_on = np.cumsum((1.0 / k)[::-1])[::-1]
    risk_from_here_on = np.cumsum((risk / k)[::-1])[::-1]
    of_aurc = over_tie(risk - risk_from_here_on) + wrong * over_tie(from_here_on) - aurc
    # Trapezoids: half of a row's own step lies before it, half behind.
    missed, behind = (errors - expected / 2.0) / n, (n - k + 0.5) / n
    augrc = float(missed.mean())
    of_augrc = over_tie(missed) + wrong * over_tie(behind) - 2.0 * augrc
    found = np.empty((2, n))
    found[:, order] = of_aurc, of_augrc
    return AreaInfluences(aurc=aurc, augrc=augrc, of_aurc=found[0], of_augrc=found[1])


def risk_coverage_band(
    confidence: ArrayLike,
    acceptable: ArrayLike,
    clusters: Clusters,
    *,
    rng: np.random.Generator | None = None,
    num_points: int = 40,
    level: float = 0.95,
    num_draws: int = 10_000,
) -> RiskBand:
    """Selective risk at about `num_points` thresholds, evenly spread over coverage, with a band.

    Each point has Wilson's interval at its effective number of rows. With `rng` they are widened
    until all hold at once: to the quantile of the largest of correlated normal deviates, whose
    correlations are those of the risks over tasks.

    Args:
        confidence: Higher is more confident, shape (n,).
        acceptable: Labels, shape (n,).
        clusters: Task id per row.
        rng: Draws the deviates; None gives pointwise intervals.
        num_points: At most so many thresholds; fewer where rows tie.
        level: Of the band.
        num_draws: Of the deviates.

    Raises:
        ValueError: Fewer than two clusters.

    Source: Montiel Olea and Plagborg-Moller (2019), sup-t bands.
    """
    s, y = as_scores(confidence, "confidence"), as_labels(acceptable)
    check_lengths(confidence=s, acceptable=y)
    codes, num_clusters = cluster_codes(clusters, s.size)
    if num_clusters < 2:
        raise ValueError("a band over tasks needs at least two clusters, got one")
    order = np.argsort(-s)
    wrong, of_row = (~y[order]).astype(np.float64), codes[order]
    last = np.append(np.flatnonzero(np.diff(s[order])), s.size - 1)
    wanted = np.ceil(np.linspace(0.0, s.size, num_points + 1)[1:]).astype(np.int64) - 1
    ends = np.unique(last[np.searchsorted(last, wanted)])
    counts = ends + 1
    errors = np.cumsum(wrong)[ends]
    risk = errors / counts
    # Per cluster and point: accepted rows, and wrong ones, in one count over (stretch, cluster).
    stretch = np.repeat(np.arange(ends.size), np.diff(ends, prepend=-1))
    cell, shape = stretch * num_clusters + of_row, (ends.size, num_clusters)
    accepted = np.bincount(cell, minlength=ends.size * num_clusters).reshape(shape).cumsum(axis=0)
    missed = np.bincount(cell, wrong, ends.size * num_clusters).reshape(shape).cumsum(axis=0)
    residuals = missed - risk[:, None] * accepted
    scale = num_clusters / (num_clusters - 1)
    errors_of_risk = np.sqrt(scale * (residuals**2).sum(axis=1)) / counts
    kish = counts**2 / (accepted.astype(np.float64) ** 2).sum(axis=1)
    spread = risk * (1.0 - risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = np.where(
            errors_of_risk > 0.0, np.minimum(counts, spread / errors_of_risk**2), kish
        )
    wide = level
    if rng is not None:
        deviate = _largest_deviate(residuals, rng, num_draws, level)
        wide = float(2.0 * stats.norm.cdf(deviate) - 1.0)
    ends_of_bands = [
        wilson_at(float(r), float(m), wide) for r, m in zip(risk, effective, strict=True)
    ]
    return RiskBand(
        threshold=s[order][ends],
        num_accepted=counts.astype(np.int64),
        coverage=counts / s.size,
        risk=risk,
        low=np.array([interval.low for interval in ends_of_bands]),
        high=np.array([interval.high for interval in ends_of_bands]),
        level=level,
        simultaneous=rng is not None,
        n=s.size,
        num_clusters=num_clusters,
    )


def _largest_deviate(
    residuals: FloatArray, rng: np.random.Generator, num_draws: int, level: float
) -> float:
    """Quantile of max |Z| for Z correlated as the residuals; points without error are left out."""
    norms = np.sqrt((residuals**2).sum(axis=1))
    moving = norms > 0.0
    if not moving.any():
        return float(stats.norm.ppf((1.0 + level) / 2.0))
    unit = residuals[moving] / norms[moving, None]
    values, vectors = np.linalg.eigh(unit @ unit.T)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    draws = np.abs(rng.standard_normal((num_draws, values.size)) @ root.T).max(axis=1)
    return float(np.quantile(draws, level))
