"""Does a higher score mean a better proposal? AUROC and AUPRC, with intervals over clusters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from specact_rl.metrics.resampling import (
    SAME,
    Clusters,
    Weights,
    bootstrap_value,
    cluster_codes,
    draw_cluster_weights,
)
from specact_rl.metrics.values import (
    BoolArray,
    FloatArray,
    IntArray,
    MetricValue,
    as_labels,
    as_scores,
    check_lengths,
)

ONE_CLASS = "one class only: undefined"


def auroc(scores: ArrayLike, labels: ArrayLike) -> MetricValue:
    """Chance that an acceptable row scores above an unacceptable one; a tie counts one half.

    0.5 is chance, 1 is perfect. None with a note when one class is missing.
    """
    s, y = _checked(scores, labels)
    if y.all() or not y.any():
        return MetricValue(value=None, n=s.size, note=ONE_CLASS)
    return MetricValue(value=_Ranking.of(s, y).auroc, n=s.size)


def auprc(scores: ArrayLike, labels: ArrayLike) -> MetricValue:
    """Average precision: the mean over acceptable rows of the precision at their threshold.

    Rows of equal score come in together. Chance is the share of acceptable rows. None with a
    note when no row is acceptable.
    """
    s, y = _checked(scores, labels)
    if not y.any():
        return MetricValue(value=None, n=s.size, note="no acceptable row: undefined")
    order = np.argsort(-s, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(s[order])), s.size - 1)
    hits = np.cumsum(y[order])[last_of_tie]
    precision = hits / (last_of_tie + 1)
    return MetricValue(
        value=float(np.sum(np.diff(hits, prepend=0) * precision) / y.sum()), n=s.size
    )


def weighted_auroc(
    scores: ArrayLike, labels: ArrayLike, weights: NDArray[np.generic]
) -> FloatArray:
    """AUROC under each of many row weightings, shape (draws,).

    Args:
        scores: Shape (n,).
        labels: Shape (n,).
        weights: Non-negative row weights, shape (draws, n). Integers repeat rows.

    Returns:
        NaN for a weighting that leaves one class without weight.
    """
    s, y = _checked(scores, labels)
    if weights.ndim != 2 or weights.shape[1] != s.size:
        raise ValueError(f"weights must have shape (draws, {s.size}), got {weights.shape!r}")
    order = np.argsort(s, kind="stable")
    sorted_labels = y[order]
    w = np.asarray(weights, dtype=np.float64)[:, order]
    tie_starts = np.append(0, np.flatnonzero(np.diff(s[order])) + 1)
    positive = np.add.reduceat(w * sorted_labels, tie_starts, axis=1)
    negative = np.add.reduceat(w * ~sorted_labels, tie_starts, axis=1)
    below = np.cumsum(negative, axis=1)
    wins = np.einsum("ij,ij->i", positive, below - 0.5 * negative)
    pairs = positive.sum(axis=1) * below[:, -1]
    result: FloatArray = np.divide(wins, pairs, out=np.full(wins.shape, np.nan), where=pairs > 0)
    return result


def auroc_interval(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: Clusters,
    *,
    level: float = 0.95,
) -> MetricValue:
    """AUROC with the interval of its standard error between clusters, by log-odds.

    Nothing is drawn. In simulation it covers the truth more often than the percentile interval of
    resampled clusters does, the more so the fewer clusters there are and the nearer to 1 the AUROC
    is (docs/statistics.md).

    Returns:
        No interval, and a note, when all rows of a class are of one cluster, or when the rows show
        no spread, as with a perfect ranking: that is not certainty.

    Source: DeLong et al. (1988); Obuchowski (1997) for clusters. Their variances correct for the
    number of clusters of each class, here for that of all; t has the degrees of freedom of the
    class that is in fewer clusters.
    """
    s, y = _checked(scores, labels)
    if y.all() or not y.any():
        return MetricValue(value=None, n=s.size, note=ONE_CLASS)
    ranking = _Ranking.of(s, y)
    spread = _spread(ranking.influence(), ranking, clusters)
    return spread.around(ranking.auroc, level, log_odds=True)


def auroc_difference(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    clusters: Clusters,
    *,
    level: float = 0.95,
) -> MetricValue:
    """AUROC of a minus AUROC of b on the same rows, with the interval of its standard error.

    As `auroc_interval`, but for the log-odds: a difference may lie at 0.
    """
    a, y = _checked(scores_a, labels)
    b = as_scores(scores_b, "scores_b")
    check_lengths(scores_a=a, scores_b=b)
    if y.all() or not y.any():
        return MetricValue(value=None, n=y.size, note=ONE_CLASS)
    of_a, of_b = _Ranking.of(a, y), _Ranking.of(b, y)
    spread = _spread(of_a.influence() - of_b.influence(), of_a, clusters)
    return spread.around(of_a.auroc - of_b.auroc, level)


def within_group_auroc(
    scores: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[str] | NDArray[np.generic],
    clusters: Clusters,
    *,
    level: float = 0.95,
) -> MetricValue:
    """AUROC over the pairs of rows that are in one group, with an interval as `auroc_interval`.

    What is left of an AUROC when knowing the group does not help. Each group counts by its pairs
    of an acceptable and an unacceptable row; None with a note when no group has such a pair.

    Args:
        scores: Shape (n,).
        labels: Shape (n,).
        groups: One key per row, for instance the action type, or the step.
        clusters: One id per row. Groups may cut across clusters (action types) or lie within them
            (steps of a task).
        level: Nominal coverage.

    Returns:
        Its `n` and `num_clusters` are those of the groups that have a pair.
    """
    s, y = _checked(scores, labels)
    group_codes, _ = cluster_codes(groups, s.size)
    ranking = _Ranking.of(s, y, group_codes)
    if not ranking.pairs.any():
        return MetricValue(value=None, n=s.size, note=ONE_CLASS)
    codes, num_clusters = cluster_codes(clusters, s.size)
    # A pair moves with each of its two clusters, which the influence counts from both rows. A pair
    # within one cluster moves with that once; among the steps of a task there is no other.
    inner = _Ranking.of(s, y, group_codes * num_clusters + codes)
    twice = np.where(y, inner.wins - ranking.auroc * inner.pairs, 0.0) / ranking.num_pairs
    spread = _spread(ranking.influence() - twice, ranking, codes)
    return spread.around(ranking.auroc, level, log_odds=True)


@dataclass(frozen=True, slots=True)
class _Spread:
    """How sure a statistic is that sums what each row adds to it."""

    error: float | None
    """Standard error between clusters; None where a class is in one cluster only."""
    freedom: int
    """Clusters that have the rarer class, less one."""
    n: int
    """Rows that are in a pair."""
    num_clusters: int

    def around(self, value: float, level: float, log_odds: bool = False) -> MetricValue:
        """The value with its t interval, by log-odds for a value that lies in (0, 1)."""
        bare = MetricValue(value=value, n=self.n, num_clusters=self.num_clusters)
        if self.error is None:
            cause = "one cluster only" if self.num_clusters < 2 else "a class is in one cluster"
            return replace(bare, note=f"no interval: {cause}")
        if self.error < SAME:
            return replace(bare, note="no interval: the same without any cluster")
        reach = float(stats.t.ppf((1.0 + level) / 2.0, self.freedom)) * self.error
        low, high = value - reach, value + reach
        if log_odds:
            reach /= value * (1.0 - value)
            low, high = (float(special.expit(special.logit(value) + d)) for d in (-reach, reach))
        return replace(bare, low=low, high=high)


def _spread(influence: FloatArray, ranking: _Ranking, clusters: Clusters) -> _Spread:
    codes, num_clusters = cluster_codes(clusters, influence.size)
    moved = np.bincount(codes, weights=influence, minlength=num_clusters)
    counted = ranking.pairs > 0
    good, bad = (
        np.bincount(codes[counted & of_class], minlength=num_clusters) > 0
        for of_class in (ranking.labels, ~ranking.labels)
    )
    clusters_counted, freedom = int((good | bad).sum()), int(min(good.sum(), bad.sum())) - 1
    error = None
    if freedom > 0:
        squares = float(moved @ moved) * clusters_counted / (clusters_counted - 1)
        error = math.sqrt(squares)
    return _Spread(error, freedom, int(counted.sum()), clusters_counted)


@dataclass(frozen=True, slots=True)
class _Ranking:
    """How each row fares against those of the other class and the same group, shapes (n,)."""

    labels: BoolArray
    wins: FloatArray
    """Rows that it is ranked rightly against, ties one half."""
    pairs: FloatArray
    """Rows that it is ranked against."""

    @staticmethod
    def of(scores: FloatArray, labels: BoolArray, groups: IntArray | None = None) -> _Ranking:
        """Sorts; without groups, all rows are one."""
        if groups is None:
            groups = np.zeros(scores.size, dtype=np.int64)
            order = np.argsort(scores, kind="stable")
        else:
            order = np.lexsort((scores, groups))
        s, y, g = scores[order], labels[order], groups[order]
        is_start = np.ones(s.size, dtype=np.bool_)
        is_start[1:] = (s[1:] != s[:-1]) | (g[1:] != g[:-1])
        tie_starts = np.flatnonzero(is_start)
        group_starts = np.flatnonzero(np.diff(g[tie_starts], prepend=-1))
        rows_of_tie = np.diff(tie_starts, append=s.size)
        ties_of_group = np.diff(group_starts, append=tie_starts.size)
        good = np.add.reduceat(y.astype(np.float64), tie_starts)
        bad = rows_of_tie - good

        def below_and_all(each: FloatArray) -> tuple[FloatArray, FloatArray]:
            """Per tie, how many of its group stand below, half of the tie with them, and in all."""
            totals = np.add.reduceat(each, group_starts)
            before_group = (np.cumsum(totals) - totals).repeat(ties_of_group)
            return np.cumsum(each) - each / 2 - before_group, totals.repeat(ties_of_group)

        (good_below, goods), (bad_below, bads) = below_and_all(good), below_and_all(bad)
        wins, pairs = np.empty(s.size), np.empty(s.size)
        wins[order] = np.where(
            y, bad_below.repeat(rows_of_tie), (goods - good_below).repeat(rows_of_tie)
        )
        pairs[order] = np.where(y, bads.repeat(rows_of_tie), goods.repeat(rows_of_tie))
        return _Ranking(labels, wins, pairs)

    @property
    def num_pairs(self) -> float:
        """Each is counted from both of its rows."""
        return float(self.pairs.sum()) / 2.0

    @property
    def auroc(self) -> float:
        """Of rows with at least one pair."""
        return float(self.wins.sum()) / 2.0 / self.num_pairs

    def influence(self) -> FloatArray:
        """How much the AUROC moves with the weight of each row; sums to 0."""
        return (self.wins - self.auroc * self.pairs) / self.num_pairs


def _row_weights(
    codes: IntArray, num_clusters: int, num_resamples: int, rng: np.random.Generator
) -> Iterator[Weights]:
    for weights in draw_cluster_weights(num_clusters, num_resamples, rng, num_rows=codes.size):
        yield weights[:, codes]


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, BoolArray]:
    s, y = as_scores(scores), as_labels(labels, "labels")
    check_lengths(scores=s, labels=y)
    return s, y


def auprc_interval(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: Clusters,
    *,
    rng: np.random.Generator,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> MetricValue:
    """AUPRC with a percentile interval over resampled clusters.

    It lies too high near 1: simulated, 60 clusters of 5 rows, 300 tables each, 95 % intervals
    cover an AUPRC of .62, .85, .977 and .994 in 95, 93, 90 and 86 %.

    Beyond `MANY_WEIGHTS` rows times draws, the interval is that of `_interval_of_influence`, and
    the note says so.
    """
    point = auprc(scores, labels)
    if point.value is None:
        return point
    s, y = _checked(scores, labels)
    codes, num_clusters = cluster_codes(clusters, s.size)
    if s.size * num_resamples > MANY_WEIGHTS:
        return _interval_of_influence(
            point.value, _auprc_influence(s, y), codes, num_clusters, level
        )
    draws = np.concatenate(
        [_weighted_auprc(s, y, w) for w in _row_weights(codes, num_clusters, num_resamples, rng)]
    )
    return bootstrap_value(point.value, draws, n=s.size, num_clusters=num_clusters, level=level)


MANY_WEIGHTS = 100_000_000
"""Rows times draws beyond which resampling would take more than a few seconds."""


def _interval_of_influence(
    value: float, influence: FloatArray, codes: IntArray, num_clusters: int, level: float
) -> MetricValue:
    """A share in (0, 1) with a normal interval on log-odds, from each row's pull on it.

    The standard error is the infinitesimal jackknife's: the root of the summed squares of the
    clusters' pulls, which is what the bootstrap's spread tends to.
    """
    sums = np.bincount(codes, influence, minlength=num_clusters)
    error = float(np.sqrt(sums @ sums))
    if num_clusters < 2 or error == 0.0 or not 0.0 < value < 1.0:
        cause = "one cluster only" if num_clusters < 2 else "no cluster changes it"
        return MetricValue(
            value=value, n=codes.size, num_clusters=num_clusters, note=f"no interval: {cause}"
        )
    centre = float(special.logit(value))
    half = float(stats.norm.ppf((1.0 + level) / 2.0)) * error / (value * (1.0 - value))
    return MetricValue(
        value=value,
        low=float(special.expit(centre - half)),
        high=float(special.expit(centre + half)),
        n=codes.size,
        num_clusters=num_clusters,
        note="interval from the clustered standard error",
    )


def _weighted_auprc(s: FloatArray, y: BoolArray, weights: NDArray[np.generic]) -> FloatArray:
    """Average precision under each of many row weightings; NaN without an acceptable row."""
    order = np.argsort(-s)
    starts = np.append(0, np.flatnonzero(np.diff(s[order])) + 1)
    w = np.asarray(weights, dtype=np.float64)[:, order]
    hits = np.add.reduceat(w * y[order], starts, axis=1)
    hits_so_far = np.cumsum(hits, axis=1)
    rows_so_far = np.cumsum(np.add.reduceat(w, starts, axis=1), axis=1)
    precision = hits_so_far / np.maximum(rows_so_far, 1.0)
    total = hits_so_far[:, -1]
    result: FloatArray = np.divide(
        np.einsum("ij,ij->i", hits, precision),
        total,
        out=np.full(total.shape, np.nan),
        where=total > 0,
    )
    return result


def _auprc_influence(s: FloatArray, y: BoolArray) -> FloatArray:
    """Derivative of the average precision by each row's weight, shape (n,)."""
    order = np.argsort(-s)
    starts = np.append(0, np.flatnonzero(np.diff(s[order])) + 1)
    hits = np.add.reduceat(y[order].astype(np.float64), starts)
    rows = np.diff(np.append(starts, s.size)).astype(np.float64)
    hits_so_far, rows_so_far = np.cumsum(hits), np.cumsum(rows)
    precision = hits_so_far / rows_so_far
    value = float(hits @ precision / hits_so_far[-1])

    def from_here_on(terms: FloatArray) -> FloatArray:
        """Sum over this and all lower scores, whose precision a row takes part in."""
        return np.cumsum(terms[::-1])[::-1]

    as_hit = from_here_on(hits / rows_so_far)
    as_row = from_here_on(hits * precision / rows_so_far)
    group = np.repeat(np.arange(starts.size), rows.astype(np.int64))
    sorted_y = y[order]
    pull = sorted_y * (precision - value + as_hit)[group] - as_row[group]
    influence = np.empty(s.size)
    influence[order] = pull / hits_so_far[-1]
    return influence
