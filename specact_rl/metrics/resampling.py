"""Cluster resampling: the draws behind every bootstrap interval.

Rows of one task depend on each other, so whole tasks are drawn. A draw is a vector of integer
weights, how often each cluster came up, so that no row is ever copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from specact_rl.metrics.values import (
    FloatArray,
    IntArray,
    Interval,
    MetricValue,
    as_scores,
    check_lengths,
)

Clusters = Sequence[str] | Sequence[int] | NDArray[np.generic]
"""One cluster id per row, usually the task id."""

Weights = NDArray[np.uint8]
"""How often each cluster came up, shape (draws, K); each draw sums to K."""

CHUNK_VALUES = 4_000_000
"""Float64 values held at once (32 MB); more draws are done in turns. A product with a quarter of
these takes twice as long."""

Method = Literal["percentile", "bca"]
"""Kinds of bootstrap interval."""

MANY_CLUSTERS = 1024
"""From this many clusters on, random numbers are made in ways that are faster for many."""

SPARE = 4.0
"""By how many of its standard errors a draw of Poisson weights is meant to fall short of K."""

EXACT_FLOAT32 = 2**24
"""Whole numbers up to this are exact in single precision."""

SAME = 1e-12
"""Draws that differ by less than this differ by rounding only."""

FEW_CLUSTERS = 20
"""Below this many clusters a percentile interval is visibly too short; the note says so."""


def cluster_codes(clusters: Clusters, num_rows: int) -> tuple[IntArray, int]:
    """Codes 0..K-1 per row, in sorted order of the ids, and K.

    Raises:
        ValueError: Not one id per row.
    """
    ids = np.asarray(clusters)
    if ids.shape != (num_rows,):
        raise ValueError(f"clusters must have shape ({num_rows},), got {ids.shape!r}")
    if ids.dtype.kind in "iu" and ids.size and ids.min() >= 0 and ids.max() < 2 * ids.size:
        # Codes of a larger table, or of this one: counting is ten times faster than sorting.
        present = np.bincount(ids) > 0
        return (np.cumsum(present) - 1)[ids].astype(np.int64), int(present.sum())
    # Rows of a task mostly stand together, and a run of equal ids need be looked up only once.
    is_start = np.ones(num_rows, dtype=np.bool_)
    is_start[1:] = ids[1:] != ids[:-1]
    starts = np.flatnonzero(is_start)
    unique, codes = np.unique(ids[starts], return_inverse=True)
    lengths = np.diff(starts, append=num_rows)
    return codes.astype(np.int64).repeat(lengths), int(unique.size)


def effective_clusters(codes: IntArray, num_clusters: int) -> float:
    """How many independent rows the rows are worth if all rows of a cluster are alike.

    The number of clusters when they are of one size, fewer when some are larger. The stand-in for
    a design effect that the rows cannot show because all of them have the same value.

    Source: Kish (1965), design effect at intra-cluster correlation 1: (sum m)^2 / sum m^2 for
    clusters of m rows.
    """
    sizes = np.bincount(codes, minlength=num_clusters).astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes @ sizes))


def few_clusters_factor(num_rows: int, num_clusters: int, level: float) -> float:
    """What an effective number of rows is multiplied by because few clusters estimated it.

    1 for clusters of one row, below 1 else.

    Source: Korn and Graubard (1998): squared ratio of the t quantiles at rows - 1 and clusters - 1
    degrees of freedom.
    """
    tail = (1.0 + level) / 2.0
    of_rows, of_clusters = (float(stats.t.ppf(tail, n - 1)) for n in (num_rows, num_clusters))
    return (of_rows / of_clusters) ** 2


def draw_cluster_weights(
    num_clusters: int, num_resamples: int, rng: np.random.Generator, *, num_rows: int = 0
) -> Iterator[Weights]:
    """Multinomial weights in chunks of shape (draws, num_clusters); each draw sums to K.

    `num_rows` is the width of what the caller makes of a draw, so that chunks fit in memory.
    """
    check_num_resamples(num_resamples)
    chunk = max(1, CHUNK_VALUES // max(num_clusters, num_rows, 1))
    draw = _counted_picks if num_clusters < MANY_CLUSTERS else _filled_up_poisson
    for start in range(0, num_resamples, chunk):
        yield draw(num_clusters, min(chunk, num_resamples - start), rng)


def _counted_picks(num_clusters: int, draws: int, rng: np.random.Generator) -> Weights:
    """K uniform picks, counted."""
    picks = rng.integers(num_clusters, size=(draws, num_clusters))
    picks += np.arange(draws)[:, None] * num_clusters
    counts = np.bincount(picks.ravel(), minlength=draws * num_clusters)
    # Above 255 only if one of hundreds of clusters were picked that often: never.
    return counts.reshape(draws, num_clusters).astype(np.uint8)


def _filled_up_poisson(num_clusters: int, draws: int, rng: np.random.Generator) -> Weights:
    """The same distribution: independent Poisson weights, filled up to K by uniform picks.

    Given their total, independent Poisson weights are multinomial with that many picks, whatever
    the total is. Their mean is a little below 1, so that few picks are left to make; a draw whose
    total is above K is made anew, which depends on nothing but the total.
    """
    mean = 1.0 - SPARE / math.sqrt(num_clusters)
    weights = _poisson(mean, (draws, num_clusters), rng)
    missing = num_clusters - weights.sum(axis=1, dtype=np.int64)
    while (over := np.flatnonzero(missing < 0)).size:
        weights[over] = _poisson(mean, (over.size, num_clusters), rng)
        missing[over] = num_clusters - weights[over].sum(axis=1, dtype=np.int64)
    picks = rng.integers(num_clusters, size=int(missing.sum()))
    picks += np.repeat(np.arange(draws), missing) * num_clusters
    np.add.at(weights.reshape(-1), picks, np.uint8(1))
    return weights


OPEN = 255
"""In place of a Poisson number that 16 random bits do not settle."""


@lru_cache(maxsize=16)
def _poisson_table(mean: float) -> tuple[Weights, FloatArray]:
    """The number that each value of 16 random bits stands for, and the cumulative chances."""
    cumulative = stats.poisson.cdf(np.arange(64), mean)
    cells = np.arange(2**16 + 1) / 2**16
    lowest = np.searchsorted(cumulative, cells[:-1], side="right")
    highest = np.searchsorted(cumulative, cells[1:], side="left")
    return np.where(lowest == highest, lowest, OPEN).astype(np.uint8), cumulative


def _poisson(mean: float, shape: tuple[int, int], rng: np.random.Generator) -> Weights:
    """Poisson numbers by inversion of 16 random bits, and of 53 more where those leave it open."""
    table, cumulative = _poisson_table(mean)
    size = shape[0] * shape[1]
    bits = rng.integers(2**64, size=size // 4 + 1, dtype=np.uint64).view(np.uint16)[:size]
    drawn = np.empty(size, dtype=np.uint8)
    table.take(bits, out=drawn, mode="clip")  # no value of 16 bits is out of range
    left_open = np.flatnonzero(drawn == OPEN)
    uniform = (bits[left_open] + rng.random(left_open.size)) / 2**16
    drawn[left_open] = np.searchsorted(cumulative, uniform, side="right")
    return drawn.reshape(shape)


def resampled_sums(
    cluster_sums: FloatArray, num_resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Column totals over resampled clusters, shape (num_resamples, columns).

    All columns see the same draws. Columns of whole numbers, such as counts, are exact.

    Args:
        cluster_sums: One row per cluster, shape (K, columns).
        num_resamples: Number of draws.
        rng: Source of the draws.
    """
    check_num_resamples(num_resamples)
    num_clusters = cluster_sums.shape[0]
    # Clusters with equal sums are interchangeable: drawing how many come from each *kind* is
    # the same multinomial, and 0/1 outcomes of short tasks have only a handful of kinds.
    most = num_clusters // (4 if num_clusters < MANY_CLUSTERS else 32)
    if (found := _kinds(cluster_sums, most)) is not None:
        kinds, counts = found
        drawn = rng.multinomial(num_clusters, counts / num_clusters, size=num_resamples)
        few: FloatArray = drawn.astype(np.float64) @ kinds
        return few
    largest = np.abs(cluster_sums).max(axis=0) * num_clusters
    whole = (cluster_sums == np.rint(cluster_sums)).all(axis=0) & (largest <= EXACT_FLOAT32)
    parts = [
        (columns, np.ascontiguousarray(cluster_sums[:, columns], dtype=dtype))
        for columns, dtype in ((whole, np.float32), (~whole, np.float64))
        if columns.any()
    ]
    totals = np.empty((num_resamples, cluster_sums.shape[1]))
    start = 0
    for weights in draw_cluster_weights(num_clusters, num_resamples, rng):
        stop = start + weights.shape[0]
        for columns, sums in parts:
            totals[start:stop, columns] = weights.astype(sums.dtype) @ sums
        start = stop
    return totals


def _kinds(cluster_sums: FloatArray, most: int) -> tuple[FloatArray, IntArray] | None:
    """The distinct rows in sorted order and how often each is there; None if above `most`."""
    codes = np.zeros(cluster_sums.shape[0], dtype=np.int64)
    for column in cluster_sums.T:
        values, of_column = np.unique(column, return_inverse=True)
        if values.size > most:
            return None
        kinds, first, codes, counts = np.unique(
            codes * values.size + of_column,
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        if kinds.size > most:
            return None
    return cluster_sums[first], counts


Totals = Mapping[str, FloatArray]
"""Totals by name: of the observed rows, of each draw, or of the rows without each cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterBootstrap:
    """Totals of many columns under one set of resampled clusters: see `cluster_bootstrap`.

    Every statistic that is a function of totals (shares, means, differences, ratios of costs,
    Brier skill) is read from it without another draw, and statistics of one set are paired.
    """

    names: tuple[str, ...]
    sums: FloatArray
    """Per cluster, shape (K, columns)."""
    draws: FloatArray
    """Totals per draw, shape (num_resamples, columns)."""

    def value(
        self,
        statistic: Callable[[Totals], ArrayLike],
        *,
        n: int,
        level: float = 0.95,
        method: Method = "percentile",
    ) -> MetricValue:
        """A statistic of the observed totals with its interval.

        Args:
            statistic: Of totals by name, elementwise: `lambda t: t["right"] / t["steps"]`. It may
                divide by 0; a draw that is not finite is left out and counted in the note.
            n: Rows the statistic is computed from.
            level: Nominal coverage.
            method: "bca" corrects the percentile interval for bias and skewness; it costs one
                evaluation for each cluster left out.

        Returns:
            None with a note where the statistic is not finite on the observed rows; otherwise as
            `bootstrap_value`.
        """
        num_clusters = self.sums.shape[0]
        observed = self.sums.sum(axis=0)
        value = float(self._of(statistic, observed[None, :])[0])
        if not math.isfinite(value):
            return MetricValue(value=None, n=n, num_clusters=num_clusters, note="undefined")
        draws = self._of(statistic, self.draws)
        without_each = self._of(statistic, observed - self.sums) if method == "bca" else None
        return bootstrap_value(
            value, draws, n=n, num_clusters=num_clusters, level=level, without_each=without_each
        )

    def _of(self, statistic: Callable[[Totals], ArrayLike], totals: FloatArray) -> FloatArray:
        named = dict(zip(self.names, totals.T, strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.asarray(statistic(named), dtype=np.float64)
        if found.shape != (totals.shape[0],):
            raise ValueError(
                f"a statistic must give one number for each of {totals.shape[0]} totals, "
                f"got shape {found.shape!r}"
            )
        return np.where(np.isfinite(found), found, np.nan)


def cluster_bootstrap(
    columns: Mapping[str, ArrayLike],
    clusters: Clusters,
    *,
    rng: np.random.Generator,
    num_resamples: int = 10_000,
) -> ClusterBootstrap:
    """Draws clusters once for all columns.

    Args:
        columns: By name, numbers of shape (n,). A row that does not count in a column, such as an
            unknown label, is 0 there, and the column that it is divided by counts the known ones.
        clusters: One id per row.
        rng: Source of the draws.
        num_resamples: Number of draws.

    Raises:
        ValueError: No columns, or one with another length or a value that is not finite.
    """
    if not columns:
        raise ValueError("cluster_bootstrap needs at least one column")
    arrays = {name: as_scores(values, name) for name, values in columns.items()}
    check_lengths(**arrays)
    codes, num_clusters = cluster_codes(clusters, next(iter(arrays.values())).size)
    sums = np.empty((num_clusters, len(arrays)))
    for at, array in enumerate(arrays.values()):
        sums[:, at] = np.bincount(codes, weights=array, minlength=num_clusters)
    draws = resampled_sums(sums, num_resamples, rng)
    return ClusterBootstrap(names=tuple(arrays), sums=sums, draws=draws)


def percentile_interval(draws: FloatArray, level: float) -> Interval:
    """The central `level` range of the draws."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level!r}")
    low, high = np.quantile(draws, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(low=float(low), high=float(high), level=level)


def bca_interval(
    value: float, draws: FloatArray, without_each: FloatArray, level: float
) -> Interval:
    """The percentile interval, corrected for bias and skewness.

    Args:
        value: Of the observed rows.
        draws: Of each draw; finite.
        without_each: Of the rows without one cluster, for each; finite ones are used.
        level: Nominal coverage.

    Source: Efron (1987).
    """
    percentile_interval(draws, level)
    # Draws equal to the value count one half, as few clusters have many.
    below = (np.mean(draws < value) + np.mean(draws <= value)) / 2.0
    bias = float(stats.norm.ppf(np.clip(below, 0.5 / draws.size, 1.0 - 0.5 / draws.size)))
    left_out = without_each[np.isfinite(without_each)]
    away = left_out.mean() - left_out if left_out.size else np.zeros(1)
    spread = float(away @ away)
    skew = float((away**3).sum()) / (6.0 * spread**1.5) if spread > 0.0 else 0.0
    ends = []
    for tail in ((1.0 - level) / 2.0, (1.0 + level) / 2.0):
        z = bias + float(stats.norm.ppf(tail))
        ends.append(float(stats.norm.cdf(bias + z / (1.0 - skew * z))))
    low, high = np.quantile(draws, ends)
    return Interval(low=float(low), high=float(high), level=level)


def bootstrap_value(
    value: float,
    draws: FloatArray,
    *,
    n: int,
    num_clusters: int,
    level: float = 0.95,
    without_each: FloatArray | None = None,
) -> MetricValue:
    """A number with the interval of its draws, NaN where a draw left it undefined.

    The percentile interval; `bca_interval` where the values without each cluster are given.

    Returns:
        No interval, and a note that says why, with one cluster, with no defined draw, or when
        every draw gives the same number: resampling shows no spread then, which is not certainty.
    """
    defined = draws[~np.isnan(draws)]
    cause = None
    if num_clusters < 2:
        cause = "one cluster only"
    elif not defined.size:
        cause = "undefined in every draw"
    elif np.ptp(defined) < SAME:
        cause = "the same in every draw"
    if cause is not None:
        return MetricValue(
            value=value, n=n, num_clusters=num_clusters, note=f"no interval: {cause}"
        )
    interval = (
        percentile_interval(defined, level)
        if without_each is None
        else bca_interval(value, defined, without_each, level)
    )
    notes = [few_clusters_note(num_clusters)]
    if defined.size < draws.size:
        notes.append(f"{draws.size - defined.size} of {draws.size} draws had one class only")
    return MetricValue(
        value=value,
        low=interval.low,
        high=interval.high,
        n=n,
        num_clusters=num_clusters,
        note="; ".join(note for note in notes if note) or None,
    )


def few_clusters_note(num_clusters: int) -> str | None:
    """A warning when there are too few clusters for a percentile interval, else None."""
    if num_clusters >= FEW_CLUSTERS:
        return None
    return f"only {num_clusters} clusters: the bootstrap interval is too short"


def check_num_resamples(num_resamples: int) -> None:
    """Raise ValueError unless at least one draw is asked for."""
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples!r}")
