"""A share with an interval that holds at 0 and 1 too, on dependent rows.

A bootstrap shows no spread where every row has the same value, and too little where few rows
differ; a score interval at the effective number of rows does not have that fault.
"""

from __future__ import annotations

import math

from numpy.typing import ArrayLike
from scipy import stats

from specact_rl.metrics.paired import ALL_ALIKE, clustered_standard_error
from specact_rl.metrics.resampling import (
    Clusters,
    cluster_codes,
    effective_clusters,
    few_clusters_factor,
)
from specact_rl.metrics.values import BoolArray, IntArray, Interval, MetricValue, as_labels


def cluster_rate(hits: ArrayLike, clusters: Clusters, *, level: float = 0.95) -> MetricValue:
    """Share of hits with Wilson's interval at the effective number of rows.

    Rows that all have the same value cannot show how alike the rows of a cluster are: they are
    taken to be entirely so, and each cluster counts once. Clusters of one row give the plain
    Wilson interval. Simulated coverage, 80 clusters of 6 rows at intra-cluster correlation 1/2:
    95, 89 and 97 % at true shares of .004, .02 and .3 (percentile bootstrap: 56, 81 and 97 %).

    Returns:
        No interval, and a note, when there is one cluster only.

    Source: Korn and Graubard (1998) for the effective number; Franco et al. (2019) for Wilson's
    interval at it.
    """
    y = as_labels(hits, "hits")
    codes, num_clusters = cluster_codes(clusters, y.size)
    share, alike = float(y.mean()), bool(y.all() or not y.any())
    if num_clusters < 2:
        return MetricValue(
            value=share,
            n=y.size,
            num_clusters=num_clusters,
            note="no interval: one cluster only",
        )
    if alike:
        rows = effective_clusters(codes, num_clusters)
    else:
        rows = _effective_rows(y, codes, num_clusters, level)
    interval = wilson_at(share, rows, level)
    return MetricValue(
        value=share,
        low=interval.low,
        high=interval.high,
        n=y.size,
        num_clusters=num_clusters,
        note=ALL_ALIKE if alike and num_clusters < y.size else None,
    )


def wilson_at(share: float, num_rows: float, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share; the number of rows need not be whole."""
    z_squared = float(stats.norm.ppf((1.0 + level) / 2.0)) ** 2
    shrunk = 1.0 + z_squared / num_rows
    centre = (share + z_squared / (2.0 * num_rows)) / shrunk
    spread = share * (1.0 - share) / num_rows + z_squared / (4.0 * num_rows**2)
    half = math.sqrt(z_squared * spread) / shrunk
    # At 0 and 1 the ends are exact, whatever rounding says.
    low = 0.0 if share == 0.0 else centre - half
    high = 1.0 if share == 1.0 else centre + half
    return Interval(low=low, high=high, level=level)


def _effective_rows(y: BoolArray, codes: IntArray, num_clusters: int, level: float) -> float:
    """Independent rows whose share has the clustered standard error; never more than there are."""
    error = clustered_standard_error(y, codes)
    assert error is not None  # as there are two clusters
    share, n = float(y.mean()), y.size
    design_effect = max(1.0, error**2 * (n - 1) / (share * (1.0 - share)))
    return n / design_effect * few_clusters_factor(n, num_clusters, level)
