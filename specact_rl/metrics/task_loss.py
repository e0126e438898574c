"""What a gate's mistakes cost whole tasks, whose steps depend on one another."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from specact_rl.metrics.paired import ALL_ALIKE
from specact_rl.metrics.rates import wilson_at
from specact_rl.metrics.resampling import Clusters, cluster_codes, few_clusters_factor
from specact_rl.metrics.values import (
    BoolArray,
    FloatArray,
    IntArray,
    MetricValue,
    as_labels,
    as_scores,
    check_lengths,
)

TaskLoss = Literal["wrong_among_accepted", "wrong_share", "any_wrong"]
"""Share wrong among a task's accepted steps (tasks without one do not count); share of its steps
that are accepted and wrong; 1 if any step is. The last two never fall when more is accepted."""
RiskOf = TaskLoss | Literal["one_step"]
"""Also: share wrong among accepted steps when one step is drawn from each task."""


def check_task_loss(loss: str) -> None:
    """Raise ValueError unless it is one of `TaskLoss`."""
    if loss not in get_args(TaskLoss):
        raise ValueError(f"loss must be one of {sorted(get_args(TaskLoss))}, got {loss!r}")


def task_risk(
    accepted: ArrayLike,
    acceptable: ArrayLike,
    tasks: Clusters,
    of: RiskOf,
    *,
    level: float = 0.95,
) -> MetricValue:
    """Mean loss of tasks under a gate's decisions, with an interval over tasks.

    The estimate of what `policy.thresholds` promises, on rows that chose nothing.

    Args:
        accepted: The gate's decisions, shape (n,).
        acceptable: Labels, shape (n,).
        tasks: Task id per row.
        of: Which loss.
        level: Of the interval.

    Returns:
        None with a note where nothing is accepted and the loss is among the accepted; `n` counts
        rows, for "any_wrong" tasks.
    """
    g, y = as_labels(accepted, "accepted"), as_labels(acceptable)
    check_lengths(accepted=g, acceptable=y)
    codes, num_tasks = cluster_codes(tasks, g.size)
    wrong = g & ~y
    if of == "any_wrong":
        hit = np.bincount(codes[wrong], minlength=num_tasks) > 0
        return weighted_cluster_rate(hit, np.ones(num_tasks), np.arange(num_tasks), level=level)
    if of == "wrong_share":
        weights = 1.0 / np.bincount(codes)[codes]
        return weighted_cluster_rate(wrong, weights, codes, level=level)
    if not g.any():
        return MetricValue(value=None, n=0, note="nothing accepted")
    counted = codes[g] if of == "wrong_among_accepted" else codes
    weights = 1.0 / np.bincount(counted, minlength=num_tasks)[codes[g]]
    return weighted_cluster_rate(~y[g], weights, codes[g], level=level)


def weighted_cluster_rate(
    hits: ArrayLike, weights: ArrayLike, clusters: Clusters, *, level: float = 0.95
) -> MetricValue:
    """Weighted share of hits with Wilson's interval at the effective number of rows.

    `rates.cluster_rate` for rows that do not weigh the same: the standard error is that of a ratio
    of cluster sums, linearised; where all rows have the same value, each cluster counts as one row
    of its summed weight.

    Args:
        hits: Shape (n,).
        weights: Positive, shape (n,).
        clusters: Cluster id per row.
        level: Of the interval.

    Returns:
        No interval, and a note, when there is one cluster only.

    Source: Korn and Graubard (1998), whose effective number it is.
    """
    y, w = as_labels(hits, "hits"), as_scores(weights, "weights")
    check_lengths(hits=y, weights=w)
    if w.min() <= 0.0:
        raise ValueError(f"weights must be positive, got {w.min()!r}")
    codes, num_clusters = cluster_codes(clusters, y.size)
    of_clusters = np.bincount(codes, w)
    total = float(of_clusters.sum())
    share = float(w @ y) / total
    alike = bool(y.all() or not y.any())
    if alike:
        share = float(y[0])
    if num_clusters < 2:
        return MetricValue(
            value=share, n=y.size, num_clusters=num_clusters, note="no interval: one cluster only"
        )
    if alike:
        rows = total**2 / float(of_clusters @ of_clusters)
    else:
        error = ratio_error(np.bincount(codes, w * y), of_clusters)
        independent = total**2 / float(w @ w)
        factor = few_clusters_factor(y.size, num_clusters, level) if y.size > num_clusters else 1.0
        # Never more than as many independent rows of these weights are worth.
        spread = share * (1.0 - share)
        rows = factor * (independent if error == 0.0 else min(independent, spread / error**2))
    interval = wilson_at(share, rows, level)
    return MetricValue(
        value=share,
        low=interval.low,
        high=interval.high,
        n=y.size,
        num_clusters=num_clusters,
        note=ALL_ALIKE if alike and num_clusters < y.size else None,
    )


def ratio_error(numerators: FloatArray, denominators: FloatArray) -> float:
    """Standard error of sum(numerators) / sum(denominators) over K independent clusters, linearised.

    Args:
        numerators: Per cluster, shape (K,); K >= 2.
        denominators: Per cluster, shape (K,), with a positive sum.
    """
    total, k = float(denominators.sum()), numerators.size
    residuals = numerators - float(numerators.sum()) / total * denominators
    return float(np.sqrt(k / (k - 1) * (residuals @ residuals))) / total


def places_within(codes: IntArray, hits: BoolArray) -> tuple[IntArray, IntArray]:
    """For each row, how many earlier rows share its cluster, and how many of those are hits.

    Args:
        codes: Cluster number per row, in the order that "earlier" means, shape (n,).
        hits: Shape (n,).
    """
    by_cluster = np.argsort(codes, kind="stable")
    grouped = codes[by_cluster]
    starts = np.append(0, np.flatnonzero(np.diff(grouped)) + 1)
    sizes = np.diff(np.append(starts, codes.size))
    before = np.cumsum(hits[by_cluster]) - hits[by_cluster]
    place, num_hits = np.empty((2, codes.size), dtype=np.int64)
    place[by_cluster] = np.arange(codes.size) - np.repeat(starts, sizes)
    num_hits[by_cluster] = before - np.repeat(before[starts], sizes)
    return place, num_hits
