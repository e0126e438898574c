"""Cluster resampling: the draws behind every bootstrap interval.

Rows of one task depend on each other, so whole tasks are drawn. A draw is a vector of integer
weights, how often each cluster came up, so that no row is ever copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from specact_rl.metrics.values import FloatArray, IntArray, Interval

Clusters = Sequence[str] | Sequence[int] | NDArray[np.generic]
"""One cluster id per row, usually the task id."""

CHUNK_VALUES = 4_000_000
"""Float64 values held at once (32 MB); more draws are done in turns."""

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
    unique, codes = np.unique(ids, return_inverse=True)
    return codes.astype(np.int64), int(unique.size)


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


def few_clusters_note(num_clusters: int) -> str | None:
    """A warning when there are too few clusters for a percentile interval, else None."""
    if num_clusters >= FEW_CLUSTERS:
        return None
    return f"only {num_clusters} clusters: the bootstrap interval is too short"


def check_num_resamples(num_resamples: int) -> None:
    """Raise ValueError unless at least one draw is asked for."""
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples!r}")
