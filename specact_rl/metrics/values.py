"""The two records every metric returns, and the checks of the arrays that go in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float
    level: float
    """Nominal coverage, for instance 0.95."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValue:
    """A number with its error bar, or the reason why there is none."""

    value: float | None
    """None when the metric is undefined on these rows; `note` then says why."""
    low: float | None = None
    """Lower end of the interval; None when no interval was computed."""
    high: float | None = None
    n: int
    """Rows the value was computed from."""
    num_clusters: int | None = None
    """Tasks (or other clusters) behind the rows; None when rows were taken as independent."""
    note: str | None = None
    """What a reader must know about this value, in words; None when nothing."""


def as_scores(scores: ArrayLike, name: str = "scores") -> FloatArray:
    """`scores` as a one-dimensional float array.

    Raises:
        ValueError: Not one-dimensional, empty, or with a value that is not finite.
    """
    try:
        array = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers without None: {error}") from error
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"{name} must have shape (n,) with n >= 1, got {array.shape!r}; "
            "the caller reports an empty table, a metric cannot"
        )
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(
            f"{name} must be finite, got {float(array[bad[0]])!r} at row {int(bad[0])} "
            f"({bad.size} such rows): drop unscored rows and report how many"
        )
    return array


def as_probabilities(p_accept: ArrayLike, name: str = "p_accept") -> FloatArray:
    """`p_accept` as a one-dimensional float array in [0, 1].

    Raises:
        ValueError: As `as_scores`, or a value outside [0, 1].
    """
    array = as_scores(p_accept, name)
    bad = np.flatnonzero((array < 0.0) | (array > 1.0))
    if bad.size:
        raise ValueError(
            f"{name} must lie in [0, 1], got {float(array[bad[0]])!r} at row {int(bad[0])}: "
            "log-odds go through a calibrator first"
        )
    return array


def as_labels(labels: ArrayLike, name: str = "acceptable") -> BoolArray:
    """`labels` as a one-dimensional bool array; 0 and 1 are taken too.

    Raises:
        ValueError: Not one-dimensional, empty, or neither 0/1 nor True/False (None, NaN).
    """
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must have shape (n,) with n >= 1, got {array.shape!r}")
    if array.dtype == np.bool_:
        return array
    allowed = np.array([value in (0, 1) for value in array.tolist()], dtype=np.bool_)
    if not allowed.all():
        row = int(np.flatnonzero(~allowed)[0])
        raise ValueError(
            f"{name} must be True/False or 1/0, got {array.tolist()[row]!r} at row {row}: "
            "drop rows with an unknown label and report how many"
        )
    return array.astype(np.bool_)


def check_lengths(**arrays: NDArray[np.generic]) -> None:
    """Raise ValueError unless all arrays have the same length."""
    lengths = {name: array.shape[0] for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"arrays must have one entry per row each, got lengths {lengths!r}")


def check_fraction(value: float, name: str) -> float:
    """`value` if it lies in [0, 1], else ValueError."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")
    return value
