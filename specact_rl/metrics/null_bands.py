"""Is a calibration error more than chance? Null bands, and tests without bins or independence.

A null band redraws the labels as y ~ Bernoulli(p). Up to `EXACT_LABELS` labels each is drawn by
itself. Beyond, rows of nearly equal probability are drawn together, as one binomial number; the
band's note then says how far that can be from single draws, in total variation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from specact_rl.metrics.calibration import Binning, checked_rows
from specact_rl.metrics.resampling import (
    CHUNK_VALUES,
    SAME,
    Clusters,
    check_num_resamples,
    cluster_codes,
    percentile_interval,
)
from specact_rl.metrics.sweep import Groups, sweep
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray, as_probabilities

CalibrationStatistic = Literal["ece", "debiased_ece", "ece_sweep"]

EXACT_LABELS = 20_000_000
"""Rows times draws up to which every label is drawn by itself: about 0.3 s."""
NUM_LOTS = 500
"""Beyond that, rows are drawn in about so many lots."""
MAX_SWEEP_GROUPS = 2048
"""Beyond that, the sweep's bins are made of so many groups of rows and do not part them."""


VARIANTS: dict[str, tuple[CalibrationStatistic, Binning]] = {
    "ece": ("ece", "equal_width"),
    "ece_equal_mass": ("ece", "equal_mass"),
    "ece_sweep": ("ece_sweep", "equal_mass"),
    "debiased_ece": ("debiased_ece", "equal_mass"),
}
"""Statistic and binning behind each ECE in METRICS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NullBand:
    """Where a calibration statistic falls when the probabilities are exactly right."""

    observed: float | None
    """The statistic on the real labels; None when it is undefined."""
    mean: float | None
    low: float | None
    high: float | None
    p_value: float | None
    """Share of perfectly calibrated data sets that look at least this bad, (1+k)/(1+draws)."""
    num_draws: int
    note: str | None = None
    """How the labels were drawn if not one by one, or why there is no band."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationTest:
    """A test of the hypothesis that all probabilities are right."""

    statistic: float | None
    """None when it is undefined; `note` then says why."""
    p_value: float | None
    """Two-sided."""
    n: int
    num_clusters: int | None = None
    """None where rows were taken as independent."""
    correlation: float | None = None
    """`residual_correlation`, None where rows were taken as independent."""
    note: str | None = None


def calibration_null_band(
    p_accept: ArrayLike,
    acceptable: ArrayLike,
    *,
    rng: np.random.Generator,
    statistic: CalibrationStatistic = "ece",
    n_bins: int = 10,
    binning: Binning = "equal_width",
    num_draws: int = 1000,
    level: float = 0.95,
) -> NullBand:
    """Distribution of the statistic over labels drawn as y ~ Bernoulli(p), same p and bins.

    The sweep has its own bins, of equal mass, and as many as each draw's labels allow. Labels are
    drawn independently: where steps of one task depend on each other the true band is wider than
    this one, see `clustered_calibration_test`.
    """
    check_num_resamples(num_draws)
    p, y = checked_rows(p_accept, acceptable)
    rows = _SortedRows.of(p, num_draws)
    return _band(rows, y, statistic, n_bins, binning, num_draws, level, rng)


def all_null_bands(
    p_accept: ArrayLike,
    acceptable: ArrayLike,
    *,
    rng: np.random.Generator,
    n_bins: int = 10,
    num_draws: int = 1000,
    level: float = 0.95,
) -> dict[str, NullBand]:
    """The bands of every ECE, by its name in METRICS; each as `calibration_null_band`."""
    check_num_resamples(num_draws)
    p, y = checked_rows(p_accept, acceptable)
    rows = _SortedRows.of(p, num_draws)
    return {
        name: _band(rows, y, statistic, n_bins, binning, num_draws, level, rng)
        for name, (statistic, binning) in VARIANTS.items()
    }


def consistency_band(
    p_accept: ArrayLike,
    *,
    rng: np.random.Generator,
    n_bins: int = 10,
    binning: Binning = "equal_width",
    num_draws: int = 1000,
    level: float = 0.95,
) -> tuple[FloatArray, FloatArray]:
    """Where a calibrated bin's observed fraction falls, bin by bin: lower and upper ends.

    For the non-empty bins of `reliability_curve`, in its order. Labels are independent. The level
    holds for each bin alone: of ten bins one is outside in about 4 of 10 calibrated data sets.

    Source: Broecker and Smith (2007), consistency bars; here the probabilities are not resampled.
    """
    check_num_resamples(num_draws)
    p = as_probabilities(p_accept)
    rows = _SortedRows.of(p, num_draws)
    starts = rows.bin_starts(n_bins, binning)
    hits = np.concatenate(list(rows.draw(starts, num_draws, rng)))
    tails = [(1.0 - level) / 2.0, (1.0 + level) / 2.0]
    low, high = np.quantile(hits / np.diff(np.append(starts, p.size)), tails, axis=0)
    return low, high


def residual_correlation(p_accept: ArrayLike, acceptable: ArrayLike, clusters: Clusters) -> float:
    """How alike the labels of one cluster are beyond their probabilities, in [0, 1].

    The correlation of (y - p) / sqrt(p (1 - p)) of two rows of a cluster, if it is the same for
    all pairs; 0 where there are no pairs, and where it comes out negative. By moments, each row
    weighted by sqrt(p (1 - p)), so that certain probabilities have no say.
    """
    p, y = checked_rows(p_accept, acceptable)
    codes, _ = cluster_codes(clusters, p.size)
    return _correlation(p, y, codes)


def spiegelhalter_test(
    p_accept: ArrayLike, acceptable: ArrayLike, clusters: Clusters | None = None
) -> CalibrationTest:
    """Is the Brier score what the probabilities themselves promise? Needs no bins.

    z = sum (y - p)(1 - 2p) / sqrt(sum (1 - 2p)^2 p (1 - p)), standard normal when the probabilities
    are right. Positive: the Brier score is worse than promised, as of overconfident probabilities.
    It can be 0 for wrong probabilities, too, whose errors cancel. With few clusters of which some
    depend much more than others it rejects too often: simulated size at a nominal 5 %, half of the
    clusters of one label throughout and half independent, 20 rows each: 9 % with 30 clusters and
    10 % with 15 (1,200 data sets each; `clustered_calibration_test` 7 and 8 %).

    Args:
        p_accept: Probabilities, shape (n,).
        acceptable: Labels, shape (n,).
        clusters: Id per row; the variance then has the pairs of rows of one cluster, at their
            `residual_correlation`. None takes rows as independent.

    Source: Spiegelhalter (1986).
    """
    p, y = checked_rows(p_accept, acceptable)
    weight = 1.0 - 2.0 * p
    spread = weight * np.sqrt(p * (1.0 - p))
    variance = float(spread @ spread)
    num_clusters = correlation = None
    if clusters is not None:
        codes, num_clusters = cluster_codes(clusters, p.size)
        correlation = _correlation(p, y, codes)
        sums = np.bincount(codes, spread)
        variance = (1.0 - correlation) * variance + correlation * float(sums @ sums)
    if num_clusters == 1 or variance <= 0.0:
        cause = "one cluster only" if num_clusters == 1 else "every probability is 0, 1/2 or 1"
        return CalibrationTest(
            statistic=None, p_value=None, n=p.size, num_clusters=num_clusters,
            note=f"no test: {cause}",
        )  # fmt: skip
    z = float((y - p) @ weight) / math.sqrt(variance)
    return CalibrationTest(
        statistic=z,
        p_value=2.0 * float(stats.norm.sf(abs(z))),
        n=p.size,
        num_clusters=num_clusters,
        correlation=correlation,
    )


def clustered_calibration_test(
    p_accept: ArrayLike,
    acceptable: ArrayLike,
    clusters: Clusters,
    *,
    rng: np.random.Generator,
    n_bins: int = 10,
    binning: Binning = "equal_mass",
    num_draws: int = 2000,
) -> CalibrationTest:
    """Is the plug-in ECE more than chance when rows of one cluster depend on each other?

    Its null band, with labels whose residuals have `residual_correlation` within clusters: a
    bin's miss is that of independent labels and one that a cluster's bins share, normal and with
    the covariance that the correlation implies. At correlation 0 it is the null band.

    Returns:
        The ECE and its p-value, (1 + k) / (1 + draws). Simulated size at a nominal 5 %, 60
        clusters of 8 rows of one probability, which in half of the clusters have one label: 4 %
        of 1,500 data sets; the band of independent rows rejects in 93 % there.
    """
    check_num_resamples(num_draws)
    p, y = checked_rows(p_accept, acceptable)
    codes, num_clusters = cluster_codes(clusters, p.size)
    if num_clusters < 2:
        return CalibrationTest(
            statistic=None, p_value=None, n=p.size, num_clusters=1,
            note="no test: one cluster only",
        )  # fmt: skip
    correlation = _correlation(p, y, codes)
    rows = _SortedRows.of(p, num_draws)
    starts = rows.bin_starts(n_bins, binning)
    p_sum = np.add.reduceat(rows.p, starts)
    hits_here = np.add.reduceat(y[rows.order].astype(np.float64), starts)
    observed = float(np.abs(hits_here - p_sum).sum())
    bins = np.repeat(np.arange(starts.size), np.diff(np.append(starts, p.size)))
    spread = np.sqrt(rows.p * (1.0 - rows.p))
    of_cluster = np.bincount(
        codes[rows.order] * starts.size + bins, spread, minlength=num_clusters * starts.size
    ).reshape(num_clusters, starts.size)
    size, axes = np.linalg.eigh(of_cluster.T @ of_cluster)
    shared = math.sqrt(correlation) * axes * np.sqrt(np.maximum(size, 0.0))
    null = np.concatenate(
        [
            np.abs(
                math.sqrt(1.0 - correlation) * (hits - p_sum)
                + rng.standard_normal(hits.shape) @ shared.T
            ).sum(axis=1)
            for hits in rows.draw(starts, num_draws, rng)
        ]
    )
    return CalibrationTest(
        statistic=observed / p.size,
        p_value=(1 + int((null >= observed - SAME).sum())) / (1 + num_draws),
        n=p.size,
        num_clusters=num_clusters,
        correlation=correlation,
        note=rows.how_drawn,
    )


def _correlation(p: FloatArray, y: BoolArray, codes: IntArray) -> float:
    """`residual_correlation` of checked rows."""
    residual, spread = y - p, np.sqrt(p * (1.0 - p))

    def of_pairs(terms: FloatArray) -> float:
        """Sum over ordered pairs of different rows of one cluster."""
        sums = np.bincount(codes, terms)
        return float(sums @ sums - terms @ terms)

    pairs = of_pairs(spread)
    # Rounding leaves a trace of the squares where no cluster has a pair.
    if pairs <= SAME * float(spread @ spread):
        return 0.0
    return min(1.0, max(0.0, of_pairs(residual) / pairs))


def _band(
    rows: _SortedRows,
    y: BoolArray,
    statistic: CalibrationStatistic,
    n_bins: int,
    binning: Binning,
    num_draws: int,
    level: float,
    rng: np.random.Generator,
) -> NullBand:
    if statistic == "ece_sweep":
        starts, note = rows.sweep_groups()
    else:
        starts, note = rows.bin_starts(n_bins, binning), None
    count = np.diff(np.append(starts, rows.p.size))
    p_sum = np.add.reduceat(rows.p, starts)

    def compute(hits: FloatArray) -> FloatArray:
        if statistic == "ece_sweep":
            return sweep(Groups.of(count, p_sum), hits)[0]
        if statistic == "ece":
            return np.asarray(np.abs(hits - p_sum).sum(axis=1) / rows.p.size)
        return _debiased(hits, count, p_sum)

    if statistic == "debiased_ece" and count.max() < 2:
        return NullBand(
            observed=None, mean=None, low=None, high=None, p_value=None, num_draws=num_draws,
            note="no bin has two rows",
        )  # fmt: skip
    hits = np.add.reduceat(y[rows.order].astype(np.float64), starts)
    observed = float(compute(hits[None, :])[0])
    null = np.concatenate([compute(drawn) for drawn in rows.draw(starts, num_draws, rng)])
    interval = percentile_interval(null, level)
    notes = [note, rows.how_drawn, "every probability is 0 or 1" if rows.certain else None]
    return NullBand(
        observed=observed,
        mean=float(null.mean()),
        low=interval.low,
        high=interval.high,
        # Ties of a few discrete values are ties, whatever rounding says.
        p_value=(1 + int((null >= observed - SAME).sum())) / (1 + num_draws),
        num_draws=num_draws,
        note="; ".join(note for note in notes if note) or None,
    )


def _debiased(hits: FloatArray, count: IntArray, p_sum: FloatArray) -> FloatArray:
    """`debiased_ece` of many label vectors, hits of shape (draws, bins)."""
    kept = count > 1
    n_b = count[kept]
    share = hits[:, kept] / n_b
    terms = (p_sum[kept] / n_b - share) ** 2 - share * (1.0 - share) / (n_b - 1)
    return np.asarray(np.sqrt(np.maximum(terms @ (n_b / n_b.sum()), 0.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _SortedRows:
    """Rows in ascending order of probability, from which labels are drawn."""

    given: FloatArray
    """Probabilities in the caller's order, shape (n,)."""
    order: IntArray
    p: FloatArray
    """Sorted."""
    lots: IntArray | None
    """First row of each lot that is drawn together; None draws row by row."""
    how_drawn: str | None

    @classmethod
    def of(cls, p: FloatArray, num_draws: int) -> _SortedRows:
        order = np.argsort(p)
        ascending = p[order]
        lots = how = None
        if p.size * num_draws > EXACT_LABELS:
            lots = np.unique(np.arange(NUM_LOTS) * p.size // NUM_LOTS)
            distance = _total_variation(ascending, lots)
            how = (
                f"labels were drawn in {lots.size} lots of nearly equal probability, at a total "
                f"variation of at most {distance:.1g} from one by one"
            )
        return cls(given=p, order=order, p=ascending, lots=lots, how_drawn=how)

    @property
    def certain(self) -> bool:
        """Whether no label can vary."""
        return bool(np.all((self.p == 0.0) | (self.p == 1.0)))

    @property
    def distinct(self) -> IntArray:
        """First row of each distinct probability."""
        return np.append(0, np.flatnonzero(np.diff(self.p)) + 1)

    def bin_starts(self, n_bins: int, binning: Binning) -> IntArray:
        """First row of each non-empty bin of `reliability_curve`, which are runs of these rows."""
        if n_bins < 1:
            raise ValueError(f"n_bins must be at least 1, got {n_bins!r}")
        if binning == "equal_mass":
            first = self.distinct
            count = np.diff(np.append(first, self.p.size))
            return first[Groups.of(count, count.astype(np.float64)).bin_starts(n_bins)]
        starts = np.unique(np.append(0, np.searchsorted(self.p, np.arange(1, n_bins) / n_bins)))
        return starts[starts < self.p.size]

    def sweep_groups(self) -> tuple[IntArray, str | None]:
        """First row of each distinct probability, or of each of `MAX_SWEEP_GROUPS` groups."""
        distinct = self.distinct
        if self.lots is None or distinct.size <= MAX_SWEEP_GROUPS:
            return distinct, None
        cuts = np.arange(MAX_SWEEP_GROUPS) * self.p.size // MAX_SWEEP_GROUPS
        groups = np.unique(np.searchsorted(self.p, self.p[cuts]))
        return groups, f"bins are made of {groups.size} groups of rows"

    def draw(
        self, starts: IntArray, num_draws: int, rng: np.random.Generator
    ) -> Iterator[FloatArray]:
        """Acceptable rows per group under perfect calibration, shape (some draws, groups)."""
        n = self.p.size
        if self.lots is None:
            for draws in _chunks(num_draws, n):
                labels = rng.random((draws, n)) < self.given
                yield _group_sums(labels[:, self.order], starts)
            return
        cuts = np.union1d(self.lots, starts)
        count = np.diff(np.append(cuts, n))
        mean = np.clip(np.add.reduceat(self.p, cuts) / count, 0.0, 1.0)
        for draws in _chunks(num_draws, cuts.size):
            # Draws run fastest, so that the generator prepares each lot once.
            hits = rng.binomial(count[:, None], mean[:, None], size=(cuts.size, draws))
            yield _group_sums(hits.T, np.searchsorted(cuts, starts))


def _group_sums(hits: IntArray | BoolArray, starts: IntArray) -> FloatArray:
    return np.add.reduceat(hits, starts, axis=1, dtype=np.int64).astype(np.float64)


def _chunks(num_draws: int, width: int) -> Iterator[int]:
    """Sizes of turns whose arrays fit in memory."""
    size = max(1, CHUNK_VALUES // width)
    for start in range(0, num_draws, size):
        yield min(size, num_draws - start)


def _total_variation(p: FloatArray, starts: IntArray) -> float:
    """Bound on the distance of lots drawn as binomial from rows drawn one by one.

    Source: Ehm (1991): sum (p_i - mean)^2 / ((n + 1) mean (1 - mean)) for each lot of n rows; the
    lots are independent, so that their distances add up at most.
    """
    count = np.diff(np.append(starts, p.size))
    mean = np.add.reduceat(p, starts) / count
    squares = np.add.reduceat((p - np.repeat(mean, count)) ** 2, starts)
    spread = (count + 1) * mean * (1.0 - mean)
    return float(np.divide(squares, spread, out=np.zeros(spread.size), where=spread > 0.0).sum())
