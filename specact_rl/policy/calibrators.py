"""Maps from raw log-odds to the probability of being acceptable, fitted on labelled rows.

All are non-decreasing: a calibrator says what a score means, it never turns a verifier round. A
verifier whose scores point the wrong way comes out as a constant. Fit on rows at natural
prevalence that are disjoint from those the threshold is chosen on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from specact_rl.errors import ConfigError
from specact_rl.metrics.values import BoolArray, FloatArray, as_labels, as_scores, check_lengths

MAX_LOG_ODDS = 1e6
"""Raw scores are cut here, so that an infinite one times a slope of 0 is not NaN."""


MAX_HISTOGRAM_BINS = 10
MIN_ROWS_OF_A_BIN = 30
"""A share of fewer rows is mostly noise."""


class Calibrator(Protocol):
    """A fitted map, frozen and JSON-able."""

    kind: ClassVar[str]
    """Its name in CALIBRATORS."""

    @classmethod
    def fit(cls, log_odds: ArrayLike, acceptable: ArrayLike) -> Self:
        """The map fitted on rows whose labels are known.

        Args:
            log_odds: Raw scores, finite, shape (n,).
            acceptable: Labels, shape (n,).

        Raises:
            ValueError: A score is not finite, a label is unknown, or one class is missing.
        """
        ...

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The map that `to_json` wrote."""
        ...

    def predict(self, log_odds: Sequence[float | None] | FloatArray) -> FloatArray:
        """Probabilities in [0, 1], shape (n,); NaN where a score is None or NaN (unscored)."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with `kind`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TemperatureCalibrator:
    """sigmoid(z / T): one number, no shift. Cannot undo a balanced train split's prior.

    Source: Guo et al. (2017), with Platt's targets so that separable rows have a finite optimum.
    """

    kind: ClassVar[str] = "temperature"
    temperature: float
    """Positive; above 1 softens."""

    def __post_init__(self) -> None:
        """Reject a temperature that is not a positive number."""
        if not 0.0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be positive and finite, got {self.temperature!r}")

    @classmethod
    def fit(cls, log_odds: ArrayLike, acceptable: ArrayLike) -> Self:
        """As `Calibrator.fit`."""
        z, y = _checked(log_odds, acceptable)
        targets = _platt_targets(y)

        def loss(log_slope: float) -> float:
            return _cross_entropy(math.exp(log_slope) * z, targets)

        found = optimize.minimize_scalar(
            loss, bounds=(-12.0, 12.0), method="bounded", options={"xatol": 1e-9}
        )
        return cls(temperature=math.exp(-float(found.x)))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """As `Calibrator.from_json`."""
        return cls(temperature=_number(data, "temperature"))

    def predict(self, log_odds: Sequence[float | None] | FloatArray) -> FloatArray:
        """As `Calibrator.predict`."""
        return _sigmoid(_scores(log_odds) / self.temperature)

    def to_json(self) -> dict[str, Any]:
        """As `Calibrator.to_json`."""
        return {"kind": self.kind, "temperature": self.temperature}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlattCalibrator:
    """sigmoid(a z + b), a >= 0: moves the prior as well as the scale.

    Source: Platt (1999), with his smoothed targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2), which
    keep separable rows from driving the slope to infinity.
    """

    kind: ClassVar[str] = "platt"
    slope: float
    intercept: float

    def __post_init__(self) -> None:
        """Reject a negative slope and numbers that are not finite."""
        if not (0.0 <= self.slope < math.inf and math.isfinite(self.intercept)):
            raise ConfigError(
                "slope must be finite and not negative, intercept finite, "
                f"got {self.slope!r} and {self.intercept!r}"
            )

    @classmethod
    def fit(cls, log_odds: ArrayLike, acceptable: ArrayLike) -> Self:
        """As `Calibrator.fit`."""
        z, y = _checked(log_odds, acceptable)
        targets = _platt_targets(y)
        (slope,), intercept = _fit_logistic(z[:, None], targets)
        return cls(slope=slope, intercept=intercept)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """As `Calibrator.from_json`."""
        return cls(slope=_number(data, "slope"), intercept=_number(data, "intercept"))

    def predict(self, log_odds: Sequence[float | None] | FloatArray) -> FloatArray:
        """As `Calibrator.predict`."""
        return _sigmoid(self.slope * _scores(log_odds) + self.intercept)

    def to_json(self) -> dict[str, Any]:
        """As `Calibrator.to_json`."""
        return {"kind": self.kind, "slope": self.slope, "intercept": self.intercept}


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaCalibrator:
    """sigmoid(a ln q - b ln(1 - q) + c) of q = sigmoid(z), a and b >= 0: Platt if a = b.

    Non-decreasing. It can bend the two ends apart, which suits scores that are themselves
    probabilities; on scores of any other scale the bend is at z = 0, wherever that is.

    Source: Kull, Silva Filho and Flach (2017), with Platt's targets as in `PlattCalibrator`.
    """

    kind: ClassVar[str] = "beta"
    a: float
    b: float
    c: float

    def __post_init__(self) -> None:
        """Reject a or b below 0, which would turn the verifier round, and infinite numbers."""
        if not (0.0 <= self.a < math.inf and 0.0 <= self.b < math.inf and math.isfinite(self.c)):
            raise ConfigError(
                "beta needs finite numbers, a and b not negative, "
                f"got {self.a!r}, {self.b!r} and {self.c!r}"
            )

    @classmethod
    def fit(cls, log_odds: ArrayLike, acceptable: ArrayLike) -> Self:
        """As `Calibrator.fit`."""
        z, y = _checked(log_odds, acceptable)
        (a, b), c = _fit_logistic(_beta_features(z), _platt_targets(y))
        return cls(a=a, b=b, c=c)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """As `Calibrator.from_json`."""
        return cls(a=_number(data, "a"), b=_number(data, "b"), c=_number(data, "c"))

    def predict(self, log_odds: Sequence[float | None] | FloatArray) -> FloatArray:
        """As `Calibrator.predict`."""
        return _sigmoid(_beta_features(_scores(log_odds)) @ np.array([self.a, self.b]) + self.c)

    def to_json(self) -> dict[str, Any]:
        """As `Calibrator.to_json`."""
        return {"kind": self.kind, "a": self.a, "b": self.b, "c": self.c}


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorShiftCalibrator:
    """sigmoid(z - logit(train) + logit(deploy)), for a score that was trained on balanced rows.

    Assumes that scores of each class look the same in both places. It takes raw scores and gives
    probabilities, as every calibrator does, and a gate holds one calibrator: so that it cannot come
    after one that was fitted at natural prevalence, which has moved the prior already.
    """

    kind: ClassVar[str] = "prior_shift"
    train_prior: float
    """Share of acceptable rows in the verifier's training, in (0, 1)."""
    deploy_prior: float
    """Share of acceptable rows where the score is used, in (0, 1)."""

    def __post_init__(self) -> None:
        """Reject shares at which a prior is no longer one."""
        for name in ("train_prior", "deploy_prior"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(f"{name} must be in (0, 1), got {getattr(self, name)!r}")

    @classmethod
    def fit(cls, log_odds: ArrayLike, acceptable: ArrayLike) -> Self:
        """As `Calibrator.fit`, for training rows that were half acceptable."""
        _, y = _checked(log_odds, acceptable)
        return cls(train_prior=0.5, deploy_prior=float(y.mean()))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """As `Calibrator.from_json`."""
        return cls(
            train_prior=_number(data, "train_prior"), deploy_prior=_number(data, "deploy_prior")
        )

    def predict(self, log_odds: Sequence[float | None] | FloatArray) -> FloatArray:
        """As `Calibrator.predict`."""
        shift = float(special.logit(self.deploy_prior) - special.logit(self.train_prior))
        return _sigmoid(_scores(log_odds) + shift)

    def to_json(self) -> dict[str, Any]:
        """As `Calibrator.to_json`."""
        return {
            "kind": self.kind,
            "train_prior": self.train_prior,
            "deploy_prior": self.deploy_prior,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class IsotonicCalibrator:
    """Non-decreasing steps joined by lines (pool adjacent violators); wants about 500 rows.

    Kept within [1/(n+2), 1 - 1/(n+2)] of the n rows it was fitted on: no n rows show that a
    mistake is impossible, and a zero would make the log loss of the next mistake infinite.
    """

    kind: ClassVar[str] = "isotonic"
    knots: tuple[float, ...]
    """Log-odds, strictly increasing; outside them the end values hold."""
    probabilities: tuple[float, ...]
    """At the knots, non-decreasing, in [0, 1]."""

    def __post_init__(self) -> None:
        """Reject knots that do not rise or probabilities that fall."""
        if len(self.knots) != len(self.probabilities) or not self.knots:
            raise ConfigError(
                "isotonic needs as many probabilities as knots, at least one, "
                f"got {len(self.probabilities)} and {len(self.knots)}"
            )
        _check_rising("isotonic knots", self.knots, self.probabilities)

    @classmethod
    def fit(cls, log_odds: ArrayLike, acceptable: ArrayLike) -> Self:
        """As `Calibrator.fit`."""
        z, y = _checked(log_odds, acceptable)
        knots, codes, counts = np.unique(z, return_inverse=True, return_counts=True)
        share = np.bincount(codes, weights=y.astype(np.float64)) / counts
        fitted = optimize.isotonic_regression(share, weights=counts).x
        fitted = np.clip(fitted, 1.0 / (z.size + 2), 1.0 - 1.0 / (z.size + 2))
        # Only the two ends of a flat stretch are needed to draw it.
        rises = np.diff(fitted) > 0
        kept = np.append(True, rises) | np.append(rises, True)
        return cls(knots=tuple(knots[kept].tolist()), probabilities=tuple(fitted[kept].tolist()))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """As `Calibrator.from_json`."""
        return cls(knots=_numbers(data, "knots"), probabilities=_numbers(data, "probabilities"))

    def predict(self, log_odds: Sequence[float | None] | FloatArray) -> FloatArray:
        """As `Calibrator.predict`."""
        return np.asarray(np.interp(_scores(log_odds), self.knots, self.probabilities))

    def to_json(self) -> dict[str, Any]:
        """As `Calibrator.to_json`."""
        return {
            "kind": self.kind,
            "knots": list(self.knots),
            "probabilities": list(self.probabilities),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramCalibrator:
    """The acceptable share of the score's bin; bins of equal mass, 30 rows or more in each.

    Neighbours whose shares fall are pooled, so that it is non-decreasing, which histogram binning
    as published is not. Kept away from 0 and 1 as `IsotonicCalibrator` is. Proposals of one bin get
    one probability: no gate can tell them apart.

    Source: Zadrozny and Elkan (2001).
    """

    kind: ClassVar[str] = "histogram"
    edges: tuple[float, ...]
    """Log-odds between bins, strictly increasing; a score on an edge is in the upper bin."""
    probabilities: tuple[float, ...]
    """Per bin, one more than edges, non-decreasing, in [0, 1]."""

    def __post_init__(self) -> None:
        """Reject edges that do not rise or probabilities that fall."""
        if len(self.probabilities) != len(self.edges) + 1:
            raise ConfigError(
                "histogram needs one probability more than edges, "
                f"got {len(self.probabilities)} and {len(self.edges)}"
            )
        _check_rising("histogram edges", self.edges, self.probabilities)

    @classmethod
    def fit(cls, log_odds: ArrayLike, acceptable: ArrayLike) -> Self:
        """As `Calibrator.fit`."""
        z, y = _checked(log_odds, acceptable)
        num_bins = max(1, min(MAX_HISTOGRAM_BINS, z.size // MIN_ROWS_OF_A_BIN))
        rows = np.sort(z)
        upper = np.unique(rows[np.arange(1, num_bins) * z.size // num_bins])
        # Equal scores share a bin; its edge is half-way to the next score below.
        upper = upper[upper > rows[0]]
        below = rows[np.searchsorted(rows, upper) - 1]
        edges = below + (upper - below) / 2.0
        edges = np.where(edges > below, edges, upper)  # neighbours that nothing is between
        codes = np.searchsorted(edges, z, side="right")
        counts = np.bincount(codes, minlength=edges.size + 1)
        share = np.bincount(codes, weights=y.astype(np.float64), minlength=edges.size + 1) / counts
        fitted = optimize.isotonic_regression(share, weights=counts).x
        fitted = np.clip(fitted, 1.0 / (z.size + 2), 1.0 - 1.0 / (z.size + 2))
        kept = np.diff(fitted) > 0.0
        return cls(
            edges=tuple(edges[kept].tolist()),
            probabilities=tuple(fitted[np.append(True, kept)].tolist()),
        )

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """As `Calibrator.from_json`."""
        return cls(edges=_numbers(data, "edges"), probabilities=_numbers(data, "probabilities"))

    def predict(self, log_odds: Sequence[float | None] | FloatArray) -> FloatArray:
        """As `Calibrator.predict`."""
        z = _scores(log_odds)
        p = np.array(self.probabilities)[np.searchsorted(self.edges, z, side="right")]
        return np.where(np.isnan(z), np.nan, p)

    def to_json(self) -> dict[str, Any]:
        """As `Calibrator.to_json`."""
        return {
            "kind": self.kind,
            "edges": list(self.edges),
            "probabilities": list(self.probabilities),
        }


CALIBRATORS: dict[str, type[Calibrator]] = {
    "temperature": TemperatureCalibrator,
    "platt": PlattCalibrator,
    "isotonic": IsotonicCalibrator,
    "beta": BetaCalibrator,
    "histogram": HistogramCalibrator,
    "prior_shift": PriorShiftCalibrator,
}


def calibrator_from_json(data: dict[str, Any]) -> Calibrator:
    """The calibrator that `to_json` wrote.

    Raises:
        ConfigError: Unknown kind, or a field that is missing or not a number.
    """
    kind = data.get("kind")
    if kind not in CALIBRATORS:
        raise ConfigError(f"calibrator kind must be one of {sorted(CALIBRATORS)}, got {kind!r}")
    return CALIBRATORS[kind].from_json(data)


def _check_rising(name: str, places: Sequence[float], probabilities: Sequence[float]) -> None:
    """Raise ConfigError unless the log-odds rise and the probabilities do not fall in [0, 1]."""
    p = np.array((0.0, *probabilities, 1.0))
    # Written so that NaN fails too.
    if not (np.all(np.diff(places) > 0) and np.all(np.diff(p) >= 0)):
        raise ConfigError(f"{name} must rise and probabilities must not fall within [0, 1]")


def _checked(log_odds: ArrayLike, acceptable: ArrayLike) -> tuple[FloatArray, BoolArray]:
    z, y = as_scores(log_odds, "log_odds"), as_labels(acceptable)
    check_lengths(log_odds=z, acceptable=y)
    if y.all() or not y.any():
        raise ValueError(
            f"a calibrator needs acceptable and unacceptable rows, all {y.size} are "
            f"{'acceptable' if y.all() else 'unacceptable'}: collect more rows, or gate with "
            "'always' or 'never'"
        )
    return np.clip(z, -MAX_LOG_ODDS, MAX_LOG_ODDS), y


def _scores(log_odds: Sequence[float | None] | FloatArray) -> FloatArray:
    # None becomes NaN in a float array, which is what "unscored" is from here on.
    return np.clip(np.asarray(log_odds, dtype=np.float64), -MAX_LOG_ODDS, MAX_LOG_ODDS)


def _platt_targets(y: BoolArray) -> FloatArray:
    positives = int(y.sum())
    high, low = (positives + 1.0) / (positives + 2.0), 1.0 / (y.size - positives + 2.0)
    return np.where(y, high, low)


def _beta_features(z: FloatArray) -> FloatArray:
    """Features ln q and -ln(1 - q) of q = sigmoid(z), shape (n, 2); both rise with z."""
    # Written out, as logaddexp warns of the NaN of an unscored row.
    upper = np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))
    return np.stack([z - upper, upper], axis=1)


def _fit_logistic(features: FloatArray, targets: FloatArray) -> tuple[list[float], float]:
    """Weights >= 0 and intercept of the lowest cross-entropy, features of shape (n, k)."""
    # On standardised features: raw ones may have any scale, which stalls the optimiser.
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale == 0.0] = 1.0
    x = (features - centre) / scale

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        logits = x @ parameters[:-1] + parameters[-1]
        error = (special.expit(logits) - targets) / targets.size
        return _cross_entropy(logits, targets), np.append(error @ x, error.sum())

    start = np.append(np.zeros(x.shape[1]), float(special.logit(targets.mean())))
    found = optimize.minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * x.shape[1] + [(None, None)],
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000},
    )
    weights = found.x[:-1] / scale
    return [float(w) for w in weights], float(found.x[-1] - weights @ centre)


def _cross_entropy(logits: FloatArray, targets: FloatArray) -> float:
    return float(np.mean(np.logaddexp(0.0, logits) - targets * logits))


def _sigmoid(logits: FloatArray) -> FloatArray:
    return np.asarray(special.expit(logits))


def _number(data: dict[str, Any], name: str) -> float:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{data.get('kind')} calibrator: {name} must be a number, got {value!r}")
    return float(value)


def _numbers(data: dict[str, Any], name: str) -> tuple[float, ...]:
    values = data.get(name)
    if not isinstance(values, list):
        raise ConfigError(f"{data.get('kind')} calibrator: {name} must be a list, got {values!r}")
    return tuple(_number({"kind": data.get("kind"), name: value}, name) for value in values)
