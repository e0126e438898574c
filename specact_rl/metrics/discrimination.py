"""Does a higher score mean a better proposal? AUROC and AUPRC, with cluster-bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from specact_rl.metrics.resampling import (
    Clusters,
    bootstrap_value,
    cluster_codes,
    draw_cluster_weights,
    resampled_sums,
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
    return MetricValue(value=float(weighted_auroc(s, y, np.ones((1, s.size)))[0]), n=s.size)


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
    rng: np.random.Generator,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> MetricValue:
    """AUROC with a percentile interval over resampled clusters."""
    point = auroc(scores, labels)
    if point.value is None:
        return point
    s, y = _checked(scores, labels)
    codes, num_clusters = cluster_codes(clusters, s.size)
    draws = np.concatenate(
        [weighted_auroc(s, y, w) for w in _row_weights(codes, num_clusters, num_resamples, rng)]
    )
    return bootstrap_value(point.value, draws, n=s.size, num_clusters=num_clusters, level=level)


def auroc_difference(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    clusters: Clusters,
    *,
    rng: np.random.Generator,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> MetricValue:
    """AUROC of a minus AUROC of b on the same rows; each draw uses the same clusters for both."""
    a, b = as_scores(scores_a, "scores_a"), as_scores(scores_b, "scores_b")
    check_lengths(scores_a=a, scores_b=b)
    point_a, point_b = auroc(a, labels), auroc(b, labels)
    if point_a.value is None or point_b.value is None:
        return point_a
    y = as_labels(labels, "labels")
    codes, num_clusters = cluster_codes(clusters, a.size)
    draws = np.concatenate(
        [
            weighted_auroc(a, y, w) - weighted_auroc(b, y, w)
            for w in _row_weights(codes, num_clusters, num_resamples, rng)
        ]
    )
    return bootstrap_value(
        point_a.value - point_b.value, draws, n=a.size, num_clusters=num_clusters, level=level
    )


def within_group_auroc(
    scores: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[str] | NDArray[np.generic],
    clusters: Clusters,
    *,
    rng: np.random.Generator,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> MetricValue:
    """AUROC over the pairs of rows that are in one group, with an interval over clusters.

    What is left of an AUROC when knowing the group does not help. Each group counts by its pairs
    of an acceptable and an unacceptable row; None with a note when no group has such a pair.

    Args:
        scores: Shape (n,).
        labels: Shape (n,).
        groups: One key per row, for instance the action type, or the step.
        clusters: One id per row. Groups may cut across clusters (action types) or lie within them
            (steps of a task).
        rng: Of the interval.
        num_resamples: Number of draws.
        level: Nominal coverage.

    Returns:
        Its `n` and `num_clusters` are those of the groups that have a pair.
    """
    s, y = _checked(scores, labels)
    group_codes, num_groups = cluster_codes(groups, s.size)
    codes, num_clusters = cluster_codes(clusters, s.size)
    order = np.argsort(group_codes, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(group_codes, minlength=num_groups))[:-1])
    parts = [rows for rows in parts if y[rows].any() and not y[rows].all()]
    if not parts:
        return MetricValue(value=None, n=s.size, note=ONE_CLASS)
    counted = np.concatenate(parts)
    pairs = np.array([y[rows].sum() * (~y[rows]).sum() for rows in parts], dtype=np.float64)
    shares = np.array([auroc(s[rows], y[rows]).value for rows in parts], dtype=np.float64)
    if all(np.ptp(codes[rows]) == 0 for rows in parts):
        # A cluster that is drawn twice brings its groups twice: two groups of a kind, and no pairs
        # between them.
        sums = np.zeros((num_clusters, 2))
        np.add.at(sums, codes[[rows[0] for rows in parts]], np.stack([shares * pairs, pairs], 1))
        wins, of = resampled_sums(sums, num_resamples, rng).T
        draws = np.divide(wins, of, out=np.full(wins.shape, np.nan), where=of > 0)
    else:
        draws = np.concatenate(
            [
                _pooled_auroc(s, y, parts, weights)
                for weights in _row_weights(codes, num_clusters, num_resamples, rng)
            ]
        )
    return bootstrap_value(
        float(shares @ pairs / pairs.sum()),
        draws,
        n=counted.size,
        num_clusters=np.unique(codes[counted]).size,
        level=level,
    )


def _pooled_auroc(
    scores: FloatArray, labels: BoolArray, parts: Sequence[IntArray], weights: NDArray[np.generic]
) -> FloatArray:
    """AUROC over the pairs within each part, under each of many row weightings."""
    wins, pairs = np.zeros(weights.shape[0]), np.zeros(weights.shape[0])
    for rows in parts:
        w = weights[:, rows].astype(np.float64)
        here = (w @ labels[rows]) * (w @ ~labels[rows])
        # A draw may leave a part with one class: no pairs, and an undefined share of them.
        wins += np.nan_to_num(weighted_auroc(scores[rows], labels[rows], w)) * here
        pairs += here
    result: FloatArray = np.divide(wins, pairs, out=np.full(wins.shape, np.nan), where=pairs > 0)
    return result


def _row_weights(
    codes: IntArray, num_clusters: int, num_resamples: int, rng: np.random.Generator
) -> Iterator[IntArray]:
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


def clustered_auroc(
    scores: ArrayLike, labels: ArrayLike, clusters: Clusters, *, level: float = 0.95
) -> MetricValue:
    """AUROC with the interval of `_interval_of_influence`: no draws, for very many rows.

    Source: Obuchowski (1997), the variance of an AUROC of clustered rows; DeLong's (1988) when
    each row is a cluster.
    """
    point = auroc(scores, labels)
    if point.value is None:
        return point
    s, y = _checked(scores, labels)
    codes, num_clusters = cluster_codes(clusters, s.size)
    # A row's share of the pairs that it wins, ties half, less the mean share of its class.
    ranks, of_class = stats.rankdata(s), np.empty(s.size)
    for here in (y, ~y):
        of_class[here] = stats.rankdata(s[here])
    above = (ranks - of_class) / np.where(y, (~y).sum(), y.sum())
    won = np.where(y, above, 1.0 - above)
    influence = (won - point.value) / np.where(y, y.sum(), (~y).sum())
    return _interval_of_influence(point.value, influence, codes, num_clusters, level)


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
