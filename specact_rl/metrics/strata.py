"""The same questions of parts of the rows: is a verifier calibrated for each kind of action, step?

Many parts are looked at, so that one of them looks bad by chance: the tests are adjusted together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from specact_rl.metrics.calibration import brier_score, brier_skill, checked_rows
from specact_rl.metrics.discrimination import auroc_interval
from specact_rl.metrics.null_bands import (
    NullBand,
    calibration_null_band,
    clustered_calibration_test,
)
from specact_rl.metrics.paired import clustered_standard_error, holm
from specact_rl.metrics.rates import cluster_rate
from specact_rl.metrics.resampling import Clusters, cluster_codes, few_clusters_note
from specact_rl.metrics.values import FloatArray, IntArray, MetricValue, as_scores, check_lengths

MIN_ROWS = 50
"""A part of fewer rows gets its count and no numbers: ten bins of five rows show nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Each row in one part, or in none."""

    names: Sequence[str]
    """Of the parts."""
    codes: IntArray
    """Number of each row's part, -1 for none, shape (n,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """What a part of the rows shows; the numbers are None where `note` says why."""

    partition: str
    name: str
    n: int
    num_clusters: int
    prevalence: MetricValue | None = None
    mean_p: float | None = None
    auroc: MetricValue | None = None
    brier: float | None = None
    brier_skill: MetricValue | None = None
    null_band: NullBand | None = None
    """Of the debiased ECE, with its value; rows are taken as independent."""
    gap: MetricValue | None = None
    """Mean label less mean probability."""
    p_value: float | None = None
    """That all probabilities of the part are right, rows of a cluster depending on each other."""
    p_holm: float | None = None
    """The same, adjusted over all parts of all partitions that were tested."""
    note: str | None = None


def strata(
    scores: ArrayLike,
    p_accept: ArrayLike,
    acceptable: ArrayLike,
    partitions: Mapping[str, Partition],
    clusters: Clusters,
    *,
    rng: np.random.Generator,
    num_resamples: int = 1000,
) -> list[Stratum]:
    """Every part of every partition, the largest of each first.

    Args:
        scores: What the AUROC is of, shape (n,).
        p_accept: Shape (n,).
        acceptable: Shape (n,).
        partitions: By name.
        clusters: Id per row.
        rng: Of intervals and null bands.
        num_resamples: Draws of each.
    """
    p, y = checked_rows(p_accept, acceptable)
    z = as_scores(scores)
    check_lengths(scores=z, p_accept=p)
    codes, _ = cluster_codes(clusters, p.size)
    found = []
    for name, partition in partitions.items():
        # Few parts are few bits, which a stable sort takes in one pass.
        small = np.int16 if len(partition.names) < 2**15 else np.int64
        order = np.argsort(partition.codes.astype(small), kind="stable")
        sizes = np.bincount(partition.codes + 1, minlength=len(partition.names) + 1)
        parts = np.split(order, np.cumsum(sizes)[:-1])[1:]
        for k in sorted(range(len(parts)), key=lambda k: (-parts[k].size, partition.names[k])):
            rows = parts[k]
            if rows.size:
                found.append(
                    _stratum(
                        name,
                        partition.names[k],
                        z[rows],
                        p[rows],
                        y[rows],
                        codes[rows],
                        rng,
                        num_resamples,
                    )
                )
    tested = [i for i, part in enumerate(found) if part.p_value is not None]
    adjusted = holm([float(found[i].p_value or 0.0) for i in tested])
    for i, p_holm in zip(tested, adjusted, strict=True):
        found[i] = replace(found[i], p_holm=p_holm)
    return found


def clustered_mean(values: ArrayLike, clusters: Clusters, level: float = 0.95) -> MetricValue:
    """A mean over rows with Student's interval at the clustered standard error.

    Returns:
        No interval, and a note, with one cluster or when every row has the same value.
    """
    x = as_scores(values, "values")
    codes, num_clusters = cluster_codes(clusters, x.size)
    mean = float(x.mean())
    error = clustered_standard_error(x, codes)
    if not error or np.ptp(x) == 0.0:
        cause = "one cluster only" if error is None else "every row has the same value"
        return MetricValue(
            value=mean, n=x.size, num_clusters=num_clusters, note=f"no interval: {cause}"
        )
    half = float(stats.t.ppf((1.0 + level) / 2.0, num_clusters - 1)) * error
    return MetricValue(
        value=mean,
        low=mean - half,
        high=mean + half,
        n=x.size,
        num_clusters=num_clusters,
        note=few_clusters_note(num_clusters),
    )


def _stratum(
    partition: str,
    name: str,
    z: FloatArray,
    p: FloatArray,
    y: np.ndarray,
    codes: IntArray,
    rng: np.random.Generator,
    num_resamples: int,
) -> Stratum:
    # Codes without gaps: a part has few of all clusters.
    codes, num_clusters = cluster_codes(codes, p.size)
    bare = Stratum(partition=partition, name=name, n=p.size, num_clusters=num_clusters)
    if p.size < MIN_ROWS:
        return replace(bare, note=f"fewer than {MIN_ROWS} rows")
    return replace(
        bare,
        prevalence=cluster_rate(y, codes),
        mean_p=float(p.mean()),
        auroc=auroc_interval(z, y, codes),
        brier=brier_score(p, y),
        brier_skill=brier_skill(p, y),
        null_band=calibration_null_band(
            p,
            y,
            rng=rng,
            statistic="debiased_ece",
            binning="equal_mass",
            num_draws=num_resamples,
        ),
        gap=clustered_mean(y - p, codes),
        p_value=clustered_calibration_test(p, y, codes, rng=rng).p_value,
    )
