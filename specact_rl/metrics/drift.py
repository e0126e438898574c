"""How probabilities are off, in three numbers, and whether that differs from place to place.

The gap says that all are too high or too low; the slope that they are too extreme (below 1) or too
timid (above 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from specact_rl.metrics.calibration import checked_rows
from specact_rl.metrics.resampling import (
    Clusters,
    bootstrap_value,
    cluster_codes,
    draw_cluster_weights,
)
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray, MetricValue

MAX_LOGIT = 13.8
"""Probabilities within a millionth of 0 or 1 are taken to be a millionth away."""
MANY_CLUSTERS = 10_000
"""Beyond this many, totals over resampled clusters are drawn as the normal numbers they are."""
NUM_NEWTON_STEPS = 50
NAMES = ("gap", "slope", "intercept")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRows:
    """Probabilities, labels and clusters of the rows of one place."""

    p_accept: ArrayLike
    """Shape (n,)."""
    acceptable: ArrayLike
    clusters: Clusters


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationLine:
    """Observed against promised, as a line on the scale of log-odds."""

    gap: MetricValue
    """Mean label less mean probability, calibration in the large; 0 is right."""
    slope: MetricValue
    """1 is right; below 1 the probabilities are too extreme."""
    intercept: MetricValue
    """0 is right. Log-odds of the label where the probability is one half."""
    draws: FloatArray
    """Gap, slope and intercept of each resample, shape (draws, 3), NaN where undefined."""

    @classmethod
    def unknown(cls, note: str, num_resamples: int = 1000) -> CalibrationLine:
        """Of a place without rows; `note` says why there are none."""
        nothing = MetricValue(value=None, n=0, note=note)
        draws = np.full((num_resamples, len(NAMES)), np.nan)
        return cls(gap=nothing, slope=nothing, intercept=nothing, draws=draws)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineDifference:
    """Of two lines, the second less the first."""

    gap: MetricValue
    slope: MetricValue
    intercept: MetricValue


def calibration_lines(
    places: Mapping[str, LabelledRows],
    *,
    rng: np.random.Generator,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, CalibrationLine]:
    """The line of each place, with intervals over resampled clusters.

    The places share their draws: a cluster that two of them have is drawn for both or for neither,
    so that their difference is paired. Each draw's slope and intercept are one Newton step away
    from those of all rows, which spares fitting them anew.

    Args:
        places: Rows by name.
        rng: Of the draws.
        num_resamples: Number of draws.
        level: Nominal coverage.

    Returns:
        Slope and intercept are None, with a note, with one class only, with a constant probability,
        and where the probabilities part the labels.

    Source: Cox (1958): logit P(y = 1) = intercept + slope logit(p).
    """
    if not places:
        return {}
    given = {name: np.asarray(place.clusters) for name, place in places.items()}
    all_codes, num_clusters = cluster_codes(
        np.concatenate(list(given.values())), sum(ids.size for ids in given.values())
    )
    codes = np.split(all_codes, np.cumsum([ids.size for ids in given.values()])[:-1])
    fits = [
        _Fit.of(*checked_rows(place.p_accept, place.acceptable), code, num_clusters)
        for place, code in zip(places.values(), codes, strict=True)
    ]
    totals = _resampled_totals(
        np.concatenate([fit.sums for fit in fits], axis=1), num_resamples, rng
    )
    parts = np.split(totals, len(fits), axis=1)
    return {
        name: fit.line(drawn, level) for name, fit, drawn in zip(places, fits, parts, strict=True)
    }


def line_difference(
    first: CalibrationLine, second: CalibrationLine, level: float = 0.95
) -> LineDifference:
    """What changes from the first place to the second.

    Lines of one call of `calibration_lines` are paired by their draws; lines of two calls are
    taken as independent, which they are if no cluster is in both.
    """
    differences = second.draws - first.draws
    found = {}
    for j, name in enumerate(NAMES):
        a, b = getattr(first, name), getattr(second, name)
        n = a.n + b.n
        if a.value is None or b.value is None:
            why = a.note if a.value is None else b.note
            found[name] = MetricValue(value=None, n=n, note=why)
            continue
        found[name] = bootstrap_value(
            b.value - a.value,
            differences[:, j],
            n=n,
            num_clusters=min(a.num_clusters or 0, b.num_clusters or 0),
            level=level,
        )
    return LineDifference(**found)


def _resampled_totals(
    cluster_sums: FloatArray, num_resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Column totals over resampled clusters, shape (num_resamples, columns).

    Of many clusters the totals are drawn as normal, with the mean and covariance that resampling
    has: drawing 100,000 clusters a thousand times takes seconds and gives the same.
    """
    num_clusters = cluster_sums.shape[0]
    if num_clusters <= MANY_CLUSTERS:
        chunks = draw_cluster_weights(num_clusters, num_resamples, rng)
        return np.concatenate([weights.astype(np.float64) @ cluster_sums for weights in chunks])
    mean = cluster_sums.mean(axis=0)
    apart = cluster_sums - mean
    size, axes = np.linalg.eigh(apart.T @ apart)
    spread = axes * np.sqrt(np.maximum(size, 0.0))
    normal = rng.standard_normal((num_resamples, mean.size))
    totals: FloatArray = num_clusters * mean + normal @ spread.T
    return totals


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """One place's maximum-likelihood line and what each cluster says of it."""

    n: int
    num_clusters: int
    """Clusters that have rows here."""
    gap: float
    parameters: FloatArray
    """Intercept and slope on standardised log-odds; NaN where undefined."""
    centre: float
    scale: float
    sums: FloatArray
    """Per cluster: rows, residuals, two terms of the gradient, three of the curvature; (K, 7)."""
    note: str | None

    @classmethod
    def of(cls, p: FloatArray, y: BoolArray, codes: IntArray, num_clusters: int) -> _Fit:
        logit = np.clip(special.logit(p), -MAX_LOGIT, MAX_LOGIT)
        centre, scale = float(logit.mean()), float(logit.std())
        note = _why_undefined(logit, y)
        x = np.zeros(p.size) if note else (logit - centre) / scale
        parameters = np.full(2, np.nan)
        terms = [np.ones(p.size), y - p]
        if note is None:
            parameters = _maximum_likelihood(x, y)
            mean = special.expit(parameters[0] + parameters[1] * x)
            weight = mean * (1.0 - mean)
            terms += [y - mean, (y - mean) * x, weight, weight * x, weight * x * x]
        else:
            terms += [np.zeros(p.size)] * 5
        return cls(
            n=p.size,
            num_clusters=int(np.count_nonzero(np.bincount(codes))),
            gap=float(np.mean(y - p)),
            parameters=parameters,
            centre=centre,
            scale=scale,
            sums=np.stack([np.bincount(codes, t, minlength=num_clusters) for t in terms], axis=1),
            note=note,
        )

    def line(self, totals: FloatArray, level: float) -> CalibrationLine:
        """With the intervals of resampled totals, shape (draws, 7)."""
        rows, residuals, s0, s1, i00, i01, i11 = totals.T
        nothing = np.full(rows.size, np.nan)
        gap = np.divide(residuals, rows, out=nothing.copy(), where=rows > 0)
        # The step solves the two equations; a draw with a singular curvature has none.
        determinant = i00 * i11 - i01**2
        usable = determinant > 1e-12 * np.maximum(i00 * i11, 1e-300)
        up = np.divide(i11 * s0 - i01 * s1, determinant, out=nothing.copy(), where=usable)
        turn = np.divide(i00 * s1 - i01 * s0, determinant, out=nothing.copy(), where=usable)
        slope, intercept = self._unscaled(self.parameters[0] + up, self.parameters[1] + turn)
        value_of_slope, value_of_intercept = self._unscaled(*self.parameters)

        def value(number: float, draws: FloatArray) -> MetricValue:
            if np.isnan(number):
                return MetricValue(
                    value=None, n=self.n, num_clusters=self.num_clusters, note=self.note
                )
            return bootstrap_value(
                number, draws, n=self.n, num_clusters=self.num_clusters, level=level
            )

        return CalibrationLine(
            gap=value(self.gap, gap),
            slope=value(float(value_of_slope), slope),
            intercept=value(float(value_of_intercept), intercept),
            draws=np.stack([gap, slope, intercept], axis=1),
        )

    def _unscaled(self, intercept: FloatArray, slope: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Slope and intercept on plain log-odds."""
        turned = slope / self.scale if self.scale > 0.0 else slope
        return turned, intercept - turned * self.centre


def _why_undefined(logit: FloatArray, y: BoolArray) -> str | None:
    if y.all() or not y.any():
        return "one class only: no slope"
    if np.ptp(logit) < 1e-9:
        return "every probability is the same: no slope"
    right, wrong = logit[y], logit[~y]
    if right.min() >= wrong.max() or right.max() <= wrong.min():
        return "the probabilities part the labels: no finite slope"
    return None


def _maximum_likelihood(x: FloatArray, y: BoolArray) -> FloatArray:
    """Intercept and slope of a logistic regression that has a finite optimum; damped Newton."""
    parameters = np.array([float(special.logit(y.mean())), 0.0])

    def loss(theta: FloatArray) -> float:
        z = theta[0] + theta[1] * x
        return float(np.sum(np.logaddexp(0.0, z) - y * z))

    for _ in range(NUM_NEWTON_STEPS):
        mean = special.expit(parameters[0] + parameters[1] * x)
        weight = mean * (1.0 - mean)
        gradient = np.array([np.sum(y - mean), np.sum((y - mean) * x)])
        i00, i01, i11 = weight.sum(), (weight * x).sum(), (weight * x * x).sum()
        step = np.linalg.solve(np.array([[i00, i01], [i01, i11]]), gradient)
        # A long step may overshoot; a short one is near the optimum, where none does.
        if np.abs(step).max() > 0.5:
            here = loss(parameters)
            while loss(parameters + step) > here:
                step = step / 2.0
        parameters = parameters + step
        if np.abs(step).max() < 1e-9:
            break
    return parameters
