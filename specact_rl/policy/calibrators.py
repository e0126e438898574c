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
        # Fitted on standardised scores: raw ones may have any scale, which stalls the optimiser.
        centre, scale = float(z.mean()), float(z.std()) or 1.0
        x = (z - centre) / scale

        def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
            logits = parameters[0] * x + parameters[1]
            error = (special.expit(logits) - targets) / x.size
            return _cross_entropy(logits, targets), np.array([error @ x, error.sum()])

        start = np.array([0.0, float(special.logit(targets.mean()))])
        found = optimize.minimize(
            loss,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, None), (None, None)],
            options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000},
        )
        slope = float(found.x[0]) / scale
        return cls(slope=slope, intercept=float(found.x[1]) - slope * centre)

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
        p = np.array((0.0, *self.probabilities, 1.0))
        if len(self.knots) != len(self.probabilities) or not self.knots:
            raise ConfigError(
                "isotonic needs as many probabilities as knots, at least one, "
                f"got {len(self.probabilities)} and {len(self.knots)}"
            )
        # Written so that NaN fails too.
        if not (np.all(np.diff(self.knots) > 0) and np.all(np.diff(p) >= 0)):
            raise ConfigError(
                "isotonic knots must rise and probabilities must not fall within [0, 1]"
            )

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


CALIBRATORS: dict[str, type[Calibrator]] = {
    "temperature": TemperatureCalibrator,
    "platt": PlattCalibrator,
    "isotonic": IsotonicCalibrator,
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


def prior_shift(log_odds: ArrayLike, train_prior: float, deploy_prior: float) -> FloatArray:
    """Log-odds z - logit(train) + logit(deploy), for a score that was trained on balanced rows.

    Assumes that scores of each class look the same in both places. Never after a calibrator that
    was fitted at natural prevalence: that one has moved the prior already.

    Args:
        log_odds: Raw scores, shape (n,); NaN stays NaN.
        train_prior: Share of acceptable rows in training, in (0, 1).
        deploy_prior: Share of acceptable rows where the score is used, in (0, 1).
    """
    for name, prior in (("train_prior", train_prior), ("deploy_prior", deploy_prior)):
        if not 0.0 < prior < 1.0:
            raise ValueError(f"{name} must be in (0, 1), got {prior!r}")
    shift = float(special.logit(deploy_prior) - special.logit(train_prior))
    return np.asarray(log_odds, dtype=np.float64) + shift


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
