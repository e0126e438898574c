"""Rates and differences over steps of which some labels are unknown.

An unknown label (NaN) is neither right nor wrong: its step is left out, and the number says so.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from specact_rl.metrics.paired import paired_cluster_bootstrap
from specact_rl.metrics.rates import cluster_rate
from specact_rl.metrics.values import BoolArray, FloatArray, MetricValue

Labels = FloatArray | BoolArray
"""1 or 0, NaN where unknown, shape (n,)."""


def known(*labels: Labels) -> BoolArray:
    """Rows on which all of the labels are known, shape (n,)."""
    unknown = np.isnan(np.stack(labels).astype(np.float64))
    return np.asarray(~unknown.any(axis=0), dtype=np.bool_)


def rate(labels: Labels, tasks: np.ndarray) -> MetricValue:
    """Share of the known labels that are 1, with an interval over tasks."""
    here = known(labels)
    if not here.any():
        return _none_known(here)
    return _counted(cluster_rate(labels[here].astype(np.bool_), tasks[here]), here)


def paired_difference(
    a: Labels,
    b: Labels,
    tasks: np.ndarray,
    rng: np.random.Generator,
    num_resamples: int = 10_000,
) -> MetricValue:
    """Share of a less that of b over the rows where both are known, tasks resampled."""
    here = known(a, b)
    if not here.any():
        return _none_known(here)
    difference = paired_cluster_bootstrap(
        a[here], b[here], tasks[here], rng=rng, num_resamples=num_resamples
    )
    return _counted(difference, here)


def mean_of_known(labels: Labels) -> float | None:
    """Share of the known labels that are 1; None when none is known."""
    here = known(labels)
    return float(labels[here].mean()) if here.any() else None


def _counted(value: MetricValue, here: BoolArray) -> MetricValue:
    left_out = int((~here).sum())
    if not left_out:
        return value
    told = f"{left_out} of {here.size} steps have no label and are left out"
    return replace(value, note="; ".join(note for note in (value.note, told) if note))


def _none_known(here: BoolArray) -> MetricValue:
    return MetricValue(value=None, n=0, note=f"none of the {here.size} steps has a label")
