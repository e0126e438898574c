"""Pure functions on arrays: no files, no models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from numpy.typing import ArrayLike

from specact_rl.metrics.calibration import (
    brier_score,
    brier_skill,
    debiased_ece,
    expected_calibration_error,
    log_loss,
    reliability_curve,
)
from specact_rl.metrics.discrimination import auprc, auroc
from specact_rl.metrics.selective import augrc, aurc, e_aurc
from specact_rl.metrics.sweep import sweep_ece
from specact_rl.metrics.values import Interval, MetricValue, as_labels

__all__ = ["METRICS", "METRICS_VERSION", "Interval", "Metric", "MetricValue"]

METRICS_VERSION = 1
"""Raised whenever a metric's value changes on the same rows; stored beside every result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that judges probabilities against labels."""

    compute: Callable[[ArrayLike, ArrayLike], MetricValue]
    """Of p_accept and acceptable, both shape (n,); rows with an unknown label already dropped."""
    higher_is_better: bool
    summary: str


def _defined(
    function: Callable[[ArrayLike, ArrayLike], float],
) -> Callable[[ArrayLike, ArrayLike], MetricValue]:
    return lambda p, y: MetricValue(value=function(p, y), n=as_labels(y).size)


METRICS: dict[str, Metric] = {
    "auroc": Metric(
        compute=auroc,
        higher_is_better=True,
        summary="chance that an acceptable proposal outranks an unacceptable one",
    ),
    "auprc": Metric(
        compute=auprc,
        higher_is_better=True,
        summary="average precision; chance is the share of acceptable proposals",
    ),
    "brier": Metric(
        compute=_defined(brier_score),
        higher_is_better=False,
        summary="mean squared error of the probability",
    ),
    "brier_skill": Metric(
        compute=brier_skill,
        higher_is_better=True,
        summary="share of the base rate's Brier score that is taken away",
    ),
    "log_loss": Metric(
        compute=_defined(log_loss),
        higher_is_better=False,
        summary="mean negative log-likelihood, nats",
    ),
    "ece": Metric(
        compute=_defined(lambda p, y: expected_calibration_error(reliability_curve(p, y))),
        higher_is_better=False,
        summary="mean gap of probability and frequency over 10 bins; biased upwards",
    ),
    "ece_equal_mass": Metric(
        compute=_defined(
            lambda p, y: expected_calibration_error(reliability_curve(p, y, binning="equal_mass"))
        ),
        higher_is_better=False,
        summary="the same over 10 bins of equal size; biased upwards",
    ),
    "ece_sweep": Metric(
        compute=sweep_ece,
        higher_is_better=False,
        summary="the same over as many bins as keep the frequencies rising; biased upwards",
    ),
    "debiased_ece": Metric(
        compute=lambda p, y: debiased_ece(reliability_curve(p, y, binning="equal_mass")),
        higher_is_better=False,
        summary="root mean squared gap less its sampling noise, 10 bins of equal size",
    ),
    "aurc": Metric(
        compute=_defined(aurc),
        higher_is_better=False,
        summary="mean selective risk over all coverages",
    ),
    "e_aurc": Metric(
        compute=_defined(e_aurc),
        higher_is_better=False,
        summary="AURC above that of a perfect ranking",
    ),
    "augrc": Metric(
        compute=_defined(augrc),
        higher_is_better=False,
        summary="mean share accepted and wrong over all coverages",
    ),
}
