"""Is a probability of 0.8 right eight times in ten? Reliability curves, ECE, Brier, log loss.

The plug-in ECE is biased upwards (0.045 on average for perfectly calibrated, uniform probabilities
at n = 500 and 10 bins), so quote the debiased one and, beside it, the null band. A constant is
perfectly calibrated: the Brier skill says whether there is any information.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from specact_rl.metrics.resampling import (
    Clusters,
    bootstrap_value,
    cluster_codes,
    resampled_sums,
)
from specact_rl.metrics.values import (
    BoolArray,
    FloatArray,
    IntArray,
    MetricValue,
    as_labels,
    as_probabilities,
    check_fraction,
    check_lengths,
)

Binning = Literal["equal_width", "equal_mass"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityCurve:
    """Observed acceptable fraction against mean probability, over the non-empty bins only."""

    low: FloatArray
    """Lower end per bin: the bin's edge (equal width) or its smallest probability (equal mass)."""
    high: FloatArray
    mean_predicted: FloatArray
    fraction_acceptable: FloatArray
    count: IntArray
    """Rows per bin; their sum is n."""

    @property
    def n(self) -> int:
        """Rows in all bins."""
        return int(self.count.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class BrierDecomposition:
    """brier = reliability - resolution + uncertainty + within_variance - within_covariance."""

    reliability: float
    """Lower is better."""
    resolution: float
    """Higher is better."""
    uncertainty: float
    """Variance of the label; the Brier score of always saying the base rate."""
    within_variance: float
    within_covariance: float
    brier: float


def reliability_curve(
    p_accept: ArrayLike,
    acceptable: ArrayLike,
    n_bins: int = 10,
    binning: Binning = "equal_width",
) -> ReliabilityCurve:
    """Observed acceptable fraction against mean predicted probability, per bin.

    Args:
        p_accept: Calibrated probabilities in [0, 1], shape (n,). Not log-odds.
        acceptable: Labels, shape (n,), all known.
        n_bins: Number of bins.
        binning: "equal_width": [k/n_bins, (k+1)/n_bins), a probability on an inner edge goes to
            the upper bin. "equal_mass": n/n_bins rows each by rank; equal probabilities always
            share a bin, so the order of the rows does not matter.

    Raises:
        ValueError: Shapes differ, no rows, a probability outside [0, 1], an unknown label.

    Source: Niculescu-Mizil and Caruana (2005); equal mass: Nixon et al. (2019).
    """
    p, y = checked_rows(p_accept, acceptable)
    return _curve(p, y, bin_numbers(p, n_bins, binning), n_bins, binning)


def expected_calibration_error(curve: ReliabilityCurve) -> float:
    """Plug-in ECE, in [0, 1], lower is better; biased upwards (see the module).

    Source: Guo et al. (2017): sum over bins of n_b/n |acceptable_b - mean p_b|.
    """
    gap = np.abs(curve.fraction_acceptable - curve.mean_predicted)
    return float(np.average(gap, weights=curve.count))


def debiased_squared_calibration_error(curve: ReliabilityCurve) -> MetricValue:
    """Debiased squared calibration error; lower is better, may fall below zero by chance.

    A bin with one row has no variance estimate: it is left out and the note says so.

    Source: Kumar et al. (2019): sum of n_b/n [(p_b - y_b)^2 - y_b (1 - y_b) / (n_b - 1)].
    """
    kept = curve.count > 1
    num_single = int((~kept).sum())
    note = f"{num_single} bins with one row left out" if num_single else None
    if not kept.any():
        return MetricValue(value=None, n=0, note="no bin has two rows")
    count = curve.count[kept]
    y = curve.fraction_acceptable[kept]
    terms = (curve.mean_predicted[kept] - y) ** 2 - y * (1.0 - y) / (count - 1)
    return MetricValue(value=float(np.average(terms, weights=count)), n=int(count.sum()), note=note)


def debiased_ece(curve: ReliabilityCurve) -> MetricValue:
    """Square root of the debiased squared error, which is first clipped at 0.

    A root-mean-square over bins, so not the same scale as the mean absolute gap of the ECE
    (never below it on the same bins, sampling noise apart). 0 means that no miscalibration can
    be told from noise.
    """
    squared = debiased_squared_calibration_error(curve)
    if squared.value is None:
        return squared
    return MetricValue(value=max(squared.value, 0.0) ** 0.5, n=squared.n, note=squared.note)


def brier_score(p_accept: ArrayLike, acceptable: ArrayLike) -> float:
    """Mean squared difference of probability and label, in [0, 1], lower is better."""
    p, y = checked_rows(p_accept, acceptable)
    return float(np.mean((p - y) ** 2))


def brier_skill(
    p_accept: ArrayLike, acceptable: ArrayLike, base_rate: float | None = None
) -> MetricValue:
    """1 - Brier / Brier of a constant: 1 is perfect, 0 says no more than the base rate.

    Args:
        p_accept: Probabilities, shape (n,).
        acceptable: Labels, shape (n,).
        base_rate: The constant to beat, for instance the calibration split's share of
            acceptable rows; None takes these rows' own, the hardest constant.

    Returns:
        None with a note when the constant is never wrong (one class only).
    """
    p, y = checked_rows(p_accept, acceptable)
    constant = float(y.mean()) if base_rate is None else check_fraction(base_rate, "base_rate")
    reference = float(np.mean((constant - y) ** 2))
    if reference == 0.0:
        return MetricValue(value=None, n=p.size, note="one class only: nothing to improve on")
    return MetricValue(value=1.0 - float(np.mean((p - y) ** 2)) / reference, n=p.size)


def brier_skill_interval(
    p_accept: ArrayLike,
    acceptable: ArrayLike,
    clusters: Clusters,
    *,
    rng: np.random.Generator,
    num_resamples: int = 10_000,
    level: float = 0.95,
) -> MetricValue:
    """`brier_skill` over these rows' own base rate, with an interval over resampled clusters."""
    point = brier_skill(p_accept, acceptable)
    if point.value is None:
        return point
    p, y = checked_rows(p_accept, acceptable)
    codes, num_clusters = cluster_codes(clusters, p.size)
    sums = np.stack(
        [np.bincount(codes, column) for column in ((p - y) ** 2, y, np.ones(p.size))], axis=1
    )
    error, right, n = resampled_sums(sums.astype(np.float64), num_resamples, rng).T
    # n times the Brier score of the draw's own base rate.
    constant = right * (1.0 - right / n)
    skill = 1.0 - np.divide(error, constant, out=np.full(n.shape, np.nan), where=constant > 0.0)
    return bootstrap_value(point.value, skill, n=p.size, num_clusters=num_clusters, level=level)


def brier_decomposition(
    p_accept: ArrayLike,
    acceptable: ArrayLike,
    n_bins: int = 10,
    binning: Binning = "equal_width",
) -> BrierDecomposition:
    """The five terms, an exact identity whatever the bins.

    Source: Murphy (1973); the two within-bin terms: Stephenson et al. (2008).
    """
    p, y = checked_rows(p_accept, acceptable)
    bins = bin_numbers(p, n_bins, binning)
    count = np.bincount(bins, minlength=n_bins)
    filled = np.maximum(count, 1)
    p_bin = (np.bincount(bins, weights=p, minlength=n_bins) / filled)[bins]
    y_bin = (np.bincount(bins, weights=y.astype(np.float64), minlength=n_bins) / filled)[bins]
    base = float(y.mean())
    return BrierDecomposition(
        reliability=float(np.mean((p_bin - y_bin) ** 2)),
        resolution=float(np.mean((y_bin - base) ** 2)),
        uncertainty=base * (1.0 - base),
        within_variance=float(np.mean((p - p_bin) ** 2)),
        within_covariance=float(2.0 * np.mean((p - p_bin) * (y - y_bin))),
        brier=float(np.mean((p - y) ** 2)),
    )


def log_loss(p_accept: ArrayLike, acceptable: ArrayLike, clip: float = 1e-15) -> float:
    """Mean negative log-likelihood in nats, lower is better.

    Probabilities are clipped to [clip, 1 - clip], so that one certain mistake costs 34.5 nats
    and not infinity.
    """
    p, y = checked_rows(p_accept, acceptable)
    p = np.clip(p, clip, 1.0 - clip)
    return float(-np.mean(np.where(y, np.log(p), np.log1p(-p))))


def checked_rows(p_accept: ArrayLike, acceptable: ArrayLike) -> tuple[FloatArray, BoolArray]:
    """Probabilities and labels of equal length, or ValueError."""
    p, y = as_probabilities(p_accept), as_labels(acceptable)
    check_lengths(p_accept=p, acceptable=y)
    return p, y


def bin_numbers(p: FloatArray, n_bins: int, binning: Binning) -> IntArray:
    """Bin number of each row; depends on the probabilities alone."""
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins!r}")
    if binning == "equal_width":
        # k / n_bins, not linspace: linspace(0, 1, 11)[3] is just above 0.3.
        inner = np.arange(1, n_bins) / n_bins
        return np.searchsorted(inner, p, side="right").astype(np.int64)
    if binning == "equal_mass":
        # The mean rank of equal probabilities decides for all of them; twice it is a whole number.
        order = np.argsort(p)
        starts = np.append(0, np.flatnonzero(np.diff(p[order])) + 1)
        count = np.diff(np.append(starts, p.size))
        twice_rank = 2 * np.cumsum(count) - count
        bins = np.empty(p.size, dtype=np.int64)
        bins[order] = np.repeat(twice_rank * n_bins // (2 * p.size), count)
        return bins
    raise ValueError(f"binning must be 'equal_width' or 'equal_mass', got {binning!r}")


def _curve(
    p: FloatArray, y: BoolArray, bins: IntArray, n_bins: int, binning: Binning
) -> ReliabilityCurve:
    all_counts = np.bincount(bins, minlength=n_bins)
    kept = np.flatnonzero(all_counts)
    count = all_counts[kept]
    if binning == "equal_width":
        low, high = kept / n_bins, (kept + 1) / n_bins
    else:
        ends = np.full(n_bins, np.inf), np.full(n_bins, -np.inf)
        np.minimum.at(ends[0], bins, p)
        np.maximum.at(ends[1], bins, p)
        low, high = ends[0][kept], ends[1][kept]
    return ReliabilityCurve(
        low=low,
        high=high,
        mean_predicted=np.bincount(bins, weights=p, minlength=n_bins)[kept] / count,
        fraction_acceptable=np.bincount(bins, weights=y.astype(np.float64), minlength=n_bins)[kept]
        / count,
        count=count.astype(np.int64),
    )
