"""What a gate's mistakes cost whole tasks, whose steps depend on one another."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCounts:
    """A gate's decisions counted by task; all arrays of shape (K,)."""

    steps: IntArray
    accepted: IntArray
    wrong: IntArray
    """Accepted and not acceptable."""

    @classmethod
    def of(cls, accepted: ArrayLike, acceptable: ArrayLike, tasks: Clusters) -> TaskCounts:
        """Count decisions on labelled rows.

        Args:
            accepted: The gate's decisions, shape (n,).
            acceptable: Labels, shape (n,).
            tasks: Task id per row.
        """
        g, y = as_labels(accepted, "accepted"), as_labels(acceptable)
        check_lengths(accepted=g, acceptable=y)
        codes, k = cluster_codes(tasks, g.size)
        return cls(
            steps=np.bincount(codes, minlength=k),
            accepted=np.bincount(codes[g], minlength=k),
            wrong=np.bincount(codes[g & ~y], minlength=k),
        )

    def accept_rate(self, level: float = 0.95) -> MetricValue:
        """Share of the steps that are accepted."""
        return _rate(self.accepted, self.steps, np.ones(self.steps.size), level)

    def selective_risk(self, level: float = 0.95) -> MetricValue:
        """Share wrong among all accepted steps; None when there are none."""
        return _rate(self.wrong, self.accepted, np.ones(self.steps.size), level)

    def risk(self, of: RiskOf, level: float = 0.95) -> MetricValue:
        """Mean loss of tasks; the estimate of what `policy.thresholds` promises of new ones.

        Returns:
            None with a note where nothing is accepted and the loss is among the accepted. `n` is
            the number of rows that count, for "any_wrong" of tasks.
        """
        ones = np.ones_like(self.steps)
        if of == "any_wrong":
            return _rate((self.wrong > 0).astype(np.int64), ones, ones.astype(np.float64), level)
        if of == "wrong_share":
            return _rate(self.wrong, self.steps, 1.0 / self.steps, level)
        among = self.accepted if of == "wrong_among_accepted" else self.steps
        return _rate(self.wrong, self.accepted, 1.0 / np.maximum(among, 1), level)


def _rate(hits: IntArray, rows: IntArray, weights: FloatArray, level: float) -> MetricValue:
    """Weighted share of hits with Wilson's interval at the effective number of rows.

    `rates.cluster_rate` from counts, for clusters whose rows weigh differently: the standard error
    is that of a ratio of cluster sums, linearised. Where all rows have the same value, each
    cluster counts as one row of its weight.

    Args:
        hits: Rows that are hits, per cluster.
        rows: Rows that count, per cluster; clusters without one are left out.
        weights: Of each row of the cluster, positive.
        level: Of the interval.

    Source: Korn and Graubard (1998), whose effective number it is.
    """
    there = rows > 0
    hits, rows, weights = hits[there], rows[there], weights[there]
    n, k = int(rows.sum()), rows.size
    if n == 0:
        return MetricValue(value=None, n=0, note="nothing accepted")
    numerators, denominators = weights * hits, weights * rows
    total = float(denominators.sum())
    share = float(numerators.sum()) / total
    alike = int(hits.sum()) in (0, n)
    if alike:
        share = float(hits[0] > 0)
    if k < 2:
        return MetricValue(value=share, n=n, num_clusters=k, note="no interval: one cluster only")
    if alike:
        effective = total**2 / float(denominators @ denominators)
    else:
        residuals = numerators - share * denominators
        variance = k / (k - 1) * float(residuals @ residuals) / total**2
        # Never more than as many independent rows of these weights.
        effective = total**2 / float(rows @ weights**2)
        if variance > 0.0:
            effective = min(effective, share * (1.0 - share) / variance)
        if n > k:
            effective *= few_clusters_factor(n, k, level)
    interval = wilson_at(share, effective, level)
    return MetricValue(
        value=share,
        low=interval.low,
        high=interval.high,
        n=n,
        num_clusters=k,
        note=ALL_ALIKE if alike and k < n else None,
    )


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
    before: IntArray = np.cumsum(hits[by_cluster]) - hits[by_cluster]
    place, num_hits = np.empty((2, codes.size), dtype=np.int64)
    place[by_cluster] = np.arange(codes.size) - np.repeat(starts, sizes)
    num_hits[by_cluster] = before - np.repeat(before[starts], sizes)
    return place, num_hits
