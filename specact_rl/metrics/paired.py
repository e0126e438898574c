"""Intervals and tests for shares and paired differences, on dependent rows.

Rows of one task depend on each other. Everything here takes clusters (task ids) except the Wilson
interval and McNemar's test, which are for independent items only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from specact_rl.metrics.resampling import (
    CHUNK_VALUES,
    MANY_CLUSTERS,
    SAME,
    ClusterBootstrap,
    Clusters,
    Method,
    check_num_resamples,
    cluster_codes,
    effective_clusters,
    resampled_sums,
)
from specact_rl.metrics.values import (
    FloatArray,
    IntArray,
    Interval,
    MetricValue,
    as_labels,
    as_scores,
    check_lengths,
)

ALL_ALIKE = "every row has the same value: the interval counts each task as one row"
EXACT_SIGN_FLIPS = 16
"""Up to this many clusters that differ, all sign patterns are enumerated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McNemarResult:
    """Exact test of two sets of verdicts on the same independent items."""

    only_a: int
    """Items that a alone has right."""
    only_b: int
    n: int
    difference: float
    """Share right of a minus that of b."""
    low: float
    """Of Tango's interval."""
    high: float
    standard_error: float
    p_value: float
    """Exact, two-sided. A large one is not evidence of equality: see `tost_equivalence`."""
    mid_p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SignFlipResult:
    """Permutation test of a mean paired difference, whole clusters flipped."""

    difference: float
    """Mean over rows."""
    p_value: float
    """Two-sided."""
    exact: bool
    """True when all sign patterns were enumerated."""
    num_clusters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EquivalenceResult:
    """Two one-sided tests: is the difference inside (-margin, margin)?"""

    difference: float
    standard_error: float
    margin: float
    p_value: float
    """The larger of the two one-sided p-values."""
    p_not_worse: float
    """Of the one test that matters where more is better: is the difference above -margin?"""
    verdict: Literal["equivalent", "different", "inconclusive"]
    """Equivalent: p_value <= alpha. Different: not so, and the 1 - alpha interval leaves out 0."""
    num_clusters: int


def wilson_interval(num_successes: int, n: int, level: float = 0.95) -> MetricValue:
    """A share with its Wilson score interval, for independent items; None when n is 0."""
    if n == 0:
        return MetricValue(value=None, n=0, note="no rows")
    interval = stats.binomtest(num_successes, n).proportion_ci(level, method="wilson")
    return MetricValue(
        value=num_successes / n, low=float(interval.low), high=float(interval.high), n=n
    )


def mcnemar_exact(
    correct_a: ArrayLike, correct_b: ArrayLike, items: Clusters, *, level: float = 0.95
) -> McNemarResult:
    """Exact McNemar test, its mid-p variant, and Tango's interval, for independent items.

    Args:
        correct_a: One verdict per item, shape (n,).
        correct_b: On the same items.
        items: What must not depend on each other, usually the task id; each may come once.
        level: Of the interval.

    Raises:
        ValueError: An item comes twice. On dependent steps the false-positive rate of this test
            was 7 to 37 % in simulation; `sign_flip_test` is for them.
    """
    a, b = as_labels(correct_a, "correct_a"), as_labels(correct_b, "correct_b")
    check_lengths(correct_a=a, correct_b=b)
    codes, num_items = cluster_codes(items, a.size)
    if num_items < a.size:
        twice = int(np.flatnonzero(np.bincount(codes)[codes] > 1)[0])
        raise ValueError(
            f"McNemar's test needs independent items, got {a.size} rows of {num_items} items "
            f"(row {twice} is of one that comes again): use sign_flip_test with clusters, or one "
            "row per item"
        )
    only_a, only_b, n = int((a & ~b).sum()), int((~a & b).sum()), a.size
    discordant, smaller = only_a + only_b, min(only_a, only_b)
    tail = 2.0 * float(stats.binom.cdf(smaller, discordant, 0.5))
    at_smaller = float(stats.binom.pmf(smaller, discordant, 0.5))
    interval = tango_interval(only_a, only_b, n, level)
    return McNemarResult(
        only_a=only_a,
        only_b=only_b,
        n=n,
        difference=(only_a - only_b) / n,
        low=interval.low,
        high=interval.high,
        standard_error=math.sqrt(discordant - (only_a - only_b) ** 2 / n) / n,
        p_value=min(1.0, tail),
        mid_p_value=min(1.0, tail - at_smaller),
    )


def tango_interval(only_a: int, only_b: int, n: float, level: float = 0.95) -> Interval:
    """Score interval of the difference of two shares on the same independent items.

    Keeps its coverage where few items differ, and has a width where none does.

    Args:
        only_a: Items that a alone has right.
        only_b: Items that b alone has right.
        n: All items.
        level: Nominal coverage.

    Source: Tango (1998).
    """
    if not 0 <= only_a + only_b <= n or min(only_a, only_b) < 0 or n <= 0:
        raise ValueError(
            f"need 0 <= only_a + only_b <= n and n > 0, got {only_a!r}, {only_b!r}, {n!r}"
        )
    z = float(stats.norm.ppf((1.0 + level) / 2.0))
    observed = (only_a - only_b) / n
    if only_a + only_b == 0 or max(only_a, only_b) == n:
        # The statistic is 0 / 0 at the observed difference, where a search would stop at once.
        reach = _reach_of_alike(n, level)
        low, high = observed - reach * (1.0 + observed), observed + reach * (1.0 - observed)
        return Interval(low=low, high=high, level=level)

    def beyond(difference: float, side: float) -> float:
        """Score statistic of a true difference, less what it may be: only its sign counts."""
        # The share of b alone under that difference: the larger root of 2 n q^2 + linear q + rest.
        linear = (2 * n - only_a + only_b) * difference - only_a - only_b
        rest = -only_b * difference * (1.0 - difference)
        share_b = (math.sqrt(max(0.0, linear**2 - 8.0 * n * rest)) - linear) / (4.0 * n)
        variance = (2.0 * share_b + difference * (1.0 - difference)) / n
        return observed - difference - side * z * math.sqrt(max(0.0, variance))

    low = -1.0 if beyond(-1.0, 1.0) <= 0.0 else optimize.brentq(beyond, -1.0, observed, (1.0,))
    high = 1.0 if beyond(1.0, -1.0) >= 0.0 else optimize.brentq(beyond, observed, 1.0, (-1.0,))
    return Interval(low=float(low), high=float(high), level=level)


def cluster_bootstrap_mean(
    values: ArrayLike,
    clusters: Clusters,
    *,
    rng: np.random.Generator,
    num_resamples: int = 10_000,
    level: float = 0.95,
    method: Method = "percentile",
) -> MetricValue:
    """Mean over rows with an interval over resampled clusters.

    Returns:
        No interval, and a note, when there is one cluster only, or when all values are the same:
        resampling them shows no spread, which is not certainty.
    """
    x, sums = _cluster_sums(values, clusters)
    num_clusters, mean = sums.shape[0], float(x.mean())
    if num_clusters < 2 or x.min() == x.max():
        cause = "one cluster only" if num_clusters < 2 else "every row has the same value"
        note = f"no interval: {cause}"
        return MetricValue(value=mean, n=x.size, num_clusters=num_clusters, note=note)
    draws = resampled_sums(sums, num_resamples, rng)
    shared = ClusterBootstrap(names=("sum", "rows"), sums=sums, draws=draws)
    return shared.value(lambda t: t["sum"] / t["rows"], n=x.size, level=level, method=method)


def paired_cluster_bootstrap(
    values_a: ArrayLike,
    values_b: ArrayLike,
    clusters: Clusters,
    *,
    rng: np.random.Generator,
    num_resamples: int = 10_000,
    level: float = 0.95,
    method: Method = "percentile",
) -> MetricValue:
    """Mean of a minus mean of b over the same rows, with an interval over resampled clusters.

    Verdicts (0 and 1) that differ by the same on every row, most often by nothing, show no spread
    when they are resampled. They get Tango's interval, each cluster counted as one row.

    Source: Tango (1998).
    """
    difference = _difference(values_a, values_b)
    verdicts = all(set(np.unique(values).tolist()) <= {0.0, 1.0} for values in (values_a, values_b))
    if verdicts and difference.min() == difference.max():
        return _constant_difference(difference, clusters, level)
    return cluster_bootstrap_mean(
        difference, clusters, rng=rng, num_resamples=num_resamples, level=level, method=method
    )


def _constant_difference(difference: FloatArray, clusters: Clusters, level: float) -> MetricValue:
    value, n = float(difference[0]), difference.size
    codes, num_clusters = cluster_codes(clusters, n)
    if num_clusters < 2:
        return MetricValue(
            value=value, n=n, num_clusters=num_clusters, note="no interval: one cluster only"
        )
    reach = _reach_of_alike(effective_clusters(codes, num_clusters), level)
    return MetricValue(
        value=value,
        low=value - reach * (1.0 + value),
        high=value + reach * (1.0 - value),
        n=n,
        num_clusters=num_clusters,
        note=ALL_ALIKE if num_clusters < n else None,
    )


def _reach_of_alike(n: float, level: float) -> float:
    """Tango's interval is d - r (1 + d), d + r (1 - d) when all n differences are d: its r."""
    z_squared = float(stats.norm.ppf((1.0 + level) / 2.0)) ** 2
    return z_squared / (n + z_squared)


def clustered_standard_error(values: ArrayLike, clusters: Clusters) -> float | None:
    """Standard error of the mean over rows when rows of one cluster depend on each other.

    With the K/(K-1) correction, so that clusters of one row give the textbook s/sqrt(n).
    None with fewer than two clusters.

    Source: Miller (2024), arXiv 2411.00640, which has no correction.
    """
    x, sums = _cluster_sums(values, clusters)
    num_clusters = sums.shape[0]
    if num_clusters < 2:
        return None
    residuals = sums[:, 0] - x.mean() * sums[:, 1]
    squares = float(residuals @ residuals) * num_clusters / (num_clusters - 1)
    return math.sqrt(squares) / x.size


def sign_flip_test(
    values_a: ArrayLike,
    values_b: ArrayLike,
    clusters: Clusters,
    *,
    rng: np.random.Generator,
    num_flips: int = 10_000,
) -> SignFlipResult:
    """Permutation test of equal means: the signs of whole clusters are flipped.

    Exact under the hypothesis that a and b are exchangeable within each cluster. Enumerated for
    few clusters; else (1 + hits) / (1 + num_flips).
    """
    check_num_resamples(num_flips)
    difference, sums = _cluster_sums(_difference(values_a, values_b), clusters)
    total = abs(float(sums[:, 0].sum()))
    sizes, counts = np.unique(np.abs(sums[sums[:, 0] != 0.0, 0]), return_counts=True)
    num_moving = int(counts.sum())
    tolerance = 1e-9 * max(1.0, float(sizes.sum()))
    exact = num_moving <= EXACT_SIGN_FLIPS
    if exact:
        patterns = np.arange(2**num_moving)[:, None] >> np.arange(num_moving) & 1
        flipped = (2.0 * patterns - 1.0) @ np.repeat(sizes, counts)
        p_value = float(np.mean(np.abs(flipped) >= total - tolerance))
    else:
        hits = sum(
            int((np.abs(flipped) >= total - tolerance).sum())
            for flipped in _flipped_totals(sizes, counts, num_flips, rng)
        )
        p_value = (1 + hits) / (1 + num_flips)
    return SignFlipResult(
        difference=float(difference.mean()),
        p_value=p_value,
        exact=exact,
        num_clusters=sums.shape[0],
    )


def _flipped_totals(
    sizes: FloatArray, counts: IntArray, num_flips: int, rng: np.random.Generator
) -> Iterator[FloatArray]:
    """Totals of randomly signed clusters, in chunks; `counts` clusters have each size."""
    num_moving = int(counts.sum())
    # Clusters of one size are interchangeable, and the sum of their random signs is a shifted
    # binomial. Where nearly all sizes differ, single bits are faster.
    by_size = num_moving < MANY_CLUSTERS or sizes.size * 32 <= num_moving
    width = sizes.size if by_size else num_moving
    each = np.repeat(sizes, counts)
    chunk = max(1, CHUNK_VALUES // width)
    for start in range(0, num_flips, chunk):
        flips = min(chunk, num_flips - start)
        if by_size:
            yield (2.0 * rng.binomial(counts, 0.5, size=(flips, width)) - counts) @ sizes
        else:
            bits = rng.integers(256, size=(flips, -(-width // 8)), dtype=np.uint8)
            ups = np.unpackbits(bits, axis=1, count=width).astype(np.float64)
            yield 2.0 * (ups @ each) - each.sum()


def tost_equivalence(
    values_a: ArrayLike,
    values_b: ArrayLike,
    clusters: Clusters,
    *,
    margin: float,
    alpha: float = 0.05,
) -> EquivalenceResult:
    """Is the mean difference smaller than the margin? Two one-sided t-tests, clustered error.

    When all differences are the same the standard error is 0 and says nothing; the p-value is then
    the chance of K such clusters if the true difference were the margin, for differences within
    [-1, 1].

    Raises:
        ValueError: margin is not positive, or there are fewer than two clusters.
    """
    if margin <= 0.0:
        raise ValueError(f"margin must be positive, got {margin!r}")
    rows = _difference(values_a, values_b)
    difference = float(rows.mean())
    error = clustered_standard_error(rows, clusters)
    _, num_clusters = cluster_codes(clusters, rows.size)
    if error is None:
        raise ValueError("an equivalence test needs at least two clusters, got 1")
    if error < SAME:
        above = _chance_of_all_alike(difference, -margin, num_clusters)
        below = _chance_of_all_alike(-difference, -margin, num_clusters)
        differs = difference != 0.0
    else:
        t = stats.t(num_clusters - 1)
        above = float(t.sf((difference + margin) / error))
        below = float(t.cdf((difference - margin) / error))
        differs = abs(difference) > float(t.ppf(1.0 - alpha / 2.0)) * error
    p_value = max(above, below)
    verdict: Literal["equivalent", "different", "inconclusive"] = (
        "equivalent" if p_value <= alpha else "different" if differs else "inconclusive"
    )
    return EquivalenceResult(
        difference=difference,
        standard_error=error,
        margin=margin,
        p_value=p_value,
        p_not_worse=above,
        verdict=verdict,
        num_clusters=num_clusters,
    )


def _chance_of_all_alike(difference: float, mean: float, num_clusters: int) -> float:
    """The most that P(K clusters are all at `difference`) can be if their true mean is `mean`.

    For values in [-1, 1] and a mean below the difference: all else lies at -1.
    """
    if difference <= mean:
        return 1.0
    return float(((1.0 + mean) / (1.0 + difference)) ** num_clusters)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values in the order given; reject where the result is at most alpha."""
    if not len(p_values):
        return []
    p = as_scores(p_values, "p_values")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty(p.size)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


@dataclass(frozen=True, slots=True, kw_only=True)
class Detectable:
    """How large a true difference must be to be found in rows like these."""

    difference: float | None
    """Smallest one that is found with the chance asked for; None when no two rows differ, which
    leaves it unknown, or with fewer than two clusters."""
    standard_error: float | None
    """Of the mean difference, clusters as they are; None with fewer than two."""
    num_clusters: int
    design_effect: float | None
    """Its square over that of as many independent rows: how many rows are worth one. None when no
    two rows differ."""

    def clusters_needed(self, difference: float) -> int | None:
        """Clusters like these that show a true difference; None where `difference` is unknown.

        Raises:
            ValueError: The difference is 0.
        """
        if difference == 0.0:
            raise ValueError("no number of clusters shows a difference of 0")
        if self.difference is None:
            return None
        return max(2, math.ceil(self.num_clusters * (self.difference / difference) ** 2))


def detectable_difference(
    values_a: ArrayLike,
    values_b: ArrayLike,
    clusters: Clusters,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
) -> Detectable:
    """Smallest true mean difference that rows like these show, from their clustered error.

    To be said beside every difference that is not shown. It depends on the spread of the rows and
    not on the difference they have; it is no power "of this test", which would only say its
    p-value again.

    Args:
        values_a: Shape (n,).
        values_b: Of the same rows.
        clusters: One id per row.
        power: Chance to find the difference.
        alpha: Two-sided level.
    """
    rows = _difference(values_a, values_b)
    error = clustered_standard_error(rows, clusters)
    _, num_clusters = cluster_codes(clusters, rows.size)
    if error is None or error < SAME:
        return Detectable(
            difference=None, standard_error=error, num_clusters=num_clusters, design_effect=None
        )
    t = stats.t(num_clusters - 1)
    return Detectable(
        difference=float(t.ppf(1.0 - alpha / 2.0) + t.ppf(power)) * error,
        standard_error=error,
        num_clusters=num_clusters,
        design_effect=error**2 * rows.size / float(rows.var(ddof=1)),
    )


def minimum_detectable_difference(
    n: int,
    discordance: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    design_effect: float = 1.0,
) -> float:
    """Smallest true difference of two shares that n pairs show with this power, as one plans them.

    Args:
        n: Pairs.
        discordance: Share of pairs on which the two sides disagree, in (0, 1].
        power: Chance to find the difference.
        alpha: Two-sided level.
        design_effect: Dependent pairs that are worth one; 1 for independent ones.
            `detectable_difference` finds it in rows that are there.
    """
    z = _power_quantile(power, alpha)
    return z * math.sqrt(discordance / (n / design_effect + z**2))


def sample_size_paired(
    difference: float,
    discordance: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    design_effect: float = 1.0,
) -> int:
    """Pairs needed: z^2 (d - difference^2) / difference^2 times the design effect, rounded up.

    Raises:
        ValueError: No difference, or one that the discordance cannot give.
    """
    if not 0.0 < abs(difference) <= discordance <= 1.0:
        raise ValueError(
            "need 0 < |difference| <= discordance <= 1, "
            f"got difference={difference!r}, discordance={discordance!r}"
        )
    z = _power_quantile(power, alpha)
    return math.ceil(design_effect * z**2 * (discordance - difference**2) / difference**2)


def _power_quantile(power: float, alpha: float) -> float:
    return float(stats.norm.ppf(1.0 - alpha / 2.0) + stats.norm.ppf(power))


def _difference(values_a: ArrayLike, values_b: ArrayLike) -> FloatArray:
    a, b = as_scores(values_a, "values_a"), as_scores(values_b, "values_b")
    check_lengths(values_a=a, values_b=b)
    return a - b


def _cluster_sums(values: ArrayLike, clusters: Clusters) -> tuple[FloatArray, FloatArray]:
    """The values, and per cluster their sum and count, shape (K, 2)."""
    x = as_scores(values, "values")
    codes, num_clusters = cluster_codes(clusters, x.size)
    sums = np.bincount(codes, weights=x, minlength=num_clusters)
    counts = np.bincount(codes, minlength=num_clusters).astype(np.float64)
    return x, np.column_stack([sums, counts])
