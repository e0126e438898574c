"""Cluster resampling: the draws behind every bootstrap interval.

Rows of one task depend on each other, so whole tasks are drawn. A draw is a vector of integer
weights, how often each cluster came up, so that no row is ever copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from specact_rl.metrics.values import FloatArray, IntArray, Interval, MetricValue

Clusters = Sequence[str] | Sequence[int] | NDArray[np.generic]
"""One cluster id per row, usually the task id."""

CHUNK_VALUES = 4_000_000
"""Float64 values held at once (32 MB); more draws are done in turns."""

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
    unique, codes = np.unique(ids, return_inverse=True)
    return codes.astype(np.int64), int(unique.size)


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
) -> Iterator[IntArray]:
    """Multinomial weights in chunks of shape (draws, num_clusters); each draw sums to K.

    `num_rows` is the width of what the caller makes of a draw, so that chunks fit in memory.
    """
    check_num_resamples(num_resamples)
    chunk = max(1, CHUNK_VALUES // max(num_clusters, num_rows, 1))
    for start in range(0, num_resamples, chunk):
        draws = min(chunk, num_resamples - start)
        # Counting uniform draws is the same multinomial and several times faster than
        # Generator.multinomial with equal probabilities.
        picks = rng.integers(num_clusters, size=(draws, num_clusters))
        picks += np.arange(draws)[:, None] * num_clusters
        counts = np.bincount(picks.ravel(), minlength=draws * num_clusters)
        yield counts.reshape(draws, num_clusters)


def resampled_sums(
    cluster_sums: FloatArray, num_resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Column totals over resampled clusters, shape (num_resamples, columns).

    Args:
        cluster_sums: One row per cluster, shape (K, columns).
        num_resamples: Number of draws.
        rng: Source of the draws.
    """
    num_clusters = cluster_sums.shape[0]
    # Clusters with equal sums are interchangeable: drawing how many come from each *kind* is
    # the same multinomial, and 0/1 outcomes of short tasks have only a handful of kinds.
    kinds, counts = np.unique(cluster_sums, axis=0, return_counts=True)
    if kinds.shape[0] * 4 > num_clusters:
        chunks = draw_cluster_weights(num_clusters, num_resamples, rng)
        return np.concatenate([weights.astype(np.float64) @ cluster_sums for weights in chunks])
    check_num_resamples(num_resamples)
    drawn = rng.multinomial(num_clusters, counts / num_clusters, size=num_resamples)
    totals: FloatArray = drawn.astype(np.float64) @ kinds
    return totals


def percentile_interval(draws: FloatArray, level: float) -> Interval:
    """The central `level` range of the draws."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level!r}")
    low, high = np.quantile(draws, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(low=float(low), high=float(high), level=level)


def bootstrap_value(
    value: float, draws: FloatArray, *, n: int, num_clusters: int, level: float = 0.95
) -> MetricValue:
    """A number with the percentile interval of its draws, NaN where a draw left it undefined.

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
    interval = percentile_interval(defined, level)
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
